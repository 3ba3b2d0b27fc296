"""Pruning and growing while training: in which rounds, of which tensors, how many weights, and which.

An exchange prunes as many weights of a tensor as it lets grow, so that no density ever changes. Its schedule is that of
RigL (Evci et al. 2020, arXiv 1911.11134) and FedTiny (Huang et al. 2023, arXiv 2212.01977).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec import Bits, Floats
from hedgerow.config import AdjustmentSettings, PruningSettings
from hedgerow.pruning.densities import scheduled_density, thinned_counts
from hedgerow.pruning.mask import Mask

__all__ = ["Adjustment", "Gradients", "adjusted", "adjustment_of", "blocks_of"]

Gradients: TypeAlias = Mapping[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]
"""Of some tensors: flat row-major positions of pruned weights, (k,), ascending; and the gradients there, (k,)."""

_NOTHING = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What one adjustment is to change.

    Attributes:
        number: how many came before it.
        block: which of the blocks it is of; 0 has the output.
        goes: how many weights of each tensor are pruned; in the mask's order, and none of them is 0.
        comes: how many grow, likewise. In an exchange as many as go. Where gradients decide both, these are the most
            (see `traded_together`).
        together: how many go besides, of all tensors together: those of the smallest scores (see `lowest_together`).
    """

    number: int
    block: int
    goes: Mapping[str, int]
    comes: Mapping[str, int]
    together: int = 0


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


def adjustment_of(
    round: int, *, settings: AdjustmentSettings, rounds: int, mask: Mask, pruning: PruningSettings | None = None
) -> Adjustment | None:
    """What round `round` is to change among the weights that `mask` keeps; None where it leaves the mask as it is.

    With `density = "cubic"` weights only go, so many that the mask has its `scheduled_density`. Else they are
    exchanged: of a tensor with n kept weights rate/2 · (1 + cos(π · round / (until + every))) · n, rounded, but never
    more than n - 1 nor than are pruned. The number of adjustments before it decides the block, not the round: those are
    multiples of `every`, which may never meet some of the blocks. Tensors that are kept whole are in none.

    With `criterion = "gradient"` so many of a tensor come at most, but never more than are pruned, and so many go at
    most, but never the last one; those that are kept whole may lose some too.

    Args:
        round: from 1.
        settings: when and how much.
        rounds: of the whole run; half of them is `until` where the settings leave it open.
        mask: what is kept now.
        pruning: the density to end with, and how layers share it; only `density = "cubic"` asks for it.

    Raises:
        PruningError: that density leaves less than one weight a layer.
    """
    every, until = settings.every, settings.last(rounds)
    if every == 0 or round % every or not 0 < round <= until:
        return None
    if settings.density == "cubic":
        assert pruning is not None, "a density that falls has to end somewhere"
        density = scheduled_density(round, settings=settings, density=pruning.density, rounds=rounds)
        goes, together = thinned_counts(mask, pruning=pruning, density=density)
        return Adjustment(round // every - 1, 0, goes=goes, comes={}, together=together) if goes or together else None
    kept, sizes = mask.layer_kept(), {name: math.prod(shape) for name, shape in mask.shapes.items()}
    number, share = round // every - 1, settings.rate / 2 * (1 + math.cos(math.pi * round / (until + every)))
    if settings.criterion == "gradient":
        may = {name: math.floor(share * kept[name] + 0.5) for name in mask}
        comes = {
            name: min(may[name], sizes[name] - kept[name]) for name in mask if may[name] and kept[name] < sizes[name]
        }
        goes = {name: min(may[name], kept[name] - 1) for name in mask if may[name] and kept[name] > 1}
        return Adjustment(number, 0, goes=goes, comes=comes) if comes and goes else None
    # A tensor that is whole has nothing to exchange, and a block of such ones would be an adjustment for nothing.
    blocks = blocks_of([name for name in mask if kept[name] < sizes[name]], settings.blocks)
    if not blocks:
        return None
    block = number % len(blocks)
    wanted = {name: math.floor(share * kept[name] + 0.5) for name in blocks[block]}
    most = {name: min(kept[name] - 1, sizes[name] - kept[name]) for name in wanted}
    counts = {name: min(count, most[name]) for name, count in wanted.items() if min(count, most[name]) > 0}
    return Adjustment(number, block, goes=counts, comes=counts) if counts else None


def adjusted(
    mask: Mask,
    *,
    scores: Floats,
    gradients: Gradients,
    goes: Mapping[str, int],
    comes: Mapping[str, int],
    among: Bits | None = None,
) -> Mask:
    """The mask after an adjustment.

    Of the kept weights those of the smallest scores go, of the pruned ones those of the largest gradients come; of
    equals those at lower positions. No weight that goes comes back at once. A gradient of 0, or none, grows nothing:
    where fewer come than were to, so many fewer go. A tensor loses at most goes - comes weights for good, so that one
    with as many to go as to come keeps its density, and never its last one. `mask` itself comes back where nothing
    changes.

    Args:
        mask: what is kept now; it is not changed.
        scores: (mask.kept,) of the kept weights, finite.
        gradients: mean gradients at pruned positions, finite.
        goes: the most weights to prune in each tensor; none in the others.
        comes: the most to grow in each tensor; none in the others.
        among: (mask.kept,) bool, the only ones that may go; all of them when None.

    >>> import torch
    >>> mask = Mask({"w": torch.tensor([True, True, False, False])})
    >>> found = {"w": (np.array([2, 3]), np.array([0.5, -2.0], dtype=np.float32))}
    >>> new = adjusted(mask, scores=np.array([3, 1.5]), gradients=found, goes={"w": 1}, comes={"w": 1})
    >>> new["w"].tolist()
    [True, False, False, True]
    """
    assert scores.shape == (mask.kept,), "the scores belong to another mask"
    assert among is None or among.shape == scores.shape, "the marks belong to another mask"
    tensors, begin, changed = dict(mask.items()), 0, False
    for name, kept in mask.layer_kept().items():
        part = slice(begin, begin + kept)
        begin += kept
        if name not in goes and name not in comes:
            continue
        bits = tensors[name].numpy().reshape(-1)
        positions, values = gradients.get(name, _NOTHING)
        assert not bits[positions].any(), f"a gradient of {name} is where it is not pruned"
        assert (np.diff(positions) > 0).all(), "positions ascend"
        positions, values = positions[values != 0], values[values != 0]
        allowed, own = np.flatnonzero(bits), scores[part]
        if among is not None:
            allowed, own = allowed[among[part]], own[among[part]]
        # What is lost for good, whatever comes.
        fewer = min(goes.get(name, 0) - comes.get(name, 0), max(0, kept - 1))
        come = min(comes.get(name, 0), positions.size, max(0, allowed.size - fewer))
        go = min(max(0, fewer + come), allowed.size)
        # The bits are the copy that `items` made.
        bits[allowed[np.argsort(own, kind="stable")[:go]]] = False
        bits[positions[np.argsort(-np.abs(values), kind="stable")[:come]]] = True
        changed |= go + come > 0
    return Mask(tensors) if changed else mask
