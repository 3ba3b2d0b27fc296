"""Activations with many zeros: a bitmap of where the others are, and 6 bits for each of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hedgerow.activations.bits import bitmap_bytes, read_bits, write_bits
from hedgerow.activations.layout import Layout, in_memory_order, pieces
from hedgerow.activations.rounding import Noise, grid_of, parts, restored, rounded, steps_of
from hedgerow.activations.storage import Packed

__all__ = ["MOST_NONZERO", "nonzero_share", "pack_nonzero"]

MOST_NONZERO = 0.75
"""Share of elements that are not 0 up to which this pays: 1 + 0.75 · 6 = 5.5 bits an element."""

_LEVELS = 64

_Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


def nonzero_share(flat: Tensor) -> float:
    """Share of elements that are not 0."""
    return sum(int(np.count_nonzero(_flags(flat[part]))) for part in pieces(flat.numel())) / max(1, flat.numel())


def pack_nonzero(flat: Tensor, *, layout: Layout, noise: Noise) -> Packed:
    """Packs (numel,) floats in memory order.

    Raises:
        TrainingError: a NaN, an infinity, or a range beyond float32.
    """
    grid = grid_of(layout, by_channel=True)
    values = flat.view(grid)
    low, step = steps_of(values, levels=_LEVELS)
    counts = [(values[part].numel(), int(np.count_nonzero(_flags(values[part])))) for part in parts(grid)]
    bitmap = torch.empty(sum(bitmap_bytes(count) for count, _ in counts), dtype=torch.uint8)
    codes = torch.empty(sum(_code_bytes(held) for _, held in counts), dtype=torch.uint8)
    bits = filled = 0
    for part, (count, held) in zip(parts(grid), counts, strict=True):
        flags = _flags(values[part])
        write_bits(bitmap, flags, start=bits)
        levels = rounded(values, part, low=low, step=step, noise=noise).numpy()
        codes.numpy()[filled : filled + _code_bytes(held)] = _in_six_bits(levels[np.flatnonzero(flags)])
        bits, filled = bits + 8 * bitmap_bytes(count), filled + _code_bytes(held)
    return Packed((bitmap, codes, low, step), _Restore(layout))


@dataclass(frozen=True, slots=True)
class _Restore:
    layout: Layout

    def __call__(self, tensors: tuple[Tensor, ...]) -> Tensor:
        bitmap, codes, low, step = tensors
        grid = grid_of(self.layout, by_channel=True)
        out = self.layout.empty()
        values = in_memory_order(out, layout=self.layout).view(grid)
        bits = filled = 0
        for part in parts(grid):
            target = values[part]
            flags = read_bits(bitmap, slice(bits, bits + target.numel()))
            where = np.flatnonzero(flags)
            levels = np.zeros(target.numel(), dtype=np.uint8)
            size = _code_bytes(len(where))
            levels[where] = _from_six_bits(codes.numpy()[filled : filled + size], count=len(where))
            shaped = torch.from_numpy(levels).view(target.shape).float()
            target.copy_(restored(shaped, part, low=low, step=step))
            # Where a channel goes below 0, its level 0 does not stand for 0.
            target.mul_(torch.from_numpy(flags.view(np.uint8)).view(target.shape))
            bits, filled = bits + 8 * bitmap_bytes(target.numel()), filled + size
        return out


def _flags(values: Tensor) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where values are not 0; by NumPy, which does it ten times as fast as torch."""
    flags: np.ndarray[Any, np.dtype[np.bool_]] = values.float().numpy().reshape(-1) != 0
    return flags


def _code_bytes(count: int) -> int:
    """Bytes for `count` codes: three for each four."""
    return (count + 3) // 4 * 3


def _in_six_bits(levels: _Bytes) -> _Bytes:
    """Codes below 64, four quarters of them in three: the last quarter in the upper bits of the others."""
    quarters = np.zeros((4, (len(levels) + 3) // 4), dtype=np.uint8)
    quarters.reshape(-1)[: len(levels)] = levels
    for third, shift in zip(quarters, _SHIFTS, strict=False):
        third |= (quarters[3] >> shift) << _SIX
    return quarters[:3].reshape(-1)


def _from_six_bits(codes: _Bytes, *, count: int) -> _Bytes:
    thirds = codes.reshape(3, -1)
    quarters = np.zeros((4, thirds.shape[1]), dtype=np.uint8)
    np.bitwise_and(thirds, _LOWER, out=quarters[:3])
    for third, shift in zip(thirds, _SHIFTS, strict=True):
        quarters[3] |= (third >> _SIX) << shift
    return quarters.reshape(-1)[:count]


_SIX, _LOWER = np.uint8(6), np.uint8(63)
_SHIFTS = (np.uint8(0), np.uint8(2), np.uint8(4))
