"""Autograd over the operators: convolution with what may precede it, norm with what may follow it, pooling.

All tensors are planes, (C, H, W, N) contiguous float32. Of a convolution that a norm and ReLU precede, only the norm's
input is held for the backward: the rest is computed again, and as part of the kernel that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hedgerow.activations import Activations, Exact, Packed, Storage
from hedgerow.activations.bits import mask_gradient, pack_signs
from hedgerow.activations.layout import layout_of
from hedgerow.sparse import ops
from hedgerow.sparse.channel_kernels import Window
from hedgerow.sparse.index import KeptIndex
from hedgerow.sparse.kernels import Geometry, Prologue
from hedgerow.sparse.values import SignEstimator, score_gradient, signed_values

__all__ = ["Convolution", "Normalisation", "Statistics", "Watch", "average_pool", "convolve", "max_pool", "normalise"]

_EXACTLY = Activations()


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a norm subtracts and multiplies by.

    Attributes:
        mean: (C,) float32.
        inverse_std: (C,) float32.
        of_batch: they were computed from this very input, so that its gradient flows through them.
    """

    mean: Tensor
    inverse_std: Tensor
    of_batch: bool

    def affine(self, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scale and shift, (C,) each, that do what the norm does."""
        scale = self.inverse_std if weight is None else weight * self.inverse_std
        shift = self.mean * scale
        return scale, shift.neg_() if bias is None else torch.sub(bias, shift)


class Watch(Protocol):
    """Who is shown what the gradient of a layer's weight is made of, in place of the gradient of the kept ones."""

    def stores(self, z: Tensor) -> bool:
        """Whether the layer's input is stored as in training, and is not the batch, which the caller holds anyway."""
        ...

    def ran(self, output: Tensor, *, again: bool) -> None:
        """The layer has run forward: its output as planes, and whether it will run `again` in the backward."""
        ...

    def saw(self, z: Tensor, grad: Tensor, prologue: Prologue | None) -> None:
        """In the backward: its input as stored, what it sees of that, and the gradient of its output, all as planes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """A sparse convolution and what precedes it.

    Attributes:
        index: the kept positions.
        geometry: of the convolution.
        magnitude: None, or the frozen size of signed weights.
        estimator: straight-through estimator of the signs.
        statistics: of the norm before it, None without one.
        relu: whether ReLU is right before it.
        activations: how its input is stored for the backward.
        saving: whether there will be one.
        watch: sees its input and gradient, and then there is no gradient of the kept values.
    """

    index: KeptIndex
    geometry: Geometry
    magnitude: Tensor | None = None
    estimator: SignEstimator = "identity"
    statistics: Statistics | None = None
    relu: bool = False
    activations: Activations = _EXACTLY
    saving: bool = True
    watch: Watch | None = None

    @property
    def storage(self) -> Storage:
        """Of its input, which a norm or ReLU before it reads again as well."""
        alone = self.statistics is None and not self.relu
        return self.activations.inputs if alone else self.activations.values


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalisation:
    """A norm and what follows it.

    Attributes:
        statistics: its mean and deviation.
        relu: whether ReLU is right after it, or after the residual that is added.
        activations: how its input is stored for the backward.
        saving: whether there will be one.
    """

    statistics: Statistics
    relu: bool
    activations: Activations = _EXACTLY
    saving: bool = True

    @property
    def storage(self) -> Storage:
        """Of its input."""
        return self.activations.values


def convolve(
    z: Tensor, kept: Tensor, bias: Tensor | None, task: Convolution, *, norm: tuple[Tensor | None, Tensor | None]
) -> Tensor:
    """(C, H, W, N) → (out, H', W', N): conv(relu?(norm?(z))).

    Args:
        z: what the norm sees, or ReLU, or the convolution itself.
        kept: the trained values, any shape with k elements.
        bias: (out,) or None.
        task: the rest.
        norm: its weight and bias, each (C,) or None.
    """
    return cast(Tensor, _Convolve.apply(z, *norm, kept, bias, task))  # type: ignore[no-untyped-call]  # torch does not type it


def normalise(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, task: Normalisation
) -> Tensor:
    """(C, H, W, N) → the same: relu?(norm(z) + residual?)."""
    return cast(Tensor, _Normalise.apply(z, weight, bias, residual, task))  # type: ignore[no-untyped-call]  # torch does not type it


def max_pool(x: Tensor, window: Window) -> Tensor:
    """(C, H, W, N) → (C, H', W', N); one byte an output is held for the backward."""
    return cast(Tensor, _MaxPool.apply(x, window))  # type: ignore[no-untyped-call]  # torch does not type it


def average_pool(x: Tensor) -> Tensor:
    """(C, H, W, N) → (C, 1, 1, N); nothing is held for the backward."""
    return cast(Tensor, _AveragePool.apply(x))  # type: ignore[no-untyped-call]  # torch does not type it


def _pack(storage: Storage, x: Tensor) -> Packed:
    # Storages see channels where everybody has them: (N, C, H, W).
    return storage.pack(x if isinstance(storage, Exact) else x.permute(3, 0, 1, 2))


def _unpack(storage: Storage, restore: Callable[[tuple[Tensor, ...]], Tensor], tensors: list[Tensor]) -> Tensor:
    found = restore(tuple(tensors))
    return found if isinstance(storage, Exact) else found.permute(1, 2, 3, 0).contiguous()


class _Convolve(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(
        ctx: Any,
        z: Tensor,
        weight: Tensor | None,
        shift: Tensor | None,
        kept: Tensor,
        bias: Tensor | None,
        task: Convolution,
    ) -> Tensor:
        before = _prologue(z, weight, shift, task)
        values = signed_values(kept.detach().view(-1), task.magnitude)
        if not task.saving:
            return ops.conv(z, values, task.index, task.geometry, bias=bias, prologue=before)
        packed = _pack(task.storage, z)
        ctx.task, ctx.restore, ctx.size = task, packed.restore, (z.shape[1], z.shape[2])
        ctx.before, ctx.affine = before, (weight is not None, shift is not None)
        signs = None
        if before is not None and task.relu and not isinstance(task.storage, Exact):
            seen = ops.scale_shift(z, before.scale, before.shift, residual=None, relu=False)
            signs = pack_signs(seen, layout=layout_of(seen))
            del seen
        ctx.save_for_backward(kept, signs, *packed.tensors)
        return ops.conv(z, values, task.index, task.geometry, bias=bias, prologue=before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        task: Convolution = ctx.task
        kept, signs, *packed = ctx.saved_tensors
        grad, z = grads[0].contiguous(), _unpack(task.storage, ctx.restore, packed)
        needs: tuple[bool, ...] = ctx.needs_input_grad
        del packed, grads
        grad_z = grad_weight = grad_shift = grad_kept = None
        if task.watch is not None:
            task.watch.saw(z, grad, ctx.before)
        elif needs[3]:
            found = ops.conv_weight(z, grad, task.index, task.geometry, prologue=ctx.before)
            grad_kept = score_gradient(found, kept.view(-1), task.magnitude, task.estimator).view(kept.shape)
        grad_bias = _sums(grad) if needs[4] else None
        relu = task.relu and signs is None
        if task.statistics is None and not relu:
            # What was unpacked for the weights' gradient is not needed beside the input's.
            del z
        if any(needs[:3]):
            values = signed_values(kept.view(-1), task.magnitude)
            grad_z = ops.conv_input(grad, values, task.index, task.geometry, ctx.size)
            del grad
            if signs is not None:
                grad_z = mask_gradient(signs, grad_z, layout=layout_of(grad_z), out=grad_z)
            if task.statistics is not None:
                norm = (z, task.statistics.mean, task.statistics.inverse_std, ctx.before.scale, ctx.before.shift)
                constant = not task.statistics.of_batch
                found_weight, found_shift = ops.channel_backward_(grad_z, *norm, relu=relu, constant=constant)
                grad_weight = found_weight if ctx.affine[0] else None
                grad_shift = found_shift if ctx.affine[1] else None
            elif relu:
                torch.ops.aten.threshold_backward.grad_input(grad_z, z, 0, grad_input=grad_z)
        return grad_z, grad_weight, grad_shift, grad_kept, grad_bias, None


def _sums(grad: Tensor) -> Tensor:
    # Unlike torch's sum, the same bits for any number of threads.
    count = grad.numel() // max(1, grad.shape[0])
    return ops.channel_statistics(grad)[0].mul_(count) if count else grad.new_zeros(grad.shape[0])


def _prologue(z: Tensor, weight: Tensor | None, shift: Tensor | None, task: Convolution) -> Prologue | None:
    if task.statistics is not None:
        return Prologue(*task.statistics.affine(weight, shift), task.relu)
    if task.relu:
        return Prologue(z.new_ones(z.shape[0]), z.new_zeros(z.shape[0]), relu=True)
    return None


class _Normalise(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(
        ctx: Any,
        z: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        task: Normalisation,
    ) -> Tensor:
        scale, shift = task.statistics.affine(weight, bias)
        y = ops.scale_shift(z, scale, shift, residual=residual, relu=task.relu)
        if task.saving:
            packed = _pack(task.storage, z)
            signs = output = None
            if task.relu and task.activations != _EXACTLY:
                signs = pack_signs(y, layout=layout_of(y))
            elif task.relu and residual is not None:
                # The sum's sign cannot be computed again from `z` alone. What follows holds `y` anyway.
                output = y
            ctx.save_for_backward(output, signs, *packed.tensors)
            ctx.task, ctx.restore, ctx.moved = task, packed.restore, (scale, shift)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        task: Normalisation = ctx.task
        output, signs, *packed = ctx.saved_tensors
        grad, z = grads[0].contiguous(), _unpack(task.storage, ctx.restore, packed)
        if signs is not None:
            grad = mask_gradient(signs, grad, layout=layout_of(grad))
        norm = (z, task.statistics.mean, task.statistics.inverse_std, *ctx.moved)
        needs_weight, needs_bias, needs_residual = ctx.needs_input_grad[1:4]
        grad_z, grad_weight, grad_bias, *gated = ops.channel_backward(
            grad,
            *norm,
            relu=task.relu and signs is None,
            constant=not task.statistics.of_batch,
            output=output,
            residual=needs_residual,
        )
        grad_residual = (gated[0] if gated else grad) if needs_residual else None
        return grad_z, grad_weight if needs_weight else None, grad_bias if needs_bias else None, grad_residual, None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        y, winners = ops.max_pool(x, window)
        ctx.save_for_backward(winners)
        ctx.window, ctx.size = window, (x.shape[1], x.shape[2])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (winners,) = ctx.saved_tensors
        return ops.max_pool_backward(grads[0].contiguous(), winners, ctx.window, ctx.size), None


class _AveragePool(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = (x.shape[1], x.shape[2])
        return ops.average_pool(x)[:, None, None, :]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return ops.average_pool_backward(grads[0][:, 0, 0, :].contiguous(), ctx.size)
