"""Compact index of a layer's kept weights: two bytes a kept weight, and one pointer an output."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["KeptIndex", "kept_index"]

_NARROW = 1 << 16


@dataclass(frozen=True, slots=True)
class KeptIndex:
    """Where the kept weights of a convolution (O, I/groups, kh, kw) or a linear layer (O, I) are, in row-major order.

    The transposed order, which an input gradient needs, is made from it on each call: that takes a few cycles a kept
    weight, and storing it would take four bytes more.

    Attributes:
        shape: of the dense weight.
        rows: (O + 1,) int32; the kept weights of output o are rows[o] … rows[o + 1] - 1.
        codes: (k,) uint16, or int32 where I/groups·kh·kw > 65536; position within the row, ascending in each row.
    """

    shape: tuple[int, ...]
    rows: Tensor
    codes: Tensor

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return self.codes.numel()

    @property
    def row_size(self) -> int:
        """Weights of one output, kept or not."""
        return math.prod(self.shape[1:])

    @property
    def density(self) -> float:
        """Kept fraction; 0 for a weight without elements."""
        return self.kept / max(1, self.shape[0] * self.row_size)

    @property
    def nbytes(self) -> int:
        """Bytes of the index."""
        return self.rows.nbytes + self.codes.nbytes

    def flat(self) -> Tensor:
        """(k,) flat row-major positions in the dense weight: int32, or int64 for weights of 2³¹ elements and more."""
        size = self.shape[0] * self.row_size
        dtype = np.dtype(np.int32 if size < 1 << 31 else np.int64)
        starts = np.arange(self.shape[0], dtype=dtype) * np.array(self.row_size, dtype=dtype)
        positions = np.repeat(starts, np.diff(self.rows.numpy()))
        positions += self.codes.numpy()
        return torch.from_numpy(positions)


def kept_index(flat: Tensor, shape: tuple[int, ...] | torch.Size) -> KeptIndex:
    """The compact index of kept positions.

    Args:
        flat: (k,) integers, ascending flat row-major positions of the kept weights.
        shape: of the dense weight; the first dimension is the outputs.

    >>> index = kept_index(torch.tensor([1, 3, 5]), (2, 3))
    >>> index.rows.tolist(), index.codes.tolist(), index.nbytes
    ([0, 1, 3], [1, 0, 2], 18)
    """
    outputs, row_size = shape[0], math.prod(shape[1:])
    positions = flat.detach().numpy()
    assert positions.ndim == 1, "positions are one vector"
    assert positions.size < 1 << 31, "pointers are int32"
    assert positions.size == 0 or (positions[0] >= 0 and positions[-1] < outputs * row_size), "a position is outside"
    bounds = np.arange(outputs + 1, dtype=np.int64) * row_size
    rows = np.searchsorted(positions, bounds.astype(positions.dtype, copy=False)).astype(np.int32)
    starts = np.repeat(bounds[:-1].astype(positions.dtype, copy=False), np.diff(rows))
    codes = (positions - starts).astype(np.uint16 if row_size <= _NARROW else np.int32)
    assert _ascending(codes, rows), "positions ascend"
    return KeptIndex(tuple(shape), torch.from_numpy(rows), torch.from_numpy(codes))


def _ascending(codes: np.ndarray[tuple[int, ...], np.dtype[np.integer]], rows: np.ndarray) -> bool:
    rises = codes[1:] > codes[:-1]
    inner = rows[1:-1]
    rises[inner[(inner > 0) & (inner < codes.size)] - 1] = True
    return bool(rises.all())
