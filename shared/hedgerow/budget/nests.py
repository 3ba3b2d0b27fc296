"""Masks inside masks: the smaller parts of a network that devices with less memory train.

A device is told its own mask and never hears of the whole one, so only the coordinator makes nests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hedgerow.codec import Bits, Floats
from hedgerow.pruning import Mask
from hedgerow.seeds import numpy_generator

__all__ = ["nested", "nests_of", "within"]

_LOYALTY = 1.1
"""A weight that is in goes only for one whose score is so many times its own: each change has to be told and learnt."""


def nested(mask: Mask, scores: Floats, *, fraction: float, keep: Mask | None = None, seed: int = 0) -> Mask:
    """The part of a mask that has the highest scores: in each tensor `fraction` of its kept weights, one at least.

    Halves are rounded up. Of equal scores a drawn order decides, the same in each call with one seed: positions would
    leave whole outputs of a tensor without a weight, and the scores of signs are all equal at first.

    Args:
        mask: what there is; it is not changed.
        scores: (mask.kept,) finite and at least 0, higher means keep.
        fraction: in (0, 1].
        keep: the part that there was. What of it is still in `mask` stays unless it is beaten by more than a tenth, and
            where scores are equal.
        seed: of the drawn order.

    >>> import torch
    >>> mask = Mask({"w": torch.tensor([True, False, True, True, True])})
    >>> nested(mask, np.array([1, 4, 2, 3], dtype=np.float32), fraction=0.5)["w"].tolist()
    [False, False, True, False, True]
    """
    held = np.zeros(mask.kept, dtype=np.bool_) if keep is None else keep.flat()[mask.flat()]
    counts = {name: _share(kept, fraction) for name, kept in mask.layer_kept().items()}
    outer = np.ones(mask.kept, dtype=np.bool_)
    return within(mask, _highest(mask, scores, counts=counts, outer=outer, held=held, seed=seed))


def nests_of(
    mask: Mask, scores: Floats, *, fractions: Sequence[float], keep: Sequence[Bits] = (), seed: int = 0
) -> tuple[Bits, ...]:
    """The parts of a mask at each level but the first, each inside the one before; see `nested`.

    Args:
        mask: what level 0 keeps; it is not changed.
        scores: (mask.kept,) finite and at least 0, higher means keep.
        fractions: of each level how many of the weights of `mask` it keeps in each tensor; 1, and then falling.
        keep: what this gave before, for the weights that `mask` keeps now; nothing at first.
        seed: of the order among equals.

    Returns:
        for each level from 1 on (mask.kept,) bool, its weights among those of `mask`.
    """
    assert not keep or len(keep) == len(fractions) - 1, "levels stay what they are"
    kept, nests = mask.layer_kept(), []
    outer = np.ones(mask.kept, dtype=np.bool_)
    for level, fraction in enumerate(fractions[1:]):
        held = keep[level] if keep else np.zeros(mask.kept, dtype=np.bool_)
        counts = {name: _share(count, fraction) for name, count in kept.items()}
        outer = _highest(mask, scores, counts=counts, outer=outer, held=held, seed=seed)
        nests.append(outer)
    return tuple(nests)


def within(mask: Mask, places: Bits) -> Mask:
    """The mask that keeps those weights of another one whose places among its kept ones, (mask.kept,), are True."""
    assert places.shape == (mask.kept,), "the places belong to another mask"
    bits = mask.flat()
    bits[np.flatnonzero(bits)] = places
    return Mask.unpack(np.packbits(bits).tobytes(), mask.shapes)


def _share(kept: int, fraction: float) -> int:
    return min(kept, max(1, math.floor(fraction * kept + 0.5)))


def _highest(mask: Mask, scores: Floats, *, counts: Mapping[str, int], outer: Bits, held: Bits, seed: int) -> Bits:
    """The `counts` best places of each tensor inside `outer`, (mask.kept,) bool."""
    assert scores.shape == (mask.kept,), "the scores belong to another mask"
    wanted = np.where(held, np.float64(_LOYALTY), 1.0) * scores
    result, begin = np.zeros(mask.kept, dtype=np.bool_), 0
    for name, index in mask.kept_indices().items():
        drawn = numpy_generator(seed, "nest", name).permutation(math.prod(mask.shapes[name]))[index.numpy()]
        places = begin + np.flatnonzero(outer[begin : begin + index.numel()])
        order = np.lexsort((drawn[places - begin], ~held[places], -wanted[places]))
        result[places[order[: counts[name]]]] = True
        begin += index.numel()
    return result
