"""The largest of many values: a bitmap of where they are, and what they are in bfloat16; by native code or NumPy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hedgerow.activations.bits import bitmap_bytes, read_bits, write_bits
from hedgerow.activations.layout import pieces
from hedgerow.activations.values import check_range
from hedgerow.native.library import INTEGER, POINTER, Kernel, status

__all__ = ["pack_largest", "unpack_largest"]

_Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_SAMPLE = 1 << 14
_SPREAD = 5.0
"""Standard deviations of a sample's quantile that the threshold is looked for in."""

# As in topk.cpp.
_COUNTS = 1 << 16
_LEAST, _MOST = _COUNTS, (1 << 32) - 1
"""Elements that native code is for: of fewer its counters would take more memory than what is packed."""

_find = Kernel("topk_threshold", POINTER, *[INTEGER] * 2, *[POINTER] * 3)
_pack = Kernel("topk_pack", POINTER, INTEGER, POINTER, *[INTEGER] * 2, *[POINTER] * 2)
_unpack = Kernel("topk_unpack", *[POINTER] * 2, *[INTEGER] * 2, POINTER)


def pack_largest(flat: Tensor, *, wanted: int) -> tuple[Tensor, Tensor]:
    """Where the largest in size are, and what they are.

    Args:
        flat: (numel,) floats of any dtype, contiguous.
        wanted: how many, at most numel; 0 only if that is 0. Zeros are never taken; of equal sizes the first are.

    Returns:
        (⌈numel / 8⌉,) uint8, least significant bit first, and (held,) bfloat16.

    Raises:
        TrainingError: a NaN, an infinity, or values beyond float32.
    """
    native = _is_native(flat)
    threshold, above = (_threshold_native if native else _threshold_numpy)(flat, wanted=wanted)
    ties = wanted - above if threshold > 0 else 0
    bitmap = torch.empty(bitmap_bytes(flat.numel()), dtype=torch.uint8)
    values = torch.empty(above + ties, dtype=torch.bfloat16)
    (_pack_native if native else _pack_numpy)(flat, threshold, ties, bitmap, values)
    return bitmap, values


def unpack_largest(bitmap: Tensor, values: Tensor, *, out: Tensor) -> None:
    """Writes the values where the bitmap has a 1, else 0.

    Args:
        bitmap: as of `pack_largest`.
        values: the same.
        out: (numel,) floats of any dtype, contiguous.
    """
    if _is_native(out):
        _unpack(bitmap.data_ptr(), values.data_ptr(), values.numel(), out.numel(), out.data_ptr())
        return
    out.zero_()
    filled = 0
    for part in pieces(out.numel()):
        where = torch.from_numpy(np.flatnonzero(read_bits(bitmap, part)))
        out[part].index_copy_(0, where, values[filled : filled + len(where)].to(out.dtype))
        filled += len(where)


def _is_native(flat: Tensor) -> bool:
    return status().available and flat.dtype == torch.float32 and _LEAST <= flat.numel() <= _MOST


def _threshold_native(flat: Tensor, *, wanted: int) -> tuple[Tensor, int]:
    """The size of the `wanted`-th largest element, (1,) float32, and how many are larger."""
    threshold, above = torch.empty(1), torch.empty(1, dtype=torch.int64)
    counts = torch.empty(_COUNTS, dtype=torch.int32)
    _find(flat.data_ptr(), flat.numel(), wanted, counts.data_ptr(), threshold.data_ptr(), above.data_ptr())
    check_range(threshold)
    return threshold, int(above)


def _pack_native(flat: Tensor, threshold: Tensor, ties: int, bitmap: Tensor, values: Tensor) -> None:
    held = values.numel()
    _pack(flat.data_ptr(), flat.numel(), threshold.data_ptr(), ties, held, bitmap.data_ptr(), values.data_ptr())


def _pack_numpy(flat: Tensor, threshold: Tensor, ties: int, bitmap: Tensor, values: Tensor) -> None:
    least = float(threshold)
    filled = 0
    for part, sizes in _sizes(flat):
        held = sizes > least
        if ties:
            tied = np.flatnonzero(sizes == least)[:ties]
            held[tied] = True
            ties -= len(tied)
        write_bits(bitmap, held, start=part.start)
        where = torch.from_numpy(np.flatnonzero(held))
        values[filled : filled + len(where)] = flat[part].index_select(0, where)
        filled += len(where)
    assert filled == values.numel(), "another number of activations was counted than is there"


def _sizes(flat: Tensor) -> Iterator[tuple[slice, _Floats]]:
    """Absolute values, piece by piece, as float32."""
    for part in pieces(flat.numel()):
        yield part, flat[part].float().abs().numpy()


def _threshold_numpy(flat: Tensor, *, wanted: int) -> tuple[Tensor, int]:
    """As `_threshold_native`.

    A sample brackets it, so that only the few elements inside the bracket have to be sorted, and copied.
    """
    if not flat.numel():
        return torch.zeros(1), 0
    lowest, highest = _bracket(flat, wanted=wanted)
    largest, above, inside = np.float32(0), 0, []
    for _, sizes in _sizes(flat):
        largest = np.maximum(largest, sizes.max())  # keeps a NaN, where Python's max may not
        beyond = sizes > highest
        above += int(np.count_nonzero(beyond))
        inside.append(sizes[np.flatnonzero((sizes > lowest) ^ beyond)])
    check_range(torch.tensor(largest))
    candidates = np.concatenate(inside)
    rank = wanted - above
    if rank > len(candidates):
        equal = sum(int(np.count_nonzero(sizes == lowest)) for _, sizes in _sizes(flat))
        if rank <= len(candidates) + equal:
            return torch.tensor([lowest]), above + len(candidates)
    if not 1 <= rank <= len(candidates):
        # The sample misled, which periodic data can bring about.
        candidates, above, rank = np.concatenate([sizes for _, sizes in _sizes(flat)]), 0, wanted
    threshold = float(np.partition(candidates, len(candidates) - rank)[len(candidates) - rank])
    return torch.tensor([threshold]), above + int(np.count_nonzero(candidates > threshold))


def _bracket(flat: Tensor, *, wanted: int) -> tuple[float, float]:
    """Two sizes with the `wanted`-th largest most likely between them."""
    sample = np.sort(flat[:: max(1, flat.numel() // _SAMPLE)].float().abs().numpy())
    share = 1 - wanted / flat.numel()
    spread = _SPREAD * (share * (1 - share) / len(sample)) ** 0.5 * len(sample) + 2
    low, high = round(share * len(sample) - spread), round(share * len(sample) + spread)
    return (
        float(sample[low]) if low >= 0 else 0.0,
        float(sample[high]) if high < len(sample) else float("inf"),
    )
