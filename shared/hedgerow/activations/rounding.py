"""Random rounding to evenly spaced levels between the least and the largest value of each channel.

Activations are looked at as a grid (outer, channels, inner) in memory order, a "channel" being all that shares a range.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from hedgerow.activations.layout import PIECE, Layout
from hedgerow.activations.values import check_range

__all__ = ["Grid", "Noise", "Part", "grid_of", "parts", "restored", "rounded", "steps_of"]

Grid: TypeAlias = tuple[int, int, int]
"""(outer, channels, inner)."""

Part: TypeAlias = tuple[slice, slice]
"""Some of `outer` and some of `channels`."""

_GROUP = 32
_SMALLEST_GROUP = 16

_TINY = 1e-36
"""Steps below it are taken for 0: one over them would come near the end of float32."""

_MARGIN = 2.0**-10
"""Part of a step left free at the top, so that the largest value plus noise cannot reach beyond the last level."""


class Noise:
    """Noise for rounding, from its own generator."""

    def __init__(self, *, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int) -> Tensor:
        """(count,) float32, whole numbers from -2^15 to 2^15 - 1; a quarter of the work of that many random floats."""
        words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=self._generator)
        return words.view(torch.int16)[:count].to(torch.float32)


def grid_of(layout: Layout, *, by_channel: bool) -> Grid:
    """One range a channel if `by_channel` and the batch is large enough, else one for each group of elements."""
    outer, channels, inner = layout.around_channels()
    if by_channel and outer * inner >= 2 * _GROUP:
        return outer, channels, inner
    for group in range(_GROUP, _SMALLEST_GROUP - 1, -1):
        if layout.numel % group == 0:
            return 1, layout.numel // group, group
    return 1, 1, layout.numel


def steps_of(values: Tensor, *, levels: int) -> tuple[Tensor, Tensor]:
    """Least values (channels,) float32, and steps (channels,) bfloat16 that reach the largest ones; 0 for constants.

    Args:
        values: (outer, channels, inner) floats.
        levels: how many there are, 2 at least.

    Raises:
        TrainingError: a NaN, an infinity, or a range beyond float32.
    """
    if not values.numel():
        return torch.zeros(values.shape[1]), torch.zeros(values.shape[1], dtype=torch.bfloat16)
    # Least values keep all their bits: a channel may lie far from 0 and be narrow.
    low = values.amin((0, 2)).float()
    span = values.amax((0, 2)).float() - low
    check_range(span)
    # Rounded up, or the largest values would lie above the last level.
    step = (span / (levels - 1 - _MARGIN) * (1 + 2.0**-7)).bfloat16()
    check_range(step)
    return low, step.masked_fill_(step < _TINY, 0)


def parts(grid: Grid) -> Iterator[Part]:
    """Consecutive pieces of a grid that fit in a core's cache and lie in one stretch of memory each."""
    outer, channels, inner = grid
    rows = max(1, PIECE // max(1, channels * inner))
    columns = channels if outer > 1 else max(1, PIECE // max(1, inner))
    for row in range(0, outer, rows):
        for column in range(0, channels, columns):
            yield slice(row, min(row + rows, outer)), slice(column, min(column + columns, channels))


def rounded(values: Tensor, part: Part, *, low: Tensor, step: Tensor, noise: Noise) -> Tensor:
    """Levels (…,) uint8 of one part of a grid; the mean of many draws is the value, to 2^-16 of a step."""
    channel = part[1]
    steps = step[channel, None].float()
    per_step = torch.where(steps > 0, 1 / steps, 0)
    levels = values[part].float() - low[channel, None]
    flat = levels.mul_(per_step).add_(0.5 + 2.0**-17).view(-1)
    flat.add_(noise.draw(flat.numel()), alpha=2.0**-16)
    return flat.to(torch.int32).to(torch.uint8)  # faster by way of int32


def restored(levels: Tensor, part: Part, *, low: Tensor, step: Tensor) -> Tensor:
    """Values (outer, channels, inner) float32 of these levels, which are float32 and are overwritten."""
    channel = part[1]
    return levels.mul_(step[channel, None].float()).add_(low[channel, None])
