"""What goes and what comes where gradients decide both, across all tensors.

It is the adaptive pruning of PruneFL (Jiang et al. 2022, arXiv 1909.12326) at a density that stays. There the weights
that are kept have an importance Σ g², with g a weight's gradient averaged since the last adjustment, and a round takes
the time c + Σ t. Weights are taken by falling g² / t while Σ g² / (c + Σ t) rises, so that their number is an outcome.
Here that number is given, and those of the largest g² / t are kept, as far as one adjustment may change. Its authors'
program only lets a share of each tensor go, its smallest weights, and so does this: gradients of one layer can be so
much smaller than another's that it would lose nearly all weights at once, and with them the input. t is how often a
sample multiplies a weight, where PruneFL has measured seconds; both are the same for all weights of a tensor. g is of
one batch of each device, and a pruned weight's is 0 at devices that do not have it among their largest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hedgerow.codec import Bits, Floats
from hedgerow.pruning.adjustment import Gradients
from hedgerow.pruning.mask import Mask

__all__ = ["traded_together"]

_Found = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]


def traded_together(
    mask: Mask,
    *,
    kept: Floats,
    gradients: Gradients,
    among: Bits,
    comes: Mapping[str, int],
    operations: Mapping[str, int] | None = None,
) -> tuple[dict[str, int], dict[str, int]]:
    """How many weights of each tensor go and how many come, so that Σ g² / t of what is kept becomes the largest.

    Of all tensors together the weight of the smallest g² / t goes for the one of the largest that comes, then the next
    for the next, while what comes has the larger one. As many go as come in all, but not of each tensor. Which ones of
    a tensor follows: those of the smallest and the largest gradients (see `adjusted`).

    Args:
        mask: what is kept now; it is not changed.
        kept: (mask.kept,) mean gradients of the kept weights, finite.
        gradients: mean gradients at pruned positions, finite.
        among: (mask.kept,) bool, the only ones that may go; not all of a tensor.
        comes: the most that may come of each tensor; none of the others.
        operations: t of each tensor, at least 1; 1 of all when None.

    >>> import torch
    >>> mask = Mask({name: torch.tensor([True, True, False]) for name in "ab"})
    >>> found = {"a": (np.array([2]), np.array([2.0], dtype=np.float32))}
    >>> kept = np.array([1, 3, 0.5, 4], dtype=np.float32)
    >>> traded_together(mask, kept=kept, gradients=found, among=kept < 3, comes={"a": 1})
    ({'b': 1}, {'a': 1})
    """
    assert kept.shape == (mask.kept,), "the gradients belong to another mask"
    assert among.shape == kept.shape, "the marks belong to another mask"
    leaving: list[_Found] = []
    coming: list[_Found] = []
    begin = 0
    for number, (name, size) in enumerate(mask.layer_kept().items()):
        cost = 1 if operations is None else operations[name]
        part = slice(begin, begin + size)
        begin += size
        assert not among[part].all(), f"{name} would lose its last weight"
        leaving.append(_told(np.sort(_importance(kept[part][among[part]], cost=cost)), number))
        if name in gradients:
            found = _importance(gradients[name][1], cost=cost)
            coming.append(_told(np.sort(found[found > 0])[::-1][: comes.get(name, 0)], number))
    least, losers = _ordered(leaving, sign=1)
    most, winners = _ordered(coming, sign=-1)
    pairs = min(least.size, most.size)
    # Both are sorted, so the better ones of the pairs come first.
    better = int(np.count_nonzero(most[:pairs] > least[:pairs]))
    names = list(mask)
    return _counts(losers[:better], names), _counts(winners[:better], names)


def _importance(gradients: Floats, *, cost: int) -> npt.NDArray[np.float64]:
    assert cost >= 1, "a weight costs at least one operation"
    # In float32 the squares of small gradients would all be 0.
    return np.square(gradients.astype(np.float64)) / cost


def _told(values: npt.NDArray[np.float64], number: int) -> _Found:
    return values, np.full(values.size, number, dtype=np.int64)


def _ordered(found: list[_Found], *, sign: int) -> _Found:
    """All values, rising or with sign -1 falling, and the number of the tensor of each; of equals the first."""
    values = np.concatenate([np.zeros(0), *(values for values, _ in found)])
    numbers = np.concatenate([np.zeros(0, dtype=np.int64), *(numbers for _, numbers in found)])
    order = np.argsort(sign * values, kind="stable")
    return values[order], numbers[order]


def _counts(numbers: npt.NDArray[np.int64], names: list[str]) -> dict[str, int]:
    counts = np.bincount(numbers, minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}
