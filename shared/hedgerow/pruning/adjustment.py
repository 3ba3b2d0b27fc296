"""Pruning and growing while training: in which rounds, of which tensors, how many weights, and which.

An adjustment exchanges as many weights of a tensor as it prunes, so that no density ever changes. The schedule is that
of RigL (Evci et al. 2020, arXiv 1911.11134) and FedTiny (Huang et al. 2023, arXiv 2212.01977).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec import Floats
from hedgerow.config import AdjustmentSettings
from hedgerow.pruning.mask import Mask

__all__ = ["Adjustment", "Gradients", "adjusted", "adjustment_of", "blocks_of"]

Gradients: TypeAlias = Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]
"""Of some tensors: flat row-major positions of pruned weights, (k,), ascending; and the gradients there, (k,)."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What one adjustment is to exchange.

    Attributes:
        number: how many came before it.
        block: which of the blocks it is of; 0 has the output.
        counts: how many weights of each tensor go, and come; in the mask's order, and none of them is 0.
    """

    number: int
    block: int
    counts: Mapping[str, int]


def blocks_of(names: Iterable[str], count: int) -> list[tuple[str, ...]]:
    """Neighbouring tensors in blocks of as equal numbers as can be, from the output to the input.

    Args:
        names: those of a mask, from the input to the output, as they stay within a block.
        count: of blocks, at least 1; with fewer tensors than that each is a block.

    >>> blocks_of(["a", "b", "c", "d", "e"], 2)
    [('c', 'd', 'e'), ('a', 'b')]
    """
    ordered = tuple(names)
    count = min(count, len(ordered))
    blocks, end = [], len(ordered)
    for block in range(count):
        # What is left over goes to the first ones.
        begin = end - len(ordered) // count - (block < len(ordered) % count)
        blocks.append(ordered[begin:end])
        end = begin
    return blocks


def adjustment_of(round: int, *, settings: AdjustmentSettings, rounds: int, mask: Mask) -> Adjustment | None:
    """What round `round` is to exchange of the weights that `mask` keeps; None where it leaves the mask as it is.

    Of a tensor with n kept weights it is rate/2 · (1 + cos(π · round / (until + every))) · n, rounded, but never more
    than n - 1 nor than are pruned. The number of adjustments before it decides the block, not the round: those are
    multiples of `every`, which may never meet some of the blocks. Tensors that are kept whole are in none.

    Args:
        round: from 1.
        settings: when and how much.
        rounds: of the whole run; half of them is `until` where the settings leave it open.
        mask: what is kept now.
    """
    every, until = settings.every, settings.last(rounds)
    if every == 0 or round % every or not 0 < round <= until:
        return None
    kept, sizes = mask.layer_kept(), {name: math.prod(shape) for name, shape in mask.shapes.items()}
    # A tensor that is whole has nothing to exchange, and a block of such ones would be an adjustment for nothing.
    blocks = blocks_of([name for name in mask if kept[name] < sizes[name]], settings.blocks)
    if not blocks:
        return None
    number = round // every - 1
    block = number % len(blocks)
    share = settings.rate / 2 * (1 + math.cos(math.pi * round / (until + every)))
    wanted = {name: math.floor(share * kept[name] + 0.5) for name in blocks[block]}
    most = {name: min(kept[name] - 1, sizes[name] - kept[name]) for name in wanted}
    counts = {name: min(count, most[name]) for name, count in wanted.items() if min(count, most[name]) > 0}
    return Adjustment(number, block, counts) if counts else None


def adjusted(mask: Mask, *, scores: Floats, gradients: Gradients, counts: Mapping[str, int]) -> Mask:
    """The mask after an adjustment: in each tensor as many weights grow as are pruned.

    Of the kept weights those of the smallest scores go, of the pruned ones those of the largest gradients come; of
    equals those at lower positions. No weight that goes comes back at once. A gradient of 0, or none, grows nothing:
    with fewer others than its count a tensor exchanges fewer. `mask` itself comes back where nothing changes.

    Args:
        mask: what is kept now; it is not changed.
        scores: (mask.kept,) of the kept weights, finite.
        gradients: mean gradients at pruned positions, finite.
        counts: the most weights to exchange in each tensor; the other tensors stay.
    """
    assert scores.shape == (mask.kept,), "the scores belong to another mask"
    tensors, begin, changed = dict(mask.items()), 0, False
    for name, kept in mask.layer_kept().items():
        own = scores[begin : begin + kept]
        begin += kept
        if name not in counts or name not in gradients:
            continue
        bits = tensors[name].numpy().reshape(-1)
        positions, values = gradients[name]
        assert not bits[positions].any(), f"a gradient of {name} is where it is not pruned"
        assert (np.diff(positions) > 0).all(), "positions ascend"
        positions, values = positions[values != 0], values[values != 0]
        count = min(counts[name], kept, positions.size)
        # The bits are the copy that `items` made.
        goes = np.flatnonzero(bits)[np.argsort(own, kind="stable")[:count]]
        comes = positions[np.argsort(-np.abs(values), kind="stable")[:count]]
        bits[goes], bits[comes] = False, True
        changed |= count > 0
    return Mask(tensors) if changed else mask
