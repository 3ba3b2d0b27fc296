"""Pooling on planes, and ReLU as part of a network that stores its activations in some way."""

from __future__ import annotations

from torch import Tensor, nn

from hedgerow.activations import Activations, bit_relu
from hedgerow.sparse import functions
from hedgerow.sparse.channel_kernels import Window
from hedgerow.sparse.layout import is_batch_last, logical, planes

__all__ = ["BatchLastAveragePool", "BatchLastMaxPool2d", "StoredReLU", "pools_everything", "window_of"]


class BatchLastMaxPool2d(nn.MaxPool2d):
    """`nn.MaxPool2d` that uses the kernel where its input is batch last, and then keeps one byte an output."""

    native: bool = False

    def pooled(self, x: Tensor) -> Tensor:
        """Planes to planes."""
        return functions.max_pool(x, window_of(self))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H', W')."""
        return logical(self.pooled(planes(x))) if self.native and _suits(x) else super().forward(x)


class BatchLastAveragePool(nn.AdaptiveAvgPool2d):
    """`nn.AdaptiveAvgPool2d(1)` that uses the kernel where its input is batch last."""

    native: bool = False

    def pooled(self, x: Tensor) -> Tensor:
        """Planes to planes with H' = W' = 1."""
        return functions.average_pool(x)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, 1, 1)."""
        return logical(self.pooled(planes(x))) if self.native and _suits(x) else super().forward(x)


class StoredReLU(nn.ReLU):
    """`nn.ReLU` that stores a bit an element where activations are not stored exactly."""

    activations: Activations = Activations()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return super().forward(x) if self.activations == Activations() else bit_relu(x)


def window_of(pool: nn.MaxPool2d) -> Window:
    """The window of a pooling; single numbers in it stand for both directions."""
    stride = pool.kernel_size if pool.stride is None else pool.stride
    return Window(
        kernel=_pair(pool.kernel_size),
        stride=_pair(stride),
        padding=_pair(pool.padding),
        dilation=_pair(pool.dilation),
        ceil_mode=pool.ceil_mode,
    )


def pools_everything(pool: nn.AdaptiveAvgPool2d) -> bool:
    """Whether one value a channel is left."""
    size = pool.output_size
    return size == 1 or (isinstance(size, tuple) and tuple(size) == (1, 1))


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _suits(x: Tensor) -> bool:
    return x.dim() == 4 and is_batch_last(x)
