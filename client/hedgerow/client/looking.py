"""What a client does with networks that it only looks at: the statistics of their batch norms, and their losses.

Privacy: what is said here is neither clipped nor noised. `experiment.privacy` is about what training changed, and its
guarantees do not cover statistics and losses.

A network is built, looked at and dropped before the next, so a device needs memory for one, however many there are to
choose from. Which kernels are faster is not measured for one look: the native ones are taken where the mask is sparse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.assembly import ClientNetwork, network_of
from hedgerow.client.training import part_sizes, train
from hedgerow.codec import Candidate, Section, has_mask
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Indices, Samples
from hedgerow.errors import PayloadError, TrainingError
from hedgerow.exchange import LARGEST_LOSS, Exchange, losses_section, samples_section, statistics_section
from hedgerow.native.library import status
from hedgerow.recalibration import Moments, batch_statistics, collect
from hedgerow.seeds import derive_seed, numpy_generator
from hedgerow.sparse import NATIVE_BELOW, write_vector

__all__ = ["Looker", "losses", "moments_of", "statistics", "told"]

_MOST_SAMPLES = 2**24

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Looker:
    """One client at one request: with what and on which of its samples it looks.

    Attributes:
        experiment: the settings.
        exchange: what the two ends say to each other.
        model: makes the dense network at initialization, hollow where that can be.
        dataset: tells how images are normalised.
        samples: the client's own.
        round: of the request; 0 when networks are chosen among.
        client: decides what is random.
    """

    experiment: Experiment
    exchange: Exchange
    model: Callable[[], nn.Module]
    dataset: Dataset
    samples: Samples
    round: int
    client: int

    def looked(self) -> Indices:
        """(n,) the samples that are looked at: the same for all networks, and for their statistics and losses."""
        return self._order()[: self._count()]

    def trained(self) -> Indices:
        """(n,) the samples for a trial training: the others where they make a batch, else all."""
        order = self._order()
        others = order[self._count() :]
        return others if others.size >= self.experiment.training.batch_size else order

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (N, C, H, W) float32 and labels (N,) of the samples that are looked at, in equal batches."""
        looked, start = self.looked(), 0
        for size in part_sizes(looked.size, most=self.experiment.training.batch_size):
            batch = looked[start : start + size]
            start += size
            yield self.dataset.normalised(self.samples.images[batch]), torch.from_numpy(self.samples.labels[batch])

    def _order(self) -> Indices:
        return numpy_generator(self.experiment.seed, "looking", self.round, self.client).permutation(len(self.samples))

    def _count(self) -> int:
        experiment, own = self.experiment, len(self.samples)
        fraction = experiment.selection.fraction if self.round == 0 else experiment.evaluation.fraction
        return min(max(round(fraction * own), experiment.training.batch_size), own, _MOST_SAMPLES)


def statistics(candidates: Sequence[Candidate], looker: Looker) -> list[Section]:
    """The reply about the batch norms of each of some networks.

    Raises:
        PayloadError: a network is damaged, or its mask is not the one that is meant.
        TrainingError: there are too few samples for a statistic.
    """
    for candidate in candidates:
        if not has_mask(candidate.sections):
            raise PayloadError("a network to choose came without its mask", kind="mismatch")
    return told(_each(candidates, looker, moments_of), looker)


def told(moments: Sequence[Moments], looker: Looker) -> list[Section]:
    """The sections that say moments."""
    return [statistics_section(moments), samples_section(looker.looked().size)]


def losses(candidates: Sequence[Candidate], looker: Looker) -> list[Section]:
    """The reply with the loss of each of some networks; after a trial training where the settings ask for one.

    Raises:
        PayloadError: a network is damaged, or its mask is not the one that is meant.
    """
    find = _trial_loss if looker.experiment.selection.trial_steps else _loss
    return [losses_section(_each(candidates, looker, find)), samples_section(looker.looked().size)]


def moments_of(client: ClientNetwork, looker: Looker) -> Moments:
    """Moments of what goes into the batch norms of one network, which stays as it is."""
    return collect(client.network.module, (images for images, _ in looker.batches()))


def _each(
    candidates: Sequence[Candidate], looker: Looker, look: Callable[[ClientNetwork, Looker], Found]
) -> list[Found]:
    model = looker.model()
    # Each network lives in one call, and is gone when it returns.
    return [look(_network(candidate, model, looker), looker) for candidate in candidates]


def _network(candidate: Candidate, model: nn.Module, looker: Looker) -> ClientNetwork:
    exchange, digest = looker.exchange, candidate.mask_digest
    mask = exchange.decode_mask(candidate.sections)
    if mask.digest != digest:
        raise PayloadError("the mask of a network to choose does not match its digest", kind="mismatch")
    layers = tuple(mask.layer_kept().values())
    version = exchange.decode(candidate.sections, round=looker.round, mask_digest=digest, base=None, layers=layers)
    kept, floats = exchange.starts(version)
    variances = np.repeat(np.array(exchange.architecture.variances, dtype=np.bool_), exchange.architecture.float_groups)
    if (floats[variances] < 0).any():
        raise PayloadError("a variance is negative", kind="bounds")
    kernels = "native" if status().available and mask.density <= NATIVE_BELOW else "dense"
    experiment = _with_training(looker.experiment, kernels=kernels)
    client = network_of(experiment, model, mask, input_shape=looker.dataset.input_shape)
    write_vector(client.network.kept, kept)
    write_vector(client.network.floats, floats)
    return client


@torch.no_grad()
def _loss(client: ClientNetwork, looker: Looker) -> float:
    """Mean cross-entropy in nats over the samples that are looked at, in float32."""
    total, count, module = 0.0, 0, client.network.module.eval()
    for images, labels in looker.batches():
        total += F.cross_entropy(module(images), labels, reduction="sum").item()
        count += len(labels)
    return total / count


def _trial_loss(client: ClientNetwork, looker: Looker) -> float:
    """The loss after some steps of training; the largest there is where they fail.

    Norms take each batch's statistics then. The running ones, a tenth of which a step renews, would be those of the
    weights before the training, and the loss would tell how far the weights moved and not how good they are. Step sizes
    fall to 0 for the same reason: at full ones the loss tells how much noise a network stands, which favours masks of
    large weights.
    """
    experiment, seed = looker.experiment, looker.experiment.seed
    trained = looker.trained()
    samples = Samples(looker.samples.images[trained], looker.samples.labels[trained])
    steps, size = experiment.selection.trial_steps, experiment.training.batch_size
    # A rest of one sample makes no step.
    an_epoch = max(1, len(samples) // size + (len(samples) % size >= 2))
    client.storage.reseed(derive_seed(seed, "activations", looker.round, looker.client))
    try:
        # All networks are trained on the same batches, with the same numbers.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, "training", looker.round, looker.client))
            train(
                client.network,
                samples,
                dataset=looker.dataset,
                experiment=_with_training(experiment, steps=steps, epochs=-(-steps // an_epoch)),
                round=1,
                generator=numpy_generator(seed, "trial", looker.round, looker.client),
                anneal=True,
            )
    except TrainingError:
        # The others can still be chosen.
        return LARGEST_LOSS
    with batch_statistics(client.network.module):
        return _loss(client, looker)


def _with_training(experiment: Experiment, **changes: object) -> Experiment:
    return experiment.model_copy(update={"training": experiment.training.model_copy(update=changes)})
