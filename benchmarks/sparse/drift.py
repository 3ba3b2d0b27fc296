"""How far losses drift from the dense network's while it trains, beside what another thread count does to those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sparse.networks import (
    Case,
    dense_copy,
    kept_network,
    mask_of,
    model_of,
    trained_tensors,
    training_step,
)
from hedgerow.data import load_dataset

__all__ = ["Drift", "loss_drift"]


SHAPE = (3, 16, 16)
_BATCH = 32
_THREADS = (2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Largest differences of a step's loss from the dense network's on one thread, in nats.

    Attributes:
        ours: the sparse network, on one thread.
        threads: the dense network, on two, three and four threads.
        last: the dense network's loss in the last step.
    """

    ours: float
    threads: tuple[float, ...]
    last: float


def loss_drift(case: Case, *, steps: int, seed: int) -> Drift:
    """Trains from the same weights on the same batches of 32 digits, scaled up to 3x16x16.

    Differences in rounding grow with every step, so one such figure says little: it takes several seeds.
    """
    batches = _batches(steps, seed=seed)
    dense = _losses(case, batches, seed=seed, kind="dense", threads=1)
    others = [_losses(case, batches, seed=seed, kind="dense", threads=threads) for threads in _THREADS]
    ours = _losses(case, batches, seed=seed, kind="sparse", threads=1)
    return Drift(ours=_largest(dense, ours), threads=tuple(_largest(dense, other) for other in others), last=dense[-1])


def _largest(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _batches(count: int, *, seed: int) -> list[tuple[Tensor, Tensor]]:
    digits = load_dataset("digits")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        chosen = torch.randint(len(digits.train), (_BATCH,), generator=generator).numpy()
        images = F.interpolate(digits.normalised(digits.train.images[chosen]), SHAPE[1:], mode="bilinear")
        labels = torch.from_numpy(digits.train.labels[chosen])
        found.append((images.expand(-1, SHAPE[0], -1, -1).contiguous(), labels))
    return found


def _losses(case: Case, batches: list[tuple[Tensor, Tensor]], *, seed: int, kind: str, threads: int) -> list[float]:
    model = model_of(case, shape=SHAPE, seed=seed)
    mask = mask_of(case, model, seed=seed)
    module: nn.Module
    trained: Sequence[Tensor]
    if kind == "dense":
        module = dense_copy(model, mask)
        trained = list(module.parameters())
    else:
        network = kept_network(model, mask)
        module, trained = network.module, trained_tensors(network)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        step = training_step(module, trained)
        return [step(images, labels) for images, labels in batches]
    finally:
        torch.set_num_threads(before)
