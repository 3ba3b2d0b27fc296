"""Activations of which the largest are held: a bitmap of where they are, and their values in bfloat16.

Source: Chen et al., "DropIT: Dropping Intermediate Tensors for Memory-Efficient DNN Training", arXiv:2202.13808, and
the scaled activation pruning of FedMef, arXiv:2403.14737.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hedgerow.activations.largest import pack_largest, unpack_largest
from hedgerow.activations.layout import Layout, in_memory_order, layout_of
from hedgerow.activations.storage import Packed
from hedgerow.activations.values import check_floats
from hedgerow.errors import ConfigError

__all__ = ["TopK"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Holds the `keep_ratio` of a batch's activations that are largest in size; the others come back as 0.

    Exactly round(keep_ratio · elements) are held, at least one; fewer only where fewer are not 0. Of equal sizes the
    first in memory are. It takes one bit an element and 2 bytes a held one, rounded to bfloat16 (8 bits of precision).

    It is no `FaithfulStorage`: what a norm or a ReLU reads again must not be stored so.

    Attributes:
        keep_ratio: in (0, 1].

    >>> import torch
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
        wanted = min(max(1, round(self.keep_ratio * layout.numel)), layout.numel)
        return Packed(pack_largest(in_memory_order(x, layout=layout), wanted=wanted), _Restore(layout))

    def reseed(self, seed: int) -> None:
        """Nothing: it draws nothing."""


@dataclass(frozen=True, slots=True)
class _Restore:
    layout: Layout

    def __call__(self, tensors: tuple[Tensor, ...]) -> Tensor:
        bitmap, values = tensors
        out = self.layout.empty()
        unpack_largest(bitmap, values, out=in_memory_order(out, layout=self.layout))
        return out
