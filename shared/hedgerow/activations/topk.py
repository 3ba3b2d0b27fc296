"""Activations of which the largest are held: a bitmap of where they are, and their values in bfloat16.

Source: Chen et al., "DropIT: Dropping Intermediate Tensors for Memory-Efficient DNN Training", arXiv:2202.13808, and
the scaled activation pruning of FedMef, arXiv:2403.14737.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hedgerow.activations.bits import bitmap_bytes, read_bits, write_bits
from hedgerow.activations.layout import Layout, in_memory_order, layout_of, pieces
from hedgerow.activations.storage import Packed
from hedgerow.activations.values import check_floats, check_range
from hedgerow.errors import ConfigError

__all__ = ["TopK"]

_Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

_SAMPLE = 1 << 14
_SPREAD = 5.0
"""Standard deviations of a sample's quantile that the threshold is looked for in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Holds the `keep_ratio` of a batch's activations that are largest in size; the others come back as 0.

    Exactly round(keep_ratio · elements) are held, at least one; fewer only where fewer are not 0. Of equal sizes the
    first in memory are. It takes one bit an element and 2 bytes a held one, rounded to bfloat16 (8 bits of precision).

    It is no `FaithfulStorage`: what a norm or a ReLU reads again must not be stored so.

    Attributes:
        keep_ratio: in (0, 1].

    >>> x = torch.tensor([[1.0, -8.0], [0.5, 4.0]])
    >>> packed = TopK(keep_ratio=0.5).pack(x)
    >>> packed.unpack().tolist(), packed.nbytes
    ([[0.0, -8.0], [0.0, 4.0]], 5)
    """

    keep_ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise ConfigError(f"a keep ratio of {self.keep_ratio} is not above 0 and at most 1: set it to 0.3, say")

    def pack(self, x: Tensor) -> Packed:
        """Holds the largest of `x`, (N, C, …) float32, float16, bfloat16 or float64.

        Raises:
            TrainingError: a NaN, an infinity, or values beyond float32.
            ModelError: another dtype or shape.
        """
        check_floats(x, what="its largest values")
        layout = layout_of(x)
        flat = in_memory_order(x, layout=layout)
        wanted = min(max(1, round(self.keep_ratio * layout.numel)), layout.numel)
        threshold, above = _threshold(flat, wanted=wanted)
        ties = wanted - above if threshold > 0 else 0
        bitmap = torch.empty(bitmap_bytes(layout.numel), dtype=torch.uint8)
        values = torch.empty(above + ties, dtype=torch.bfloat16)
        filled = 0
        for part, sizes in _sizes(flat):
            held = sizes > threshold
            if ties:
                tied = np.flatnonzero(sizes == threshold)[:ties]
                held[tied] = True
                ties -= len(tied)
            write_bits(bitmap, held, start=part.start)
            where = torch.from_numpy(np.flatnonzero(held))
            values[filled : filled + len(where)] = flat[part].index_select(0, where)
            filled += len(where)
        assert filled == values.numel(), "another number of activations was counted than is there"
        return Packed((bitmap, values), _Restore(layout))

    def reseed(self, seed: int) -> None:
        """Nothing: it draws nothing."""


@dataclass(frozen=True, slots=True)
class _Restore:
    layout: Layout

    def __call__(self, tensors: tuple[Tensor, ...]) -> Tensor:
        bitmap, values = tensors
        out = self.layout.empty()
        flat = in_memory_order(out, layout=self.layout).zero_()
        filled = 0
        for part in pieces(self.layout.numel):
            where = torch.from_numpy(np.flatnonzero(read_bits(bitmap, part)))
            flat[part].index_copy_(0, where, values[filled : filled + len(where)].to(flat.dtype))
            filled += len(where)
        return out


def _sizes(flat: Tensor) -> Iterator[tuple[slice, _Floats]]:
    """Absolute values, piece by piece, as float32."""
    for part in pieces(flat.numel()):
        yield part, flat[part].float().abs().numpy()


def _threshold(flat: Tensor, *, wanted: int) -> tuple[float, int]:
    """The size of the `wanted`-th largest element, and how many are larger.

    A sample brackets it, so that only the few elements inside the bracket have to be sorted, and copied.
    """
    if not flat.numel():
        return 0.0, 0
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
            return lowest, above + len(candidates)
    if not 1 <= rank <= len(candidates):
        # The sample misled, which periodic data can bring about.
        candidates, above, rank = np.concatenate([sizes for _, sizes in _sizes(flat)]), 0, wanted
    threshold = float(np.partition(candidates, len(candidates) - rank)[len(candidates) - rank])
    return threshold, above + int(np.count_nonzero(candidates > threshold))


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
