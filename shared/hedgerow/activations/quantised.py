"""Activations held in 8 or about 4 bits, rounded at random so that gradients stay unbiased.

Source: Chen et al., "ActNN: Reducing Training Memory Footprint via 2-Bit Activation Compressed Training",
arXiv:2104.14129, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from hedgerow.activations.layout import Layout, in_memory_order, layout_of
from hedgerow.activations.nonzero import MOST_NONZERO, nonzero_share, pack_nonzero
from hedgerow.activations.rounding import Grid, Noise, grid_of, parts, restored, rounded, steps_of
from hedgerow.activations.storage import Packed
from hedgerow.activations.values import check_floats

__all__ = ["Bits", "Quantised"]

Bits: TypeAlias = Literal[8, 4]


class Quantised:
    """Holds an activation in 8 or about 4 bits an element.

    An element between two levels becomes one of them, at random, with the element as its mean. Constant channels come
    back exactly, and so do zeros where nothing in their range is below 0. The draws depend on `seed` and on the order
    of calls only.

    - 8 bits: 256 levels a channel; 6 bytes more a channel.
    - 4 bits, where over a quarter of the elements are 0, as after a ReLU: a bitmap, and 64 levels a channel for the
      others. 4 bits an element where half are 0; 5.5 at most.
    - 4 bits elsewhere: 16 levels for each 32 elements that follow each other in memory, and 6 bytes more for each, so
      5.5 bits an element. (One range a channel would save 1.5 of them, and make the error of gradients 6 times as big.)

    Batches too small for a range a channel have one for each 32 elements, too.

    >>> x = torch.tensor([[0.0, 7.0], [255.0, 7.0]])
    >>> packed = Quantised(bits=8, seed=1).pack(x)
    >>> packed.nbytes, bool((packed.unpack() - x).abs().max() <= 1.01)
    (10, True)
    """

    def __init__(self, *, bits: Bits, seed: int) -> None:
        self.bits: Bits = bits
        self._noise = Noise(seed=seed)

    def reseed(self, seed: int) -> None:
        """Draws from now on as one that was made with this seed."""
        self._noise = Noise(seed=seed)

    @property
    def faithful(self) -> Literal[True]:
        """True: no element is off by more than one step."""
        return True

    def pack(self, x: Tensor) -> Packed:
        """Rounds `x`, (N, C, …) float32, float16, bfloat16 or float64.

        Raises:
            TrainingError: a NaN, an infinity, or a range beyond float32.
            ModelError: another dtype or shape.
        """
        check_floats(x, what=f"int{self.bits}")
        layout = layout_of(x)
        flat = in_memory_order(x, layout=layout)
        if self.bits == 4 and nonzero_share(flat) <= MOST_NONZERO:
            return pack_nonzero(flat, layout=layout, noise=self._noise)
        grid = grid_of(layout, by_channel=self.bits == 8)
        values = flat.view(grid)
        low, step = steps_of(values, levels=2**self.bits)
        codes = torch.empty(_size(grid, bits=self.bits), dtype=torch.uint8)
        start = 0
        for part in parts(grid):
            levels = rounded(values, part, low=low, step=step, noise=self._noise)
            target = codes[start : start + _bytes(levels.numel(), bits=self.bits)]
            _write(target, levels, bits=self.bits)
            start += target.numel()
        return Packed((codes, low, step), _Restore(layout, grid, self.bits))


@dataclass(frozen=True, slots=True)
class _Restore:
    layout: Layout
    grid: Grid
    bits: Bits

    def __call__(self, tensors: tuple[Tensor, ...]) -> Tensor:
        codes, low, step = tensors
        out = self.layout.empty()
        values = in_memory_order(out, layout=self.layout).view(self.grid)
        start = 0
        for part in parts(self.grid):
            target = values[part]
            source = codes[start : start + _bytes(target.numel(), bits=self.bits)]
            levels = _read(source, count=target.numel(), bits=self.bits).view(target.shape)
            target.copy_(restored(levels, part, low=low, step=step))
            start += source.numel()
        return out


def _size(grid: Grid, *, bits: Bits) -> int:
    counts = [(rows.stop - rows.start) * (channels.stop - channels.start) * grid[2] for rows, channels in parts(grid)]
    return sum(_bytes(count, bits=bits) for count in counts)


def _bytes(count: int, *, bits: Bits) -> int:
    return count if bits == 8 else (count + 1) // 2


def _write(target: Tensor, levels: Tensor, *, bits: Bits) -> None:
    if bits == 8:
        target.copy_(levels)
        return
    # The first half in the low nibbles and the second half in the high ones: no strided access.
    target.copy_(levels[: target.numel()])
    second = levels[target.numel() :]
    target[: second.numel()].bitwise_or_(second.bitwise_left_shift_(4))


def _read(source: Tensor, *, count: int, bits: Bits) -> Tensor:
    if bits == 8:
        return source.float()
    levels = torch.empty(count)
    levels[: source.numel()] = source & 15
    levels[source.numel() :] = source[: count - source.numel()] >> 4
    return levels
