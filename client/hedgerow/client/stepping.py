"""Small training steps that are really taken and measured, in a process of their own.

What a profiler needs, and what was allocated, goes with that process. It is asked by JSON on its standard input and
answers a line a step on its standard output.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from hedgerow.activations import activations
from hedgerow.assembly import representation_of
from hedgerow.client.planning import base_bytes, limited, tighten, warm
from hedgerow.client.training import train
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import HedgerowError
from hedgerow.models import build_model
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.references import is_reference
from hedgerow.sparse import KeptNetwork
from hedgerow.sparse.kernels import free_scratch

__all__ = ["Step", "steps", "tried_steps"]

_SECONDS = 120.0
"""Within these a step has to be through, and the process to be there; a machine that cannot do that trains nothing."""
_PROFILER = 128_000_000
"""Bytes that the process may take beside the steps, for what measures them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one training step took.

    Attributes:
        forward, backward, update: bytes at most in that phase: the network, the optimiser, and what was allocated.
        scratch: bytes of working memory that native kernels had kept from the step before; in none of the phases.
        kept: how many weights of each prunable tensor were kept.
    """

    forward: int
    backward: int
    update: int
    scratch: int
    kept: Mapping[str, int]

    @property
    def phases(self) -> Mapping[str, int]:
        """By name."""
        return {"forward": self.forward, "backward": self.backward, "update": self.update}

    @property
    def peak(self) -> int:
        """Bytes at most."""
        return max(self.phases.values()) + self.scratch


def steps(experiments: Sequence[Experiment], *, input_shape: tuple[int, int, int], classes: int) -> Iterator[Step]:
    """Takes a step of each experiment, in one process of its own, with samples and weights drawn at random.

    Args:
        experiments: their models, densities and training settings are used. Masks are random.
        input_shape: (C, H, W) of a sample.
        classes: number of outputs.

    Raises:
        ValueError: the process ended before it had taken them all.
        SubprocessError: it took too long.
    """
    found = tried_steps(experiments, input_shape=input_shape, classes=classes)
    for step in found:
        if step is None:
            raise ValueError(f"{sum(one is not None for one in found)} of {len(found)} steps were taken and measured")
        yield step


def tried_steps(
    experiments: Sequence[Experiment], *, input_shape: tuple[int, int, int], classes: int, budget: int | None = None
) -> list[Step | None]:
    """The same, with None for a step that could not be taken.

    Args:
        experiments, input_shape, classes: see `steps`.
        budget: bytes that a step may take, on Linux; as many as there are when None.

    Raises:
        ValueError: the process took none and ended badly.
        SubprocessError: it took too long.
    """
    request = {
        "experiments": [experiment.model_dump(mode="json") for experiment in experiments],
        "input_shape": list(input_shape),
        "classes": classes,
        "threads": torch.get_num_threads(),
        "budget": budget,
    }
    command = [sys.executable, "-m", "hedgerow.client.stepping"]
    limit = _SECONDS * (1 + len(experiments))
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, timeout=limit, env=os.environ, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "null"))]
    found = [None if line is None else Step(**line) for line in lines[: len(experiments)]]
    if done.returncode != 0 and not found:
        reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ValueError(f"0 of {len(experiments)} steps were taken and measured: {reason[0]}")
    return [*found, *[None] * (len(experiments) - len(found))]


def _step(experiment: Experiment, *, input_shape: tuple[int, int, int], classes: int) -> Step:
    """Trains for two steps, the second of which is measured."""
    settings = experiment.training
    free_scratch()  # of an experiment before
    model, mask = _network(
        experiment.model.model_dump_json(),
        experiment.first_density,
        input_shape=input_shape,
        classes=classes,
        hollow=not _needs_weights(experiment),
    )
    storage = activations(settings.activations, keep_ratio=settings.keep_ratio, seed=0, layers=settings.topk_layers)
    network = representation_of(experiment).network(
        model, mask, kernels=settings.kernels, storage=storage, recompute=settings.recompute
    )
    generator = torch.Generator().manual_seed(1)
    _fill(network)
    with torch.no_grad():
        for tensor, (outputs, kept) in zip(network.kept, _fans(mask), strict=True):
            # As large as they would be trained: from weights of 0 only zeros would come.
            tensor.normal_(0, (max(1, kept) / outputs) ** -0.5, generator=generator)
    count = 2 * settings.batch_size
    draws = np.random.default_rng(1)
    images = draws.standard_normal((count, *input_shape), dtype=np.float32)
    samples = Samples(images, np.arange(count, dtype=np.int64) % classes)
    dataset = Dataset(
        "noise",
        train=samples,
        test=samples,
        classes=classes,
        mean=(0.0,) * input_shape[0],
        std=(1.0,) * input_shape[0],
    )
    once = experiment.model_copy(update={"training": settings.model_copy(update={"epochs": 1, "steps": None})})
    peaks = train(network, samples, dataset=dataset, experiment=once, round=1, generator=draws).peaks
    return Step(
        forward=peaks.forward,
        backward=peaks.backward,
        update=peaks.update,
        scratch=free_scratch(),
        kept=mask.layer_kept(),
    )


def _needs_weights(experiment: Experiment) -> bool:
    """Whether what is frozen comes from the weights at initialization."""
    drawn = experiment.representation == "signs" and experiment.signs.magnitude == "random"
    return drawn or experiment.representation == "supermask"


@functools.lru_cache(maxsize=1)
def _network(
    settings: str, density: float, *, input_shape: tuple[int, int, int], classes: int, hollow: bool
) -> tuple[nn.Module, Mask]:
    model = json.loads(settings)
    dense = build_model(
        model["name"],
        input_shape=input_shape,
        classes=classes,
        norm=model["norm"],
        statistics=model["statistics"],
        gain=model["gain"],
        seed=0,
        hollow=hollow and not is_reference(model["name"]),
    )
    # No more than a byte a weight: this machine may have little memory.
    generator, drawn = torch.Generator().manual_seed(0), {}
    for name, weight in prunable_tensors(dense).items():
        bits = torch.empty(weight.shape, dtype=torch.bool).bernoulli_(density, generator=generator)
        bits.view(-1)[0] = True
        drawn[name] = bits
    return dense, Mask(drawn)


def _fill(network: KeptNetwork) -> None:
    """Gives a hollow network norms that let something through."""
    floats = {id(tensor) for tensor in network.floats}
    with torch.no_grad():
        for name, tensor in (*network.module.named_parameters(), *network.module.named_buffers()):
            if id(tensor) in floats and name.rpartition(".")[2] not in ("bias", "running_mean"):
                tensor.fill_(1)


def _fans(mask: Mask) -> Iterator[tuple[int, int]]:
    """Outputs and kept weights of each layer."""
    kept = mask.layer_kept()
    for name, bits in mask.items():
        yield bits.shape[0], kept[name]


def _serve() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(int(request["threads"]))
    first, second, third = request["input_shape"]
    if request["budget"] is not None:
        tighten()
        warm()
    base, budget = base_bytes(), request["budget"]
    most = None if base is None or budget is None else base + _PROFILER + int(budget)
    for one in request["experiments"]:
        experiment = Experiment.model_validate(one)
        step = None
        with limited(most), contextlib.suppress(HedgerowError, MemoryError, RuntimeError):
            step = asdict(_step(experiment, input_shape=(first, second, third), classes=int(request["classes"])))
        sys.stdout.write(json.dumps(step) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
