"""Small training steps that are really taken, to see what they take in memory beyond what is computed.

They are taken in a process of their own: what a profiler needs, and what was allocated, goes with it. It is asked by
JSON on its standard input and answers a line a step on its standard output.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hedgerow.activations import activations
from hedgerow.assembly import representation_of
from hedgerow.budget.prediction import Calibration, Probe
from hedgerow.client.training import train
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import HedgerowError
from hedgerow.ledger import Traced, ledger_of, plan_of
from hedgerow.models import build_model
from hedgerow.native.library import status
from hedgerow.pruning import Mask, initial_mask
from hedgerow.sparse.kernels import free_scratch
from hedgerow.sparse.path_cache import remembered
from hedgerow.sparse.paths import processor

__all__ = ["SIZES", "Step", "calibrated", "calibration_of", "small_steps", "steps"]

SIZES = (2, 4)
"""Samples of the steps that calibrate; predictions are for more."""
_VERSION = 1
_SECONDS = 120.0
"""Within these a step has to be through; a machine that cannot do that trains nothing."""


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


def calibrated(
    experiment: Experiment, network: Traced, *, input_shape: tuple[int, int, int], classes: int
) -> Calibration | None:
    """What steps of an experiment take beyond what is computed, measured once a machine and then remembered.

    It depends on the model, the kernels, how activations are held, and whether blocks run again: hardly on density and
    batch size. `auto` kernels count as native where there are any.

    Args:
        experiment: its model and training settings are used.
        network: what `hedgerow.ledger.traced` found of its model.
        input_shape: (C, H, W) of a sample.
        classes: number of outputs.

    Returns:
        The calibration; None where such a step cannot be taken here, for want of memory above all.
    """
    tried = small_steps(experiment)
    key = _key(experiment, input_shape=input_shape, classes=classes)

    def measure() -> dict[str, Any]:
        found = steps(tried, input_shape=input_shape, classes=classes)
        return asdict(calibration_of(network, list(zip(tried, found, strict=True))))

    try:
        decision = remembered(key, read=_read, measure=measure)
        return _read(measure()) if decision is None else decision[0]
    except (HedgerowError, OSError, subprocess.SubprocessError, ValueError):
        return None


def small_steps(experiment: Experiment) -> list[Experiment]:
    """The experiments to take a step of each, so as to calibrate one: with `SIZES` samples, and kernels by name."""
    return [_small(experiment, samples) for samples in SIZES]


def calibration_of(network: Traced, found: Sequence[tuple[Experiment, Step]]) -> Calibration:
    """What the steps of `small_steps` say of the network that was traced."""
    probes = []
    for experiment, step in found:
        plan = plan_of(experiment, native=experiment.training.kernels == "native")
        computed = ledger_of(network, step.kept, plan)
        probes.append(Probe(samples=plan.samples, computed=computed, phases=step.phases))
    return Calibration.of(probes)


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
    request = {
        "experiments": [experiment.model_dump(mode="json") for experiment in experiments],
        "input_shape": list(input_shape),
        "classes": classes,
        "threads": torch.get_num_threads(),
    }
    command = [sys.executable, "-m", "hedgerow.client.calibrating"]
    limit = _SECONDS * max(1, len(experiments))
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, timeout=limit, env=os.environ, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or len(lines) != len(experiments):
        reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ValueError(f"{len(lines)} of {len(experiments)} steps were taken and measured: {reason[0]}")
    for line in lines:
        yield Step(**json.loads(line))


def _small(experiment: Experiment, samples: int) -> Experiment:
    """The experiment with batches of so many samples, in one part, and the kernels by name."""
    settings = experiment.training
    kernels = settings.kernels
    if kernels == "auto":
        kernels = "native" if status().available else "dense"
    training = settings.model_copy(update={"batch_size": samples, "micro_batch": None, "kernels": kernels})
    return experiment.model_copy(update={"training": training})


def _key(experiment: Experiment, *, input_shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    small = _small(experiment, SIZES[0])
    training, model = small.training, small.model
    return {
        "what": "memory of a step",
        "version": _VERSION,
        "machine": [processor(), status().isa, status().digest, torch.__version__, torch.get_num_threads()],
        "samples": list(SIZES),
        "input": [*input_shape, classes],
        "model": model.model_dump(mode="json"),
        "representation": [small.representation, small.weights.momentum > 0, small.signs.magnitude],
        "training": [training.kernels, training.activations, training.keep_ratio, training.topk_layers],
        "recompute": training.recompute,
        "precision": training.precision,
        # What is computed for one density holds for others, but two may be told apart at no cost.
        "density": small.first_density,
        # What was measured without it stays known.
        **({"proximal": True} if training.proximal else {}),
    }


def _read(found: Any) -> Calibration:
    """A calibration from JSON; ValueError, KeyError or TypeError where it is none."""
    fixed, each = ({str(name): float(size) for name, size in found[part].items()} for part in ("fixed", "each"))
    if not all(np.isfinite(size) for size in (*fixed.values(), *each.values())):
        raise ValueError("a calibration is not finite")
    return Calibration(fixed=fixed, each=each)


def _step(experiment: Experiment, *, input_shape: tuple[int, int, int], classes: int) -> Step:
    """Trains for two steps, the second of which is measured."""
    settings = experiment.training
    free_scratch()  # of an experiment before
    model, mask = _network(
        experiment.model.model_dump_json(), experiment.first_density, input_shape=input_shape, classes=classes
    )
    storage = activations(settings.activations, keep_ratio=settings.keep_ratio, seed=0, layers=settings.topk_layers)
    network = representation_of(experiment).network(
        model, mask, kernels=settings.kernels, storage=storage, recompute=settings.recompute
    )
    generator = torch.Generator().manual_seed(1)
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


@functools.lru_cache(maxsize=1)
def _network(
    settings: str, density: float, *, input_shape: tuple[int, int, int], classes: int
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
    )
    mask = initial_mask(dense, input_shape, saliency="random", rule="uniform", density=density, iterations=1, seed=0)
    return dense, mask


def _fans(mask: Mask) -> Iterator[tuple[int, int]]:
    """Outputs and kept weights of each layer."""
    kept = mask.layer_kept()
    for name, bits in mask.items():
        yield bits.shape[0], kept[name]


def _serve() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(int(request["threads"]))
    first, second, third = request["input_shape"]
    for one in request["experiments"]:
        experiment = Experiment.model_validate(one)
        step = _step(experiment, input_shape=(first, second, third), classes=int(request["classes"]))
        sys.stdout.write(json.dumps(asdict(step)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
