"""What goes into each batch norm of a network, over some batches: forward passes that leave no trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.errors import TrainingError
from hedgerow.recalibration.moments import Doubles, Moments, merged
from hedgerow.recalibration.norms import batch_norms

__all__ = ["batch_statistics", "collect"]


class _TooFew(Exception):  # noqa: N818  # it says what a batch has, and never leaves this module
    """A batch has one value a channel, which is no statistic."""


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Lets batch norms use each batch's own statistics, and everything else work as in evaluation, inside the block.

    Running statistics, counts of batches and training flags are out of reach there and the same afterwards. This is
    how FedTiny normalises, but without dropout: the network that will use the statistics has none either.
    """
    norms = list(batch_norms(module).values())
    statistics = [(norm.running_mean, norm.running_var) for norm in norms]
    modes = [(part, part.training) for part in module.modules()]
    try:
        # A norm in eval mode takes the batch's statistics where it has no others, and has nothing to update.
        for norm in norms:
            norm.running_mean = norm.running_var = None
        module.eval()
        yield
    finally:
        for norm, (mean, variance) in zip(norms, statistics, strict=True):
            norm.running_mean, norm.running_var = mean, variance
        for part, training in modes:
            part.training = training


@torch.no_grad()
def collect(module: nn.Module, batches: Iterable[Tensor]) -> Moments:
    """Moments of what goes into each batch norm, over all samples of some batches.

    Each norm normalises a batch by its own statistics, with the weights as they are. So norms further in see what
    another division into batches would have changed a little; of what they see, the moments are exact.

    Args:
        module: a network; it comes out as it went in, to the bit.
        batches: (N, C, H, W) float32 each. One that has a single value a channel in some norm is left out.

    Returns:
        Moments of all channels, in the order of `norm_channels`; of none for a network without batch norms. They may
        be infinite or NaN where the network's activations are.

    Raises:
        TrainingError: nothing is left.
    """
    norms = batch_norms(module)
    seen: dict[str, Moments] = {}
    found: Moments | None = None
    with ExitStack() as stack:
        stack.enter_context(batch_statistics(module))
        for name, norm in norms.items():
            stack.enter_context(norm.register_forward_pre_hook(_watcher(seen, name)))
        for batch in batches:
            seen.clear()
            try:
                if norms:
                    module(batch)
            except _TooFew:
                continue
            parts = [seen.get(name) or _untouched(norm) for name, norm in norms.items()]
            moments = Moments(_joined([p.mean for p in parts]), _joined([p.variance for p in parts]), len(batch))
            found = moments if found is None else merged(found, moments)
    if found is None:
        raise TrainingError("no batch has two values a channel, which batch norm needs; give the device more samples")
    return found


def _watcher(seen: dict[str, Moments], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def watch(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        values, dims = x.numel() // max(1, x.shape[1]), [d for d in range(x.dim()) if d != 1]
        if values < 2:
            raise _TooFew
        variance, _ = torch.var_mean(x, dim=dims, correction=0)
        # In float32 a mean is too coarse for the distance between the means of two batches.
        mean = x.mean(dim=dims, dtype=torch.float64)
        moments = Moments(mean.numpy(), variance.to(torch.float64).numpy(), values)
        # One norm may be called several times.
        seen[name] = merged(seen[name], moments) if name in seen else moments

    return watch


def _untouched(norm: nn.modules.batchnorm._BatchNorm) -> Moments:
    # What a norm starts with. The network never calls it, so it matters to nobody.
    return Moments(np.zeros(norm.num_features), np.ones(norm.num_features), 1)


def _joined(parts: Sequence[Doubles]) -> Doubles:
    return np.concatenate([np.zeros(0), *parts])
