"""Updates: what a tensor's values changed by, in a domain where an error of the same size does the same harm.

That is the difference for most tensors, and the difference of logarithms for variances: those of one tensor span
decades, so an error that does not matter to the largest would drown the smallest, or make it negative.
"""

from __future__ import annotations

import numpy as np

from hedgerow.codec.symbols import Bits, Floats
from hedgerow.errors import PayloadError

__all__ = ["applied", "update_of"]

_FLOOR = 1e-12
"""Variances below it are taken for it: the logarithm of 0 is not finite, and norm layers add far more than this."""
_STEEPEST = 120.0
"""The logarithm of the largest float32 over `_FLOOR` is 116.4; `exp` of this is finite in float64."""
_LARGEST = float(np.finfo(np.float32).max)


def update_of(new: Floats, old: Floats, *, relative: Bits | None = None) -> Floats:
    """The update from `old` to `new`.

    Args:
        new: (n,) float32, finite.
        old: (n,) float32, finite.
        relative: (n,) True where the update is one of logarithms; nowhere when None.

    Returns:
        (n,) float32; a difference beyond float32 becomes the largest.

    >>> update_of(np.array([3, 4], np.float32), np.array([1, 4], np.float32), relative=np.array([False, True])).tolist()
    [2.0, 0.0]
    """
    after, before = new.astype(np.float64), old.astype(np.float64)
    update = after - before
    if relative is not None:
        update[relative] = np.log(_floored(after[relative])) - np.log(_floored(before[relative]))
    return np.clip(update, -_LARGEST, _LARGEST).astype(np.float32)


def applied(old: Floats, update: Floats, *, relative: Bits | None = None) -> Floats:
    """What `old` becomes by `update`.

    Args:
        old: (n,) float32, finite.
        update: (n,) float32, finite, perhaps from the network.
        relative: (n,) True where the update is one of logarithms; nowhere when None.

    Returns:
        (n,) float32, finite; where relative, at least 0, and `old` itself where the update is 0. Two machines may
        differ in the last bit of these, as their `exp` does.

    Raises:
        PayloadError: a sum is beyond float32.
    """
    before = old.astype(np.float64)
    values = before + update.astype(np.float64)
    if relative is not None:
        steps = np.clip(update[relative].astype(np.float64), -_STEEPEST, _STEEPEST)
        values[relative] = np.where(
            steps == 0, before[relative], np.minimum(_floored(before[relative]) * np.exp(steps), _LARGEST)
        )
    if values.size and float(np.abs(values).max()) > _LARGEST:
        raise PayloadError("an update leads beyond the largest float32", kind="bounds")
    return values.astype(np.float32)


def _floored(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.maximum(values, _FLOOR)
