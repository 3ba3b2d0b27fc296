"""Local training: plain PyTorch, without any knowledge of messages."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.client.extrusion import Extrusion, extrusion_rate
from hedgerow.client.optimisers import NormalisedSGD
from hedgerow.client.proximal import Proximal
from hedgerow.codec import Floats
from hedgerow.config import Experiment, TrainingSettings
from hedgerow.data import Dataset, Samples
from hedgerow.errors import TrainingError
from hedgerow.schedules import step_scale
from hedgerow.sparse import KeptNetwork
from hedgerow.telemetry import PhaseBytes
from hedgerow.telemetry.memory import Allocations, allocations, phase

__all__ = ["Trained", "batches", "joined", "part_sizes", "step_count", "train"]


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training says about itself.

    Attributes:
        examples: samples that the client holds.
        steps: optimiser steps taken.
        loss: mean cross-entropy over all steps, weighted by their samples, in nats.
        peaks: measured peak of what torch held for it in each phase of a step: the network, the optimisers' state, and
            the most that the phase allocates; 0 where it was not measured.
        seen: samples that went through the network, one as often as it did.
    """

    examples: int
    steps: int
    loss: float
    peaks: PhaseBytes
    seen: int


def joined(first: Trained, second: Trained) -> Trained:
    """What the two parts of one round's training come to."""
    seen = first.seen + second.seen
    loss = (first.loss * first.seen + second.loss * second.seen) / seen
    one, two = first.peaks, second.peaks
    peaks = PhaseBytes(
        forward=max(one.forward, two.forward),
        backward=max(one.backward, two.backward),
        update=max(one.update, two.update),
    )
    return Trained(examples=first.examples, steps=first.steps + second.steps, loss=loss, peaks=peaks, seen=seen)


def batches(count: int, *, size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Shuffled batches of indices below `count`. A rest of one sample is left out: batch norm needs two."""
    order = generator.permutation(count)
    for start in range(0, count, size):
        batch = order[start : start + size]
        if batch.size >= 2:
            yield batch


def step_count(count: int, settings: TrainingSettings) -> int:
    """Optimiser steps that a device with `count` samples takes in a round.

    >>> [step_count(count, TrainingSettings(epochs=2, batch_size=16, steps=5)) for count in (1, 17, 18, 34)]
    [0, 2, 4, 5]
    """
    each = count // settings.batch_size + (count % settings.batch_size >= 2)
    return min(settings.epochs * each, settings.steps or settings.epochs * each)


def part_sizes(count: int, *, most: int) -> list[int]:
    """Sizes of the parts that a batch of `count` samples goes through the network in: as few and as equal as can be.

    None is of one sample, as batch norm needs two; where nothing else is possible, one is of `most` + 1.

    >>> part_sizes(16, most=5), part_sizes(5, most=2), part_sizes(16, most=16)
    ([4, 4, 4, 4], [3, 2], [16])
    """
    parts = min(-(-count // most), max(1, count // 2))
    return [count // parts + (number < count % parts) for number in range(parts)]


def train(
    network: KeptNetwork,
    samples: Samples,
    *,
    dataset: Dataset,
    experiment: Experiment,
    round: int,
    generator: np.random.Generator,
    anneal: bool = False,
    extrusion: Extrusion | None = None,
    clock: Callable[[], float] = time.monotonic,
    part: slice | None = None,
    start: tuple[Floats, Floats] | None = None,
) -> Trained:
    """Trains `network` in place on the client's own samples for the epochs of one round.

    Args:
        network: its tensors are changed.
        samples: the client's own.
        dataset: tells how images are normalised.
        experiment: step sizes, epochs, batch size, precision.
        round: counts from 1; places the round on the schedule of step sizes.
        generator: decides the order of the samples.
        anneal: let the step sizes fall to 0 from step to step, as half a cosine.
        extrusion: what presses marked weights towards 0; nothing when None. If it has seconds, training ends with them,
            and so another time after another number of steps.
        clock: tells seconds.
        part: which of the round's steps, where the mask changes between two parts; all of them when None. Momentum
            begins anew with each part.
        start: what `training.proximal` holds the network near: (kept,) and (f,) float32, which must not change. The
            values that it has now when None.

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
    ][: settings.steps][slice(None) if part is None else part]
    if not order:
        raise TrainingError(f"{len(samples)} samples are too few for one step of at least 2")
    proximal = None
    if settings.proximal:
        proximal = Proximal.of(network, strength=settings.proximal, start=start)
    optimisers = _optimisers(network, experiment, scale=step_scale(experiment, round=round), steps=len(order))
    steps = [(group, group["lr"]) for optimiser in optimisers for group in optimiser.param_groups]
    total = 0.0
    peaks = PhaseBytes(forward=0, backward=0, update=0)
    # The first step makes the optimisers' state, and what a later one allocates is repeated by all others of its size.
    measured = max(range(min(1, len(order) - 1), len(order)), key=lambda number: len(order[number]))
    timed, began, seen, taken = extrusion is not None and extrusion.seconds is not None, clock(), 0, 0
    for number, batch in enumerate(order):
        share = None if extrusion is None else extrusion.share(number, steps=len(order), elapsed=clock() - began)
        if share is not None and share >= 1 and number > 0:
            break
        for group, step_size in steps:
            factor = (1 + math.cos(math.pi * number / len(order))) / 2 if anneal else 1
            group["lr"] = step_size * factor
        images, labels = dataset.normalised(samples.images[batch]), torch.from_numpy(samples.labels[batch])
        sizes = part_sizes(len(batch), most=settings.at_once)
        parts = list(zip(torch.split(images, sizes), torch.split(labels, sizes), strict=True))
        changes: list[Callable[[], None]] = []
        if proximal is not None:
            changes.append(functools.partial(proximal.add_to_gradients, network))
        if extrusion is not None and share is not None:
            changes.append(functools.partial(_press, extrusion, network, optimisers, share=share))
        half = settings.precision == "bf16"
        step = functools.partial(_step, network.module, parts, optimisers, half=half, changes=changes)
        # Seconds may be over after any step, so that the first ones have to do.
        if number == measured or (timed and number < 2):
            before = _lasting_bytes(network.module, optimisers)
            before += sum(one.held_bytes for one in (extrusion, proximal) if one is not None)
            loss, found = allocations(step)
            # Where nobody measures, what lasts is no peak.
            peaks = _peaks(before, found) if found.peak else peaks
        else:
            loss = step()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss} at step {number + 1}; lower the step sizes")
        total, seen, taken = total + loss * len(batch), seen + len(batch), taken + 1
    if not all(bool(tensor.isfinite().all()) for tensor in network.kept):
        raise TrainingError("a gradient was not finite though the loss was; lower the step sizes")
    return Trained(examples=len(samples), steps=taken, loss=total / seen, peaks=peaks, seen=seen)


def _step(
    module: nn.Module,
    parts: Sequence[tuple[Tensor, Tensor]],
    optimisers: list[torch.optim.Optimizer],
    *,
    half: bool,
    changes: Sequence[Callable[[], None]] = (),
) -> float:
    """One step on a batch in parts, whose gradients add up to those of the batch's mean loss, which it returns.

    `changes` are called when they are there, before the optimisers' step.
    """
    count, value = sum(len(labels) for _, labels in parts), 0.0
    for images, labels in parts:
        with phase("forward"):
            if half:
                images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                outputs = module(images)
            loss = F.cross_entropy(outputs.float(), labels) * (len(labels) / count)
        value += loss.item()
        # A loss that is not finite would only spoil the weights; the caller ends the training.
        if not math.isfinite(value):
            return value
        with phase("backward"):
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    with phase("update"):
        for change in changes:
            change()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    return value


def _press(
    extrusion: Extrusion, network: KeptNetwork, optimisers: list[torch.optim.Optimizer], *, share: float
) -> None:
    """Adds the penalty to the gradients, and raises the learning rate of the coming step."""
    norm = extrusion.norm(network.kept)
    extrusion.add_to_gradients(network.kept)
    for group in (group for optimiser in optimisers for group in optimiser.param_groups):
        group["lr"] = extrusion_rate(share, norm=norm, scheduled=group["lr"], first=extrusion.rate)


def _peaks(lasting: int, found: Allocations) -> PhaseBytes:
    forward, backward, update = (lasting + found.phases.get(name, 0) for name in ("forward", "backward", "update"))
    return PhaseBytes(forward=forward, backward=backward, update=update)


def _lasting_bytes(module: nn.Module, optimisers: list[torch.optim.Optimizer]) -> int:
    states = [s for o in optimisers for state in o.state.values() for s in state.values() if isinstance(s, Tensor)]
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers(), *states))


def _optimisers(
    network: KeptNetwork, experiment: Experiment, *, scale: float, steps: int
) -> list[torch.optim.Optimizer]:
    floats = [t for t in network.floats if t.requires_grad]
    optimisers: list[torch.optim.Optimizer]
    if experiment.representation == "signs":
        signs = experiment.signs
        optimisers = [NormalisedSGD(network.kept, lr=signs.step * scale / math.sqrt(steps))]
        if floats and signs.norm_learning_rate > 0:
            optimisers.append(torch.optim.SGD(floats, lr=signs.norm_learning_rate * scale))
        return optimisers
    if experiment.representation == "supermask":
        own = experiment.supermask
        optimisers = [torch.optim.Adam(network.kept, lr=own.learning_rate * scale)]
        if floats and own.norm_learning_rate > 0:
            optimisers.append(torch.optim.SGD(floats, lr=own.norm_learning_rate * scale))
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
