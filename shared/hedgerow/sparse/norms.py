"""Batch norms on planes: the numbers of torch's own, whatever follows them fused in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hedgerow.activations import Activations, Exact, FaithfulStorage
from hedgerow.sparse import ops
from hedgerow.sparse.functions import Normalisation, Statistics, normalise
from hedgerow.sparse.layout import is_batch_last, logical, planes

__all__ = ["BatchLastNorm1d", "BatchLastNorm2d", "KernelNorm"]


class KernelNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm that uses the kernels where its input is batch last.

    Attributes:
        native: whether it may; else it is torch's own.
        activations: how it stores what it keeps for the backward.
        watch: is shown each input, (N, C) or (N, C, H, W).
    """

    native: bool = False
    activations: Activations = Activations()
    watch: Callable[[Tensor], None] | None = None

    def statistics(self, z: Tensor) -> Statistics:
        """What it normalises planes with: the statistics of `z`, or the running ones, which training moves on.

        Raises:
            ValueError: as torch, when there is one value a channel to train on.
        """
        if self.watch is not None:
            self.watch(logical(z))
        # Attributes of a module are looked up slowly.
        running_mean, running_var = self.running_mean, self.running_var
        if not self.training and running_mean is not None and running_var is not None:
            return Statistics(running_mean, torch.rsqrt(running_var + self.eps), of_batch=False)
        count = z.numel() // max(1, z.shape[0])
        if count < 2:
            shape = [z.shape[3], z.shape[0], *z.shape[1:3]]
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape}")
        mean, variance = ops.channel_statistics(z.detach())
        if self.training and running_mean is not None and running_var is not None:
            factor = self._factor()
            running_mean.lerp_(mean, factor)
            # Running variances are unbiased, what a batch is divided by is not; as in torch.
            running_var.mul_(1 - factor).add_(variance, alpha=factor * count / (count - 1))
        return Statistics(mean, variance.add_(self.eps).rsqrt_(), of_batch=True)

    @property
    def _of_batch(self) -> bool:
        return self.training or self.running_mean is None

    def _factor(self) -> float:
        """Counts a batch of training, and says how much of the running statistics it replaces."""
        count = self.num_batches_tracked
        if count is not None:
            count.add_(1)
        if self.momentum is not None:
            return self.momentum
        return 0.0 if count is None else 1.0 / float(count)

    def normalised(self, z: Tensor, *, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """relu?(norm(z) + residual?), planes to planes."""
        task = Normalisation(
            statistics=self.statistics(z), relu=relu, activations=self.activations, saving=torch.is_grad_enabled()
        )
        return normalise(z, self.weight, self.bias, residual, task)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) or (N, C, H, W) → the same shape and layout."""
        if self.native and x.dim() in (2, 4) and is_batch_last(x):
            self._check_input_dim(x)  # type: ignore[no-untyped-call]  # torch does not type it
            return logical(self.normalised(planes(x)), flat=x.dim() == 2)
        if self.watch is not None:
            self.watch(x)
        if isinstance(self.activations.values, Exact) or not (x.requires_grad and torch.is_grad_enabled()):
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]  # torch does not type it
        factor = self._factor() if self.training and self.running_mean is not None else 0.0
        settings = (self.running_mean, self.running_var, self._of_batch, factor, self.eps, self.activations.values)
        return cast(Tensor, _StoredNorm.apply(x, self.weight, self.bias, *settings))  # type: ignore[no-untyped-call]  # torch does not type it


class _StoredNorm(torch.autograd.Function):
    """torch's own norm, whose input is stored otherwise."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        variance: Tensor | None,
        of_batch: bool,
        factor: float,
        eps: float,
        storage: FaithfulStorage,
    ) -> Tensor:
        y, *saved = torch.native_batch_norm(x, weight, bias, mean, variance, of_batch, factor, eps)
        packed = storage.pack(x)
        ctx.save_for_backward(weight, mean, variance, *saved, *packed.tensors)
        ctx.settings, ctx.restore, ctx.has_bias = (of_batch, eps), packed.restore, bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, mean, variance, batch_mean, inverse_std, *packed = ctx.saved_tensors
        x = ctx.restore(tuple(packed))
        known = (weight, mean, variance, batch_mean, inverse_std, *ctx.settings)
        wanted = [True, weight is not None, ctx.has_bias]
        found = torch.ops.aten.native_batch_norm_backward(grads[0].contiguous(), x.contiguous(), *known, wanted)
        return (*found, None, None, None, None, None, None)


class BatchLastNorm2d(KernelNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` that uses the kernels where it can."""


class BatchLastNorm1d(KernelNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` of (N, C) that uses the kernels where it can."""
