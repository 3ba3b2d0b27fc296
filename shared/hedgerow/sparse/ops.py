"""The kernels as operators of torch, in its namespace `hedgerow`; each also works on the meta device.

Activations are planes, (C, H, W, N) contiguous float32. Operators take tensors and numbers only; the functions here
take what the kernels take, and call the operators, or the kernels themselves for ordinary tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from hedgerow.sparse import channel_kernels, kernels
from hedgerow.sparse.channel_kernels import Window
from hedgerow.sparse.index import KeptIndex
from hedgerow.sparse.kernels import Geometry, Prologue

__all__ = [
    "average_pool",
    "average_pool_backward",
    "channel_backward",
    "channel_backward_",
    "channel_statistics",
    "conv",
    "conv_input",
    "conv_weight",
    "max_pool",
    "max_pool_backward",
    "scale_shift",
]

_INDEX = "Tensor rows, Tensor codes, int[] shape, int[] geometry"
_BEFORE = "Tensor? scale, Tensor? shift, bool relu"
_NORM = "Tensor z, Tensor mean, Tensor inverse_std, Tensor scale, Tensor shift, bool relu, bool constant"
_SCHEMAS = (
    f"sparse_conv(Tensor x, Tensor values, {_INDEX}, Tensor? bias, {_BEFORE}) -> Tensor",
    f"sparse_conv_input(Tensor grad, Tensor values, {_INDEX}, int height, int width) -> Tensor",
    f"sparse_conv_weight(Tensor x, Tensor grad, {_INDEX}, {_BEFORE}) -> Tensor",
    "channel_statistics(Tensor z) -> (Tensor, Tensor)",
    "scale_shift(Tensor z, Tensor scale, Tensor shift, Tensor? residual, bool relu) -> Tensor",
    f"channel_backward(Tensor grad, {_NORM}, Tensor? output, bool residual) -> Tensor[]",
    f"channel_backward_(Tensor(a!) grad, {_NORM}) -> (Tensor, Tensor)",
    "max_pool(Tensor x, int[] window) -> (Tensor, Tensor)",
    "max_pool_backward(Tensor grad, Tensor winners, int[] window, int height, int width) -> Tensor",
    "average_pool(Tensor x) -> Tensor",
    "average_pool_backward(Tensor grad, int height, int width) -> Tensor",
)


def conv(
    x: Tensor, values: Tensor, index: KeptIndex, geometry: Geometry, *, bias: Tensor | None, prologue: Prologue | None
) -> Tensor:
    """`kernels.conv_forward`."""
    if _plain(x):
        return kernels.conv_forward(x, values, index, geometry, bias=bias, prologue=prologue)
    operator = torch.ops.hedgerow.sparse_conv.default
    return cast(Tensor, operator(x, values, *_flat(index, geometry), bias, *_before(prologue)))


def conv_input(grad: Tensor, values: Tensor, index: KeptIndex, geometry: Geometry, size: tuple[int, int]) -> Tensor:
    """`kernels.conv_backward_input`."""
    if _plain(grad):
        return kernels.conv_backward_input(grad, values, index, geometry, size)
    operator = torch.ops.hedgerow.sparse_conv_input.default
    return cast(Tensor, operator(grad, values, *_flat(index, geometry), *size))


def conv_weight(x: Tensor, grad: Tensor, index: KeptIndex, geometry: Geometry, *, prologue: Prologue | None) -> Tensor:
    """`kernels.conv_backward_weight`."""
    if _plain(x):
        return kernels.conv_backward_weight(x, grad, index, geometry, prologue=prologue)
    operator = torch.ops.hedgerow.sparse_conv_weight.default
    return cast(Tensor, operator(x, grad, *_flat(index, geometry), *_before(prologue)))


def channel_statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    """`channel_kernels.channel_statistics`."""
    if _plain(z):
        return channel_kernels.channel_statistics(z)
    return cast(tuple[Tensor, Tensor], torch.ops.hedgerow.channel_statistics.default(z))


def scale_shift(z: Tensor, scale: Tensor, shift: Tensor, *, residual: Tensor | None, relu: bool) -> Tensor:
    """`channel_kernels.scale_shift`."""
    if _plain(z):
        return channel_kernels.scale_shift(z, scale=scale, shift=shift, residual=residual, relu=relu)
    return cast(Tensor, torch.ops.hedgerow.scale_shift.default(z, scale, shift, residual, relu))


def channel_backward(
    grad: Tensor, *norm: Tensor, relu: bool, constant: bool, output: Tensor | None, residual: bool
) -> list[Tensor]:
    """`channel_kernels.channel_backward`: gradients of z, weight and bias, and of the residual if it is wanted.

    Args:
        grad: planes.
        norm: z, mean, inverse standard deviation, scale and shift.
        relu: as the kernel's.
        constant: as the kernel's.
        output: as the kernel's.
        residual: whether the residual's is wanted.
    """
    if _plain(grad):
        z, mean, inverse_std, scale, shift = norm
        return _backward(grad, z, mean, inverse_std, scale, shift, relu, constant, output, residual)
    operator = torch.ops.hedgerow.channel_backward.default
    return cast(list[Tensor], operator(grad, *norm, relu, constant, output, residual))


def channel_backward_(grad: Tensor, *norm: Tensor, relu: bool, constant: bool) -> tuple[Tensor, Tensor]:
    """The same without a residual, which turns `grad` into the gradient of z, and gives those of weight and bias."""
    if _plain(grad):
        return _backward_in_place(grad, *norm, relu, constant)
    return cast(tuple[Tensor, Tensor], torch.ops.hedgerow.channel_backward_.default(grad, *norm, relu, constant))


def max_pool(x: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """`channel_kernels.max_pool`."""
    return cast(tuple[Tensor, Tensor], torch.ops.hedgerow.max_pool.default(x, _window(window)))


def max_pool_backward(grad: Tensor, winners: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """`channel_kernels.max_pool_backward`."""
    return cast(Tensor, torch.ops.hedgerow.max_pool_backward.default(grad, winners, _window(window), *size))


def average_pool(x: Tensor) -> Tensor:
    """`channel_kernels.average_pool`."""
    return cast(Tensor, torch.ops.hedgerow.average_pool.default(x))


def average_pool_backward(grad: Tensor, size: tuple[int, int]) -> Tensor:
    """`channel_kernels.average_pool_backward`."""
    return cast(Tensor, torch.ops.hedgerow.average_pool_backward.default(grad, *size))


def _plain(x: Tensor) -> bool:
    # Where nobody traces, torch's dispatcher is only time: a whole percent of a step of small layers.
    return type(x) is Tensor and x.device.type == "cpu"


def _flat(index: KeptIndex, geometry: Geometry) -> tuple[Tensor, Tensor, list[int], list[int]]:
    numbers = [*geometry.kernel, *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups]
    return index.rows, index.codes, list(index.shape), numbers


def _before(prologue: Prologue | None) -> tuple[Tensor | None, Tensor | None, bool]:
    return (None, None, False) if prologue is None else (prologue.scale, prologue.shift, prologue.relu)


def _window(window: Window) -> list[int]:
    return [*window.kernel, *window.stride, *window.padding, *window.dilation, int(window.ceil_mode)]


def _index_of(rows: Tensor, codes: Tensor, shape: list[int]) -> KeptIndex:
    return KeptIndex(tuple(shape), rows, codes)


def _geometry_of(numbers: list[int]) -> Geometry:
    a, b, c, d, e, f, g, h, groups = numbers
    return Geometry((a, b), (c, d), (e, f), (g, h), groups)


def _window_of(numbers: list[int]) -> Window:
    a, b, c, d, e, f, g, h, ceil_mode = numbers
    return Window((a, b), (c, d), (e, f), (g, h), bool(ceil_mode))


def _prologue_of(scale: Tensor | None, shift: Tensor | None, relu: bool) -> Prologue | None:
    return None if scale is None or shift is None else Prologue(scale, shift, relu)


def _conv(
    x: Tensor,
    values: Tensor,
    rows: Tensor,
    codes: Tensor,
    shape: list[int],
    geometry: list[int],
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> Tensor:
    index, before = _index_of(rows, codes, shape), _prologue_of(scale, shift, relu)
    return kernels.conv_forward(x, values, index, _geometry_of(geometry), bias=bias, prologue=before)


def _conv_meta(x: Tensor, values: Tensor, rows: Tensor, codes: Tensor, *rest: list[int]) -> Tensor:
    shape, geometry = rest[:2]
    size = kernels.output_size((x.shape[1], x.shape[2]), _geometry_of(geometry))
    return x.new_empty(shape[0], *size, x.shape[3])


def _conv_input(
    grad: Tensor,
    values: Tensor,
    rows: Tensor,
    codes: Tensor,
    shape: list[int],
    geometry: list[int],
    height: int,
    width: int,
) -> Tensor:
    index = _index_of(rows, codes, shape)
    return kernels.conv_backward_input(grad, values, index, _geometry_of(geometry), (height, width))


def _conv_input_meta(grad: Tensor, values: Tensor, rows: Tensor, codes: Tensor, *rest: Any) -> Tensor:
    shape, geometry, height, width = rest
    return grad.new_empty(shape[1] * geometry[-1], height, width, grad.shape[3])


def _conv_weight(
    x: Tensor,
    grad: Tensor,
    rows: Tensor,
    codes: Tensor,
    shape: list[int],
    geometry: list[int],
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
) -> Tensor:
    index, before = _index_of(rows, codes, shape), _prologue_of(scale, shift, relu)
    return kernels.conv_backward_weight(x, grad, index, _geometry_of(geometry), prologue=before)


def _scale_shift(z: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    return channel_kernels.scale_shift(z, scale=scale, shift=shift, residual=residual, relu=relu)


def _backward(
    grad: Tensor,
    z: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    scale: Tensor,
    shift: Tensor,
    relu: bool,
    constant: bool,
    output: Tensor | None = None,
    residual: bool = False,
    *,
    out: Tensor | None = None,
) -> list[Tensor]:
    found = channel_kernels.channel_backward(
        grad,
        z=z,
        mean=mean,
        inverse_std=inverse_std,
        scale=scale,
        shift=shift,
        relu=relu,
        output=output,
        wants_residual=residual,
        constant=constant,
        out=out,
    )
    # An operator may not return its argument, which is the residual's gradient where there is no ReLU.
    gated = [found.residual] if found.residual is not None and found.residual is not grad else []
    return [found.z, found.weight, found.bias, *gated]


def _backward_meta(grad: Tensor, z: Tensor, mean: Tensor, *rest: Any) -> list[Tensor]:
    relu, residual = rest[3], rest[6]
    small = [torch.empty_like(mean), torch.empty_like(mean)]
    return [torch.empty_like(grad), *small, *([torch.empty_like(grad)] if relu and residual else [])]


def _backward_in_place(grad: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    _, weight, bias = _backward(grad, *rest, out=grad)
    return weight, bias


def _max_pool_meta(x: Tensor, window: list[int]) -> tuple[Tensor, Tensor]:
    y = x.new_empty(x.shape[0], *_window_of(window).outputs((x.shape[1], x.shape[2])), x.shape[3])
    return y, torch.empty_like(y, dtype=torch.uint8)


_IMPLEMENTED: dict[str, tuple[Callable[..., object], Callable[..., object]]] = {
    "sparse_conv": (_conv, _conv_meta),
    "sparse_conv_input": (_conv_input, _conv_input_meta),
    "sparse_conv_weight": (_conv_weight, lambda x, grad, rows, codes, *rest: x.new_empty(codes.numel())),
    "channel_statistics": (
        channel_kernels.channel_statistics,
        lambda z: (z.new_empty(z.shape[0]), z.new_empty(z.shape[0])),
    ),
    "scale_shift": (_scale_shift, lambda z, *rest: torch.empty_like(z)),
    "channel_backward": (_backward, _backward_meta),
    "channel_backward_": (
        _backward_in_place,
        lambda grad, z, mean, *rest: (torch.empty_like(mean), torch.empty_like(mean)),
    ),
    "max_pool": (lambda x, window: channel_kernels.max_pool(x, window=_window_of(window)), _max_pool_meta),
    "max_pool_backward": (
        lambda grad, winners, window, height, width: channel_kernels.max_pool_backward(
            grad, winners=winners, window=_window_of(window), size=(height, width)
        ),
        lambda grad, winners, window, height, width: grad.new_empty(grad.shape[0], height, width, grad.shape[3]),
    ),
    "average_pool": (
        lambda x: channel_kernels.average_pool(x),
        lambda x: x.new_empty(x.shape[0], x.shape[3]),
    ),
    "average_pool_backward": (
        lambda grad, height, width: channel_kernels.average_pool_backward(grad, size=(height, width)),
        lambda grad, height, width: grad.new_empty(grad.shape[0], height, width, grad.shape[1]),
    ),
}


def _registered() -> Any:
    # Whoever imports this file a second time under another name, as test runners do, finds them there already.
    if hasattr(torch.ops.hedgerow, "sparse_conv"):
        return None
    library: Any = torch.library.Library("hedgerow", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch does not type it
    for schema in _SCHEMAS:
        library.define(schema)
    for name, (kernel, shape) in _IMPLEMENTED.items():
        library.impl(name, kernel, "CPU")
        library.impl(name, shape, "Meta")
    return library


# The operators live as long as this does.
_LIBRARY = _registered()
