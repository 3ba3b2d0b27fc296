"""Layers that hold their kept positions only.

`SparseConv2d` and `SparseLinear` train one float a kept position: the weight itself, or the score of a sign. A dense
weight exists only inside one layer's forward and again inside its backward; nothing of full size outlives the layer.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SignEstimator", "SparseConv2d", "SparseLayer", "SparseLinear", "SparseOther"]

SignEstimator: TypeAlias = Literal["identity", "tanh"]

_Pair: TypeAlias = tuple[int, ...]


class SparseLayer(nn.Module):
    """What both layers share: the kept positions of one weight, and the value at each of them.

    Attributes:
        kept: (k,) float32 parameter; weights, or the scores of signs where there is a `magnitude`.
        index: (k,) int32, flat row-major positions of the kept weights.
        magnitude: None, or the frozen size of the signed weights: () or (k,) float32.
    """

    index: Tensor
    magnitude: Tensor | None

    def __init__(self, *, shape: torch.Size, index: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("magnitude", None, persistent=False)
        self.kept = nn.Parameter(torch.zeros(index.numel()))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.estimator: SignEstimator = "identity"

    def signed(self, magnitude: Tensor, *, estimator: SignEstimator) -> None:
        """Makes `kept` the scores of signs: the weight is magnitude · sign(score), with sign(0) = +1."""
        self.register_buffer("magnitude", magnitude, persistent=False)
        self.estimator = estimator

    def values(self) -> Tensor:
        """(k,) the kept weights, differentiable with respect to `kept`."""
        if self.magnitude is None:
            return self.kept
        return _apply(_SignThrough, self.kept, self.magnitude, self.estimator)

    def extra_repr(self) -> str:
        """Shape and density, for printing a model."""
        return f"{tuple(self.shape)}, kept={self.index.numel()} of {self.shape.numel()}"


class SparseConv2d(SparseLayer):
    """A 2-D convolution of (N, C, H, W) inputs whose weight is zero outside `index`."""

    def __init__(self, *, dense: nn.Conv2d, index: Tensor) -> None:
        super().__init__(shape=dense.weight.shape, index=index, bias=dense.bias)
        self.stride, self.dilation, self.groups = dense.stride, dense.dilation, dense.groups
        self.padding = cast(_Pair, dense.padding)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, out, H', W')."""
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        return _apply(_SparseConv2d, x, self.values(), self.bias, self.index, self.shape, geometry)


class SparseLinear(SparseLayer):
    """An affine map of (…, in) inputs whose weight is zero outside `index`."""

    def __init__(self, *, dense: nn.Linear, index: Tensor) -> None:
        super().__init__(shape=dense.weight.shape, index=index, bias=dense.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return _apply(_SparseLinear, x, self.values(), self.bias, self.index, self.shape)


class SparseOther(SparseLayer):
    """Any other layer with a `weight`, called with the scattered weight, which autograd keeps until the backward."""

    def __init__(self, *, dense: nn.Module, index: Tensor) -> None:
        weight = cast(Tensor, dense.weight)
        super().__init__(shape=weight.shape, index=index, bias=None)
        # The layer's own bias stays its parameter; its weight must not be a second one.
        del dense.weight
        dense.register_buffer("weight", torch.empty(weight.shape, device="meta"), persistent=False)
        self.layer = dense

    def forward(self, x: Tensor) -> Tensor:
        """As the wrapped layer's."""
        weight = _scatter(self.values(), self.index, self.shape)
        return cast(Tensor, torch.func.functional_call(self.layer, {"weight": weight}, (x,)))


def _apply(function: type[torch.autograd.Function], *args: object) -> Tensor:
    return cast(Tensor, function.apply(*args))  # type: ignore[no-untyped-call]  # torch does not type it


def _scatter(values: Tensor, index: Tensor, shape: torch.Size) -> Tensor:
    # index_add_ takes int32 positions; index_put_ and scatter_ would need 8 bytes a position.
    return values.new_zeros(shape.numel()).index_add_(0, index, values).view(shape)


def _gather(dense: Tensor, index: Tensor) -> Tensor:
    return dense.flatten().index_select(0, index)


class _SignThrough(torch.autograd.Function):
    """magnitude · sign(score) with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, magnitude: Tensor, estimator: SignEstimator) -> Tensor:
        ctx.save_for_backward(score if estimator == "tanh" else None, magnitude)
        return torch.where(score >= 0, magnitude, -magnitude)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        score, magnitude = ctx.saved_tensors
        grad = grads[0] * magnitude
        if score is not None:
            grad = grad * (1 - torch.tanh(score) ** 2)
        return grad, None, None


class _SparseConv2d(torch.autograd.Function):
    """Convolution that scatters the kept weights where it needs them and frees them at once."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(
        ctx: Any,
        x: Tensor,
        values: Tensor,
        bias: Tensor | None,
        index: Tensor,
        shape: torch.Size,
        geometry: tuple[_Pair, _Pair, _Pair, int],
    ) -> Tensor:
        ctx.save_for_backward(x, values, index)
        ctx.shape, ctx.geometry = shape, geometry
        ctx.bias_size = None if bias is None else [bias.numel()]
        return F.conv2d(x, _scatter(values, index, shape), bias, *geometry)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]  # torch does not type it
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, values, index = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.bias_size is not None]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grads[0],
            x,
            _scatter(values, index, ctx.shape),
            ctx.bias_size,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
            wanted,
        )
        grad_values = _gather(grad_weight, index) if wanted[1] else None
        return grad_x, grad_values, grad_bias, None, None, None


class _SparseLinear(torch.autograd.Function):
    """Affine map that scatters the kept weights where it needs them and frees them at once."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(ctx: Any, x: Tensor, values: Tensor, bias: Tensor | None, index: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(x, values, index)
        ctx.shape, ctx.has_bias = shape, bias is not None
        return F.linear(x, _scatter(values, index, shape), bias)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]  # torch does not type it
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, values, index = ctx.saved_tensors
        (grad,) = grads
        grad_x = grad @ _scatter(values, index, ctx.shape) if ctx.needs_input_grad[0] else None
        outputs, inputs = ctx.shape
        rows = grad.reshape(-1, outputs)
        grad_values = _gather(rows.T @ x.reshape(-1, inputs), index) if ctx.needs_input_grad[1] else None
        return grad_x, grad_values, rows.sum(0) if ctx.has_bias else None, None, None
