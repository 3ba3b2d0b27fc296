"""Native kernels of norms and pooling, on planes: contiguous float32 tensors (C, H, W, N), or (C, N), batch last.

They need `hedgerow.native.library.status().available`. Results are the same bits for any number of torch's threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hedgerow.native.library import INTEGER, POINTER, THREADS, Kernel

__all__ = [
    "ChannelGradients",
    "Window",
    "average_pool",
    "average_pool_backward",
    "channel_backward",
    "channel_statistics",
    "max_pool",
    "max_pool_backward",
    "scale_shift",
]

_FLAG = THREADS
_statistics = Kernel("channel_statistics", *[POINTER] * 3, *[INTEGER] * 2, THREADS)
_scale_shift = Kernel("scale_shift", *[POINTER] * 5, _FLAG, *[INTEGER] * 2, THREADS)
_backward = Kernel("channel_backward", *[POINTER] * 12, *[_FLAG] * 2, *[INTEGER] * 2, THREADS)
_max_pool = Kernel("max_pool", *[POINTER] * 4, INTEGER, THREADS)
_max_pool_backward = Kernel("max_pool_backward", *[POINTER] * 4, INTEGER, THREADS)
_average_pool = Kernel("average_pool", *[POINTER] * 2, *[INTEGER] * 3, THREADS)


def channel_statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, both (C,) float32.

    Blocks are centred before they are squared, and merged in double precision as in Chan, Golub and LeVeque, "Updating
    formulae and a pairwise algorithm for computing sample variances", 1979; so a mean far from 0 costs no digits.

    Args:
        z: planes (C, …) with at least one value a channel.
    """
    channels, size = _planes(z)
    mean, variance = z.new_empty(channels), z.new_empty(channels)
    _statistics(z.data_ptr(), mean.data_ptr(), variance.data_ptr(), channels, size, torch.get_num_threads())
    return mean, variance


def scale_shift(
    z: Tensor,
    *,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None = None,
    relu: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """scale · z + shift, then + residual, then ReLU (of which NaN is NaN), in one pass.

    Args:
        z: planes (C, …).
        scale: (C,) float32.
        shift: (C,) float32.
        residual: planes like `z`, to be added.
        relu: whether to rectify.
        out: where to write instead of a new tensor; may be `z` or `residual`.
    """
    channels, size = _planes(z, residual, out)
    _vectors(channels, scale, shift)
    y = torch.empty_like(z) if out is None else out
    pointers = [_pointer(t) for t in (z, scale, shift, residual, y)]
    _scale_shift(*pointers, relu, channels, size, torch.get_num_threads())
    return y


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGradients:
    """Gradients of a loss with respect to what went into a norm.

    Attributes:
        z: planes, of its input.
        weight: (C,) of its factor.
        bias: (C,) of its summand.
        residual: planes, of what was added behind it; None unless it was wanted.
    """

    z: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor | None


def channel_backward(
    grad: Tensor,
    *,
    z: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    scale: Tensor,
    shift: Tensor,
    relu: bool = False,
    output: Tensor | None = None,
    residual: Tensor | None = None,
    wants_residual: bool = False,
    constant: bool = False,
    out: Tensor | None = None,
    residual_out: Tensor | None = None,
) -> ChannelGradients:
    """Backward of `scale_shift` with scale = weight · inverse_std and shift = bias − mean · scale.

    The sign of the ReLU's input is that of `output`; without it, it is computed again, from `z` and `residual`.

    Args:
        grad: planes, the gradient of the output.
        z: planes, the norm's input.
        mean: (C,) float32.
        inverse_std: (C,) float32, 1 / √(variance + eps).
        scale: (C,) float32, the very values of the forward.
        shift: (C,) float32, the very values of the forward.
        relu: whether there was a ReLU.
        output: planes, what the forward returned; used for its sign only.
        residual: planes, what the forward added; used for the sign only.
        wants_residual: whether the gradient of the residual is wanted. Without a ReLU it is `grad` itself.
        constant: whether `mean` and `inverse_std` are constants (evaluation) and not statistics of `z` (training).
        out: where to write the gradient of `z` instead of a new tensor; may be `grad`, unless the residual's is wanted.
        residual_out: where to write the gradient of the residual instead of a new tensor; may be `grad`.
    """
    channels, size = _planes(grad, z, output, residual, out, residual_out)
    _vectors(channels, mean, inverse_std, scale, shift)
    assert not (wants_residual and out is grad), "the residual's gradient would be overwritten"
    gz = torch.empty_like(grad) if out is None else out
    gated = None
    if wants_residual and relu:
        gated = torch.empty_like(grad) if residual_out is None else residual_out
    weight, bias = grad.new_empty(channels), grad.new_empty(channels)
    inputs = (grad, z, output, residual, mean, inverse_std, scale, shift)
    pointers = [_pointer(t) for t in (*inputs, gated, gz, weight, bias)]
    _backward(*pointers, relu, constant, channels, size, torch.get_num_threads())
    if wants_residual and not relu:
        gated = grad
    return ChannelGradients(z=gz, weight=weight, bias=bias, residual=gated)


@dataclass(frozen=True, slots=True)
class Window:
    """The window of a max-pooling, in the order (height, width).

    Attributes:
        kernel: size of it.
        stride: from one to the next.
        padding: rows and columns of −∞ around the input, at most half of `kernel`.
        dilation: from one of its places to the next.
        ceil_mode: whether a last window that is not wholly inside counts.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    @property
    def fits(self) -> bool:
        """Whether a place in it can be said in one byte, which `max_pool` needs."""
        return self.kernel[0] * self.kernel[1] <= 256

    def outputs(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what the pooling returns for an input of `size`; the rule is torch's.

        >>> Window((2, 2), (2, 2)).outputs((5, 6))
        (2, 3)
        """
        height, width = (self._outputs(length, axis) for axis, length in enumerate(size))
        return height, width

    def _outputs(self, length: int, axis: int) -> int:
        stride, padding = self.stride[axis], self.padding[axis]
        room = length + 2 * padding - self.dilation[axis] * (self.kernel[axis] - 1) - 1
        count = (room + (stride - 1 if self.ceil_mode else 0)) // stride + 1
        # A window that would start behind the input and its left padding does not count.
        return count - 1 if self.ceil_mode and (count - 1) * stride >= length + padding else count


def max_pool(x: Tensor, *, window: Window) -> tuple[Tensor, Tensor]:
    """Largest values, and which places of the window they came from: planes (C, H', W', N), float32 and uint8.

    Equal values and NaN as in torch: the first of equal ones wins, and NaN over all others.

    Args:
        x: planes (C, H, W, N).
        window: has to fit, and to give at least one output.
    """
    assert window.fits, "such a window has too many places for one byte"
    channels, height, width, _ = x.shape
    _planes(x)
    outputs = window.outputs((height, width))
    y = x.new_empty(channels, *outputs, x.shape[3])
    winners = torch.empty(y.shape, dtype=torch.uint8)
    shape = _pool_shape(y.shape, (height, width), window)
    _max_pool(x.data_ptr(), y.data_ptr(), winners.data_ptr(), shape.data_ptr(), channels, torch.get_num_threads())
    return y, winners


def max_pool_backward(grad: Tensor, *, winners: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """Gradient of the input of `max_pool`: planes (C, H, W, N).

    Args:
        grad: planes (C, H', W', N), the gradient of the values.
        winners: as `max_pool` gave them.
        window: the same as there.
        size: (H, W) of the input.
    """
    channels = grad.shape[0]
    _planes(grad)
    assert winners.shape == grad.shape, f"{tuple(winners.shape)} winners, {tuple(grad.shape)} gradients"
    assert winners.dtype == torch.uint8, winners.dtype
    assert winners.is_contiguous(), "winners are not contiguous"
    gx = grad.new_empty(channels, *size, grad.shape[3])
    shape = _pool_shape(grad.shape, size, window)
    _max_pool_backward(
        grad.data_ptr(), winners.data_ptr(), gx.data_ptr(), shape.data_ptr(), channels, torch.get_num_threads()
    )
    return gx


def average_pool(x: Tensor) -> Tensor:
    """Mean over all places: planes (C, H, W, N) → (C, N)."""
    _planes(x)
    channels, height, width, samples = x.shape
    y = x.new_empty(channels, samples)
    _average_pool(x.data_ptr(), y.data_ptr(), channels, height * width, samples, torch.get_num_threads())
    return y


def average_pool_backward(grad: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Gradient of the input of `average_pool`: planes (C, N) → (C, H, W, N), with (H, W) = `size`."""
    channels, samples = grad.shape
    share = grad / (size[0] * size[1])
    return share[:, None, None, :].expand(channels, *size, samples).contiguous()


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _planes(first: Tensor, *others: Tensor | None) -> tuple[int, int]:
    """Channels, and values of each; kernels check nothing, and a wrong pointer would crash the process."""
    for tensor in (first, *others):
        if tensor is not None:
            assert tensor.shape == first.shape, f"planes of {tuple(tensor.shape)} and of {tuple(first.shape)}"
            assert tensor.dtype == torch.float32, tensor.dtype
            assert tensor.device.type == "cpu", tensor.device
            assert tensor.is_contiguous(), f"planes are not contiguous: strides {tensor.stride()}"
    channels = first.shape[0]
    return channels, first.numel() // channels if channels else 0


def _vectors(channels: int, *vectors: Tensor) -> None:
    for vector in vectors:
        assert vector.shape == (channels,), f"{tuple(vector.shape)} for {channels} channels"
        assert vector.dtype == torch.float32, vector.dtype
        assert vector.is_contiguous(), "vectors have to be contiguous"


def _pool_shape(outputs: torch.Size, size: tuple[int, int], window: Window) -> Tensor:
    numbers = (outputs[3], *size, *outputs[1:3], *window.kernel, *window.stride, *window.padding, *window.dilation)
    return torch.tensor(numbers, dtype=torch.int64)
