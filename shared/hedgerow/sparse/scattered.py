"""The dense path: kept weights are scattered into a dense one where it is needed, which is freed at once."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from hedgerow.activations import Exact, Storage
from hedgerow.activations.layout import layout_of
from hedgerow.native.library import status
from hedgerow.sparse import kernels
from hedgerow.sparse.index import KeptIndex

__all__ = ["ConvSettings", "Positions", "scatter", "scattered_conv", "scattered_linear"]

ConvSettings: TypeAlias = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""Stride, padding, dilation and groups."""

Positions: TypeAlias = KeptIndex | Tensor | None
"""The kept positions of a weight: compact where there are native kernels to read them, else (k,) int32 and flat; None
for all of them."""


def scattered_conv(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    index: Positions,
    shape: torch.Size,
    settings: ConvSettings,
    *,
    storage: Storage | None = None,
) -> Tensor:
    """(N, C, H, W) → (N, out, H', W') by torch's convolution with the weight that `scatter` gives.

    Args:
        x: the input, which `storage` stores for the backward; exactly when None.
        values: (k,) kept weights.
        bias: (out,) or None.
        index: where they are.
        shape: of the dense weight.
        settings: of the convolution.
        storage: see `x`.
    """
    return _apply(_ScatteredConv, x, values, bias, index, shape, settings, _storage(x, storage))


def scattered_linear(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    index: Positions,
    shape: torch.Size,
    *,
    storage: Storage | None = None,
) -> Tensor:
    """(…, in) → (…, out) with the weight that `scatter` gives; arguments as for `scattered_conv`."""
    return _apply(_ScatteredLinear, x, values, bias, index, shape, _storage(x, storage))


def scatter(values: Tensor, index: Positions, shape: torch.Size) -> Tensor:
    """A dense weight of `shape` that is 0 outside of the kept positions; differentiable where these are flat."""
    if index is None:
        return values.view(shape)
    if isinstance(index, KeptIndex):
        if status().available:
            return kernels.scatter(values.detach().float(), index).to(values.dtype)
        index = index.flat()
    # index_add_ takes int32 positions; index_put_ and scatter_ would need 8 bytes a position.
    return values.new_zeros(shape.numel()).index_add_(0, index, values).view(shape)


def _storage(x: Tensor, storage: Storage | None) -> Storage | None:
    # What nobody wants the gradient of is the batch, which the caller holds anyway.
    packs = storage is not None and x.requires_grad and torch.is_grad_enabled() and x.dim() >= 2
    return storage if packs else None


def _pack(ctx: Any, x: Tensor, values: Tensor, storage: Storage | None) -> None:
    ctx.restore, ctx.layout = None, layout_of(x)
    if not ctx.needs_input_grad[1]:
        # Only the gradient of the weight reads the input.
        ctx.save_for_backward(values)
        return
    packed = Exact().pack(x) if storage is None else storage.pack(x)
    ctx.restore = packed.restore
    ctx.save_for_backward(values, *packed.tensors)


def _unpack(ctx: Any) -> tuple[Tensor, Tensor]:
    """The input, or where nothing reads it one of its layout with any values; and the kept weights."""
    values, *packed = ctx.saved_tensors
    # Its layout decides how torch computes the gradient of the input.
    x = ctx.layout.empty() if ctx.restore is None else ctx.restore(tuple(packed))
    return x, values


def _gather(dense: Tensor, index: Positions) -> Tensor:
    if index is None:
        return dense.reshape(-1)
    if isinstance(index, KeptIndex):
        if status().available:
            return kernels.gather(dense.float().contiguous(), index).to(dense.dtype)
        index = index.flat()
    return dense.flatten().index_select(0, index)


def _apply(function: type[torch.autograd.Function], *args: object) -> Tensor:
    return cast(Tensor, function.apply(*args))  # type: ignore[no-untyped-call]  # torch does not type it


class _ScatteredConv(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        index: Tensor,
        shape: torch.Size,
        settings: ConvSettings,
        storage: Storage | None,
    ) -> Tensor:
        _pack(ctx, x, values, storage)
        ctx.index, ctx.shape, ctx.settings = index, shape, settings
        ctx.bias_size = None if bias is None else [bias.numel()]
        return F.conv2d(x, scatter(values, index, shape), bias, *settings)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]  # torch does not type it
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, values = _unpack(ctx)
        stride, padding, dilation, groups = ctx.settings
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.bias_size is not None]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grads[0],
            x,
            scatter(values, ctx.index, ctx.shape),
            ctx.bias_size,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
            wanted,
        )
        grad_values = _gather(grad_weight, ctx.index).view(values.shape) if wanted[1] else None
        return grad_x, grad_values, grad_bias, None, None, None, None


class _ScatteredLinear(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        index: Positions,
        shape: torch.Size,
        storage: Storage | None,
    ) -> Tensor:
        _pack(ctx, x, values, storage)
        ctx.index, ctx.shape, ctx.has_bias = index, shape, bias is not None
        return F.linear(x, scatter(values, index, shape), bias)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]  # torch does not type it
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, values = _unpack(ctx)
        (grad,) = grads
        grad_x = grad @ scatter(values, ctx.index, ctx.shape) if ctx.needs_input_grad[0] else None
        outputs, inputs = ctx.shape
        rows = grad.reshape(-1, outputs)
        grad_values = None
        if ctx.needs_input_grad[1]:
            grad_values = _gather(rows.T @ x.reshape(-1, inputs), ctx.index).view(values.shape)
        return grad_x, grad_values, rows.sum(0) if ctx.has_bias else None, None, None, None
