"""What a device finds out about pruned weights, and about kept ones: by which of them the loss falls fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.codec import Floats, Growth, Section
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Samples
from hedgerow.exchange import asked_counts, growth_section, kept_gradients_section
from hedgerow.pruning import Gradients, Mask
from hedgerow.seeds import numpy_generator
from hedgerow.sparse import KeptNetwork, kept_gradients, largest_gradients
from hedgerow.telemetry.memory import allocations

__all__ = ["Grown", "GrowthBatch", "GrowthBytes", "gradients_of", "growth_bytes", "kept_gradients_of", "largest"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Grown:
    """What a device says about pruned weights.

    Attributes:
        section: the answer.
        peak_bytes: measured peak of what torch held to find it: the network, and the most that a pass allocates.
        kept: the gradients of its kept weights; None where `adjustment.criterion` does not ask for them.
    """

    section: Section
    peak_bytes: int
    kept: Section | None = None


@dataclass(frozen=True, slots=True)
class GrowthBytes:
    """Measured peaks of what torch allocates for gradients of pruned weights, beyond the network, in bytes.

    Attributes:
        plain: of the forward and backward pass alone; on the dense path a layer has its dense weight while it computes.
        whole: with the pieces of the gradients and the buffers of the largest.
        own: what these take, of the layer where that is most.
    """

    plain: int
    whole: int
    own: int


@dataclass(frozen=True, slots=True)
class GrowthBatch:
    """The one batch that a device finds gradients on.

    Attributes:
        images: (N, C, H, W) float32, normalised.
        labels: (N,) int64.
        half: whether layers compute in bfloat16, as they do in training with `training.precision = "bf16"`.
        relative: whether gradients of pruned weights are multiplied by what a batch norm divides by (see
            `largest_gradients`).
    """

    images: Tensor
    labels: Tensor
    half: bool = False
    relative: bool = False

    @classmethod
    def of(cls, samples: Samples, *, dataset: Dataset, experiment: Experiment, round: int, client: int) -> Self:
        """Samples of a device, drawn anew for each request.

        They are `adjustment.batch_size`, or as many as went through the network at once in training.

        Args:
            samples: the client's own, at least 2.
            dataset: tells how images are normalised.
            experiment: the settings.
            round: the request's.
            client: decides, with the round, which samples.
        """
        training, adjustment = experiment.training, experiment.adjustment
        order = numpy_generator(experiment.seed, "growth", round, client).permutation(len(samples))
        drawn = order[: adjustment.batch_size or training.at_once]
        return cls(
            images=dataset.normalised(samples.images[drawn]),
            labels=torch.from_numpy(samples.labels[drawn]),
            half=training.precision == "bf16",
            relative=adjustment.relative,
        )

    def loss_of(self, module: nn.Module) -> Tensor:
        """(), the mean loss of `module` on it."""
        inputs = self.images.contiguous(memory_format=torch.channels_last) if self.half else self.images
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            outputs = module(inputs)
        return F.cross_entropy(outputs.float(), self.labels)


def largest(
    network: KeptNetwork, mask: Mask, *, growth: Sequence[Growth], batch: GrowthBatch, experiment: Experiment
) -> Grown:
    """What answers a request for gradients, after training.

    With `adjustment.criterion = "gradient"` it has those of the kept weights too, of the same batch, by a pass of their
    own.

    Args:
        network: with the values at which the gradients are asked for; it comes out as it went in.
        mask: what is kept of it.
        growth: what the request asks for, as it came from the network.
        batch: the device's.
        experiment: the settings.

    Raises:
        PayloadError: the request asks for what there is not.
        TrainingError: the loss or a gradient is not finite.
    """
    found, peak = gradients_of(network, asked_counts(growth, mask=mask), batch=batch)
    section = growth_section(found, mask=mask, growth=growth, wire=experiment.wire)
    if experiment.adjustment.criterion == "magnitude":
        return Grown(section, peak)
    own, most = kept_gradients_of(network, batch=batch)
    return Grown(section, max(peak, most), kept=kept_gradients_section(own, wire=experiment.wire))


def gradients_of(network: KeptNetwork, counts: Mapping[str, int], *, batch: GrowthBatch) -> tuple[Gradients, int]:
    """The largest gradients themselves, and the measured peak of what torch held to find them; see `largest`.

    Inside `hedgerow.telemetry.memory.unmeasured` the peak is 0.

    Args:
        network: as there.
        counts: how many of each tensor that is asked for some.
        batch: as there.

    Raises:
        TrainingError: the loss or a gradient is not finite.
    """
    loss = partial(batch.loss_of, network.module)
    return _measured(network, lambda: largest_gradients(network.module, counts, loss, relative=batch.relative))


def kept_gradients_of(network: KeptNetwork, *, batch: GrowthBatch) -> tuple[Floats, int]:
    """The gradients of the kept weights, and the measured peak as in `gradients_of`.

    Args:
        network: as there.
        batch: as there.

    Returns:
        (kept,) float32, in the mask's order; and bytes.

    Raises:
        TrainingError: the loss or a gradient is not finite.
    """
    return _measured(network, lambda: kept_gradients(network, partial(batch.loss_of, network.module)))


def growth_bytes(network: KeptNetwork, images: Tensor, labels: Tensor, *, counts: dict[str, int]) -> GrowthBytes:
    """Measures what `largest_gradients` takes, in float32.

    Args:
        network: of any kernels.
        images: (N, C, H, W), normalised.
        labels: (N,) int64.
        counts: how many gradients of each tensor.
    """
    loss = partial(GrowthBatch(images, labels).loss_of, network.module)
    # With buffers of nothing it is the same pass, and no piece is computed.
    nothing = dict.fromkeys(counts, 0)
    largest_gradients(network.module, nothing, loss)
    _, plain = allocations(lambda: largest_gradients(network.module, nothing, loss))
    _, whole = allocations(lambda: largest_gradients(network.module, counts, loss))
    own = max((whole.phases[name] - held for name, held in plain.phases.items()), default=0)
    return GrowthBytes(plain=plain.peak, whole=whole.peak, own=own)


def _measured(network: KeptNetwork, work: Callable[[], T]) -> tuple[T, int]:
    """What `work` finds, and the measured peak of what torch held meanwhile: `network`, and what it allocated."""
    found, taken = allocations(work)
    held = sum(t.numel() * t.element_size() for t in (*network.module.parameters(), *network.module.buffers()))
    return found, held + taken.peak if taken.peak else 0
