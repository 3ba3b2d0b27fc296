"""What a device finds out about pruned weights, and about kept ones: by which of them the loss falls fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
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

__all__ = ["Grown", "GrowthBytes", "gradients_of", "growth_bytes", "kept_gradients_of", "largest"]


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


def largest(
    network: KeptNetwork,
    mask: Mask,
    *,
    growth: Sequence[Growth],
    samples: Samples,
    dataset: Dataset,
    experiment: Experiment,
    round: int,
    client: int,
) -> Grown:
    """What answers a request for gradients, after training.

    They are those of one batch, drawn anew from the device's samples: of `adjustment.batch_size`, or of as many as went
    through the network at once in training. With `adjustment.criterion = "gradient"` it has those of the kept weights
    too, of the same batch, by a pass of their own.

    Args:
        network: with the values at which the gradients are asked for; it comes out as it went in.
        mask: what is kept of it.
        growth: what the request asks for, as it came from the network.
        samples: the client's own, at least 2.
        dataset: tells how images are normalised.
        experiment: the settings.
        round: the request's.
        client: decides, with the round, which samples.

    Raises:
        PayloadError: the request asks for what there is not.
        TrainingError: the loss or a gradient is not finite.
    """
    counts = asked_counts(growth, mask=mask)
    found, peak = gradients_of(
        network, counts, samples=samples, dataset=dataset, experiment=experiment, round=round, client=client
    )
    section = growth_section(found, mask=mask, growth=growth, wire=experiment.wire)
    if experiment.adjustment.criterion == "magnitude":
        return Grown(section, peak)
    own, most = kept_gradients_of(
        network, samples=samples, dataset=dataset, experiment=experiment, round=round, client=client
    )
    return Grown(section, max(peak, most), kept=kept_gradients_section(own, wire=experiment.wire))


def gradients_of(
    network: KeptNetwork,
    counts: Mapping[str, int],
    *,
    samples: Samples,
    dataset: Dataset,
    experiment: Experiment,
    round: int,
    client: int,
) -> tuple[Gradients, int]:
    """The largest gradients themselves, and the measured peak of what torch held to find them; see `largest`.

    Inside `hedgerow.telemetry.memory.unmeasured` the peak is 0.

    Args:
        network: as there.
        counts: how many of each tensor that is asked for some.
        samples: the client's own, at least 2.
        dataset: tells how images are normalised.
        experiment: the settings.
        round: the request's.
        client: decides, with the round, which samples.

    Raises:
        TrainingError: the loss or a gradient is not finite.
    """
    batch = _batch(len(samples), experiment, generator=numpy_generator(experiment.seed, "growth", round, client))
    images, labels = dataset.normalised(samples.images[batch]), torch.from_numpy(samples.labels[batch])
    loss = _loss(network.module, images, labels, half=experiment.training.precision == "bf16")
    relative = experiment.adjustment.relative
    found, taken = allocations(lambda: largest_gradients(network.module, counts, loss, relative=relative))
    held = sum(t.numel() * t.element_size() for t in (*network.module.parameters(), *network.module.buffers()))
    return found, held + taken.peak if taken.peak else 0


def kept_gradients_of(
    network: KeptNetwork, *, samples: Samples, dataset: Dataset, experiment: Experiment, round: int, client: int
) -> tuple[Floats, int]:
    """The gradients of the kept weights on the batch of `gradients_of`, and the measured peak as there.

    Args:
        network: as there.
        samples: the client's own, at least 2.
        dataset: tells how images are normalised.
        experiment: the settings.
        round: the request's.
        client: decides, with the round, which samples.

    Returns:
        (kept,) float32, in the mask's order; and bytes.

    Raises:
        TrainingError: the loss or a gradient is not finite.
    """
    batch = _batch(len(samples), experiment, generator=numpy_generator(experiment.seed, "growth", round, client))
    images, labels = dataset.normalised(samples.images[batch]), torch.from_numpy(samples.labels[batch])
    loss = _loss(network.module, images, labels, half=experiment.training.precision == "bf16")
    found, taken = allocations(lambda: kept_gradients(network, loss))
    held = sum(t.numel() * t.element_size() for t in (*network.module.parameters(), *network.module.buffers()))
    return found, held + taken.peak if taken.peak else 0


def growth_bytes(network: KeptNetwork, images: Tensor, labels: Tensor, *, counts: dict[str, int]) -> GrowthBytes:
    """Measures what `largest_gradients` takes, in float32.

    Args:
        network: of any kernels.
        images: (N, C, H, W), normalised.
        labels: (N,) int64.
        counts: how many gradients of each tensor.
    """
    loss = _loss(network.module, images, labels, half=False)
    # With buffers of nothing it is the same pass, and no piece is computed.
    nothing = dict.fromkeys(counts, 0)
    largest_gradients(network.module, nothing, loss)
    _, plain = allocations(lambda: largest_gradients(network.module, nothing, loss))
    _, whole = allocations(lambda: largest_gradients(network.module, counts, loss))
    own = max((whole.phases[name] - held for name, held in plain.phases.items()), default=0)
    return GrowthBytes(plain=plain.peak, whole=whole.peak, own=own)


def _batch(count: int, experiment: Experiment, *, generator: np.random.Generator) -> np.ndarray:
    training = experiment.training
    at_once = training.batch_size if training.micro_batch is None else training.micro_batch
    size = experiment.adjustment.batch_size or at_once
    return generator.permutation(count)[:size]


def _loss(module: nn.Module, images: Tensor, labels: Tensor, *, half: bool) -> Callable[[], Tensor]:
    def loss() -> Tensor:
        inputs = images.contiguous(memory_format=torch.channels_last) if half else images
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = module(inputs)
        return F.cross_entropy(outputs.float(), labels)

    return loss
