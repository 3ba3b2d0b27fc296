"""Activations in the order in which memory holds them, whatever their strides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Layout", "in_memory_order", "layout_of", "pieces"]

PIECE = 1 << 16
"""Elements worked on at a time: with their temporaries they stay in a core's second-level cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Shape, strides and dtype of an activation, and the order of its dimensions in memory, outermost first."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def empty(self) -> Tensor:
        """A tensor with this layout and any values."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype)

    def around_channels(self) -> tuple[int, int, int]:
        """(outer, channels, inner): how many elements lie around dimension 1 in memory."""
        at = self.order.index(1)
        sizes = [self.shape[dimension] for dimension in self.order]
        return math.prod(sizes[:at]), sizes[at], math.prod(sizes[at + 1 :])


def layout_of(x: Tensor) -> Layout:
    """The layout of `x`; where its strides leave gaps or overlap, the dense one with the same order."""
    strides = x.stride()
    order = tuple(sorted(range(x.dim()), key=lambda dimension: (x.shape[dimension] > 1, -strides[dimension])))
    if not x.permute(order).is_contiguous():
        dense, step = [0] * x.dim(), 1
        for dimension in reversed(order):
            dense[dimension] = step
            step *= max(x.shape[dimension], 1)
        strides = tuple(dense)
    return Layout(shape=tuple(x.shape), strides=strides, order=order, dtype=x.dtype)


def in_memory_order(x: Tensor, *, layout: Layout) -> Tensor:
    """(numel,) elements of `x` as `layout` orders them: a view of `x` where it has this layout, else a copy."""
    return x.detach().permute(layout.order).contiguous().view(-1)


def pieces(total: int, *, size: int = PIECE) -> Iterator[slice]:
    """Consecutive slices of `size` that cover `total`, the last one shorter.

    >>> [(piece.start, piece.stop) for piece in pieces(5, size=2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
