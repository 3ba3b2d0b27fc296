"""Local training: plain PyTorch, without any knowledge of messages."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.client.optimisers import NormalisedSGD
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import TrainingError
from hedgerow.schedules import step_scale
from hedgerow.sparse import KeptNetwork
from hedgerow.telemetry.memory import allocation_peak

__all__ = ["Trained", "batches", "train"]


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training says about itself.

    Attributes:
        examples: samples that the client holds.
        steps: optimiser steps taken.
        loss: mean cross-entropy over all steps, weighted by their samples, in nats.
        peak_bytes: measured peak of what torch held for it: the network, the optimisers' state, and the most that one
            step allocates.
    """

    examples: int
    steps: int
    loss: float
    peak_bytes: int


def batches(count: int, *, size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Shuffled batches of indices below `count`. A rest of one sample is left out: batch norm needs two."""
    order = generator.permutation(count)
    for start in range(0, count, size):
        batch = order[start : start + size]
        if batch.size >= 2:
            yield batch


def train(
    network: KeptNetwork,
    samples: Samples,
    *,
    dataset: Dataset,
    experiment: Experiment,
    round: int,
    generator: np.random.Generator,
) -> Trained:
    """Trains `network` in place on the client's own samples for the epochs of one round.

    Args:
        network: its tensors are changed.
        samples: the client's own.
        dataset: tells how images are normalised.
        experiment: step sizes, epochs, batch size, precision.
        round: counts from 1; places the round on the schedule of step sizes.
        generator: decides the order of the samples.

    Raises:
        TrainingError: a loss is not finite, or there are too few samples for one step.
    """
    settings = experiment.training
    network.module.train()
    # Gradients are left over where the training before this one broke off, counts where it did not.
    network.module.zero_grad(set_to_none=True)
    for name, buffer in network.module.named_buffers():
        if name.rpartition(".")[2] == "num_batches_tracked":
            buffer.zero_()
    order = [
        batch
        for _ in range(settings.epochs)
        for batch in batches(len(samples), size=settings.batch_size, generator=generator)
    ]
    if not order:
        raise TrainingError(f"{len(samples)} samples are too few for one step of at least 2")
    optimisers = _optimisers(network, experiment, scale=step_scale(experiment, round=round), steps=len(order))
    total, peak = 0.0, 0
    for number, batch in enumerate(order):
        images, labels = dataset.normalised(samples.images[batch]), torch.from_numpy(samples.labels[batch])
        step = functools.partial(_step, network.module, images, labels, optimisers, half=settings.precision == "bf16")
        # The first step makes the optimisers' state, and what the second allocates is repeated by all others.
        if number == min(1, len(order) - 1):
            before = _lasting_bytes(network.module, optimisers)
            loss, transient = allocation_peak(step)
            peak = before + transient
        else:
            loss = step()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss} at step {number + 1}; lower the step sizes")
        total += loss * len(batch)
    if not all(bool(tensor.isfinite().all()) for tensor in network.kept):
        raise TrainingError("a gradient was not finite though the loss was; lower the step sizes")
    seen = sum(len(batch) for batch in order)
    return Trained(examples=len(samples), steps=len(order), loss=total / seen, peak_bytes=peak)


def _step(
    module: nn.Module, images: Tensor, labels: Tensor, optimisers: list[torch.optim.Optimizer], *, half: bool
) -> float:
    if half:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        outputs = module(images)
    loss = F.cross_entropy(outputs.float(), labels)
    value = loss.item()
    # A loss that is not finite would only spoil the weights; the caller ends the training.
    if math.isfinite(value):
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    return value


def _lasting_bytes(module: nn.Module, optimisers: list[torch.optim.Optimizer]) -> int:
    states = [s for o in optimisers for state in o.state.values() for s in state.values() if isinstance(s, Tensor)]
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers(), *states))


def _optimisers(
    network: KeptNetwork, experiment: Experiment, *, scale: float, steps: int
) -> list[torch.optim.Optimizer]:
    floats = [t for t in network.floats if t.requires_grad]
    if experiment.representation == "signs":
        signs = experiment.signs
        optimisers: list[torch.optim.Optimizer] = [
            NormalisedSGD(network.kept, lr=signs.step * scale / math.sqrt(steps))
        ]
        if floats and signs.norm_learning_rate > 0:
            optimisers.append(torch.optim.SGD(floats, lr=signs.norm_learning_rate * scale))
        return optimisers
    weights = experiment.weights
    return [
        torch.optim.SGD(
            [*network.kept, *floats],
            lr=weights.learning_rate * scale,
            momentum=weights.momentum,
            weight_decay=weights.weight_decay,
        )
    ]
