"""Whether what has to be exact is: pooled statistics beside those of all activations, and the largest gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hedgerow.assembly import dataset_of, exchange_of, mask_of, model_of, network_of, parts_of
from hedgerow.client.looking import Looker, moments_of, told
from hedgerow.codec import Section
from hedgerow.config import Experiment, load_experiment
from hedgerow.data import Dataset, Samples
from hedgerow.exchange import read_statistics
from hedgerow.pruning import prunable_tensors
from hedgerow.recalibration import Moments, pooled
from hedgerow.recalibration.norms import batch_norms
from hedgerow.sparse import TopK, gather_kept, write_vector

__all__ = ["largest", "pooling", "relative_error"]

_CLIENTS = 10
_EPS = 1e-5
"""What batch norm adds to a variance before it divides by its root: errors are in proportion to that sum."""

Doubles: TypeAlias = npt.NDArray[np.float64]
Figures = dict[str, float]


def pooling(*, quick: bool) -> Figures:
    """What clients say of the norms of one network, as it travels, pooled; beside moments of all their activations."""
    settings: dict[str, object] = {
        "data.name": "digits" if quick else "fashion-mnist",
        "model.name": "lenet5" if quick else "conv4",
        "fleet.clients": _CLIENTS,
        "fleet.cohort": _CLIENTS,
        "pruning.saliency": "magnitude",
        "pruning.rule": "erk",
        "pruning.density": 0.05,
        "training.kernels": "dense",
    }
    experiment = load_experiment(recipe="fedavg", overrides=settings.items())
    dataset = dataset_of(experiment)
    model = model_of(experiment, dataset)
    mask = mask_of(experiment, model, dataset.input_shape)
    client = network_of(experiment, model, mask, input_shape=dataset.input_shape)
    write_vector(client.network.kept, gather_kept({**prunable_tensors(model)}, mask))
    replies: list[Moments] = []
    with _watching(client.network.module) as union:
        for looker in _lookers(experiment, dataset, model):
            sections: dict[int, Section] = {s.kind: s for s in told([moments_of(client, looker)], looker)}
            replies += read_statistics(sections, networks=1, channels=sum(seen.channels for seen in union))
    mean, variance = (np.concatenate(parts) for parts in zip(*(seen.moments() for seen in union), strict=True))
    found = pooled(replies)
    averaged = np.average([r.variance for r in replies], axis=0, weights=[r.count for r in replies])
    return {
        "exact.pooling.error": relative_error(found.mean, found.variance, mean, variance),
        "exact.pooling.averaged_error": relative_error(found.mean, averaged, mean, variance),
        "exact.pooling.clients": len(replies),
        "exact.pooling.samples": found.count,
        "exact.pooling.channels": mean.size,
    }


def largest(*, quick: bool) -> Figures:
    """A buffer that is filled piece by piece beside a sort of everything; half of the tensors have many equal sizes."""
    generator = np.random.default_rng(0)
    tensors = 100 if quick else 2000
    return {
        "exact.topk.mismatches": sum(_differs(generator, ties=number % 2 == 1) for number in range(tensors)),
        "exact.topk.tensors": tensors,
    }


def relative_error(mean: Doubles, variance: Doubles, true_mean: Doubles, true_variance: Doubles) -> float:
    """The largest error of all channels: of a mean over the standard deviation, or of a variance over the variance.

    >>> relative_error(np.array([1.0]), np.array([4.2]), np.array([0.0]), np.array([4.0 - 1e-5]))
    0.5
    """
    scale = true_variance + _EPS
    return float(
        max((np.abs(mean - true_mean) / np.sqrt(scale)).max(), (np.abs(variance - true_variance) / scale).max())
    )


class _Seen:
    """Sums of all that goes into a norm, in float64."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self._count = 0
        self._sum, self._squares = np.zeros(channels), np.zeros(channels)

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A hook before the norm's forward pass."""
        values = inputs[0].detach().double().transpose(0, 1).reshape(self.channels, -1)
        self._count += values.shape[1]
        self._sum += values.sum(dim=1).numpy()
        self._squares += values.square().sum(dim=1).numpy()

    def moments(self) -> tuple[Doubles, Doubles]:
        """Mean and biased variance of each channel."""
        mean = self._sum / self._count
        return mean, self._squares / self._count - mean**2


@contextmanager
def _watching(module: nn.Module) -> Iterator[Sequence[_Seen]]:
    norms = batch_norms(module).values()
    union = [_Seen(norm.num_features) for norm in norms]
    with ExitStack() as stack:
        for norm, seen in zip(norms, union, strict=True):
            stack.enter_context(norm.register_forward_pre_hook(seen.add))
        yield union


def _lookers(experiment: Experiment, dataset: Dataset, model: nn.Module) -> Iterator[Looker]:
    for client, part in enumerate(parts_of(experiment, dataset)):
        yield Looker(
            experiment=experiment,
            exchange=exchange_of(experiment, model),
            model=lambda: model,
            dataset=dataset,
            samples=Samples(dataset.train.images[part], dataset.train.labels[part]),
            round=0,
            client=client,
        )


def _differs(generator: np.random.Generator, *, ties: bool) -> bool:
    size = int(generator.integers(1, 20_000))
    k = int(generator.integers(0, size + 2))
    normal = generator.standard_normal(size)
    values = (np.round(2 * normal) / 2 if ties else normal).astype(np.float32)
    top = TopK(k)
    cuts = np.sort(generator.integers(0, size + 1, int(generator.integers(0, 12))))
    pieces = list(pairwise([0, *cuts.tolist(), size]))
    for place in generator.permutation(len(pieces)):
        begin, end = pieces[place]
        top.add(torch.arange(begin, end), torch.from_numpy(values[begin:end]))
    positions, found = top.result()
    # The sort is stable, so equals are in the order of their positions.
    expected = np.sort(np.argsort(-np.abs(values), kind="stable")[:k])
    return not (np.array_equal(positions, expected) and np.array_equal(found, values[expected]))
