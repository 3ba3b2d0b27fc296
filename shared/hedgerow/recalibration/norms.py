"""Where a network's batch norms are, and where their statistics lie among what is never pruned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hedgerow.codec import Floats
from hedgerow.recalibration.moments import Moments
from hedgerow.sparse import float_tensors

__all__ = ["NormChannels", "batch_norms", "norm_channels", "statistics_into", "statistics_positions"]


@dataclass(frozen=True, slots=True)
class NormChannels:
    """One batch norm: its name, and how many channels it has."""

    name: str
    channels: int


def batch_norms(model: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """The batch norms that have running statistics, in `named_modules` order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
    }


def norm_channels(model: nn.Module) -> list[NormChannels]:
    """The batch norms that have running statistics, in the order in which these travel; `model` may be hollow.

    >>> norm_channels(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(4)))
    [NormChannels(name='1', channels=4)]
    """
    return [NormChannels(name, norm.num_features) for name, norm in batch_norms(model).items()]


def statistics_positions(model: nn.Module) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where in the vector of `float_tensors` the channels' running means are, and where their variances: (channels,).

    Args:
        model: the dense network, which may be hollow.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    >>> [found.tolist() for found in statistics_positions(model)]
    [[4, 5], [6, 7]]
    """
    starts, start = {}, 0
    for tensor in float_tensors(model):
        starts[id(tensor)] = start
        start += tensor.numel()

    def places(tensor: Tensor | None) -> npt.NDArray[np.int64]:
        assert tensor is not None
        return np.arange(tensor.numel(), dtype=np.int64) + starts[id(tensor)]

    norms = list(batch_norms(model).values())
    none = np.zeros(0, dtype=np.int64)
    means = np.concatenate([none, *(places(norm.running_mean) for norm in norms)])
    return means, np.concatenate([none, *(places(norm.running_var) for norm in norms)])


def statistics_into(floats: Floats, model: nn.Module, moments: Moments) -> Floats:
    """What is never pruned, with these moments as the running means and variances.

    Args:
        floats: (f,) float32, in the order of `float_tensors`.
        model: the dense network, which may be hollow.
        moments: of all its channels. Their variances stay biased; torch's running ones are larger by n / (n - 1), which
            is no difference for the n values of many samples.

    Returns:
        (f,) float32, a new array.

    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    >>> moments = Moments(np.ones(1), np.full(1, 3.0), 8)
    >>> statistics_into(np.zeros(4, dtype=np.float32), model, moments).tolist()
    [0.0, 0.0, 1.0, 3.0]
    """
    means, variances = statistics_positions(model)
    assert moments.mean.shape == means.shape, "the moments belong to another network"
    result = floats.copy()
    result[means] = moments.mean.astype(np.float32)
    result[variances] = moments.variance.astype(np.float32)
    return result
