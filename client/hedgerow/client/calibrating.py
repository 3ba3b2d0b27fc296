"""What training steps take on this machine beyond what is computed: small ones are really taken, and remembered.

What they took is remembered as it was measured, so that it stays right when what is computed changes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any, TypeAlias

import torch

from hedgerow.budget import Candidate, candidates
from hedgerow.budget.plans import Kernels
from hedgerow.budget.prediction import Calibration, Probe
from hedgerow.client.stepping import Step, tried_steps
from hedgerow.config import Experiment, FinishSettings, TrainingSettings
from hedgerow.errors import HedgerowError
from hedgerow.ledger import Traced, ledger_of, plan_of
from hedgerow.native.library import status
from hedgerow.sparse.path_cache import known, remembered
from hedgerow.sparse.paths import processor

__all__ = ["SIZES", "Calibrator", "calibration_of", "calibrations", "small_steps"]

SIZES = (2, 4)
"""Samples of the steps that calibrate; predictions are for more."""
_VERSION = 2
_MOST = 1 << 48
"""Bytes that no step takes."""
_MORE = 1.25
"""Times the memory that a step was refused in, with which it is tried again; what is free is never twice the same."""

_Way: TypeAlias = tuple[Kernels, str, bool]
"""Kernels, how activations are held, and whether blocks run again: what a calibration depends on."""


class Calibrator:
    """Says what steps of an experiment take on this machine beyond what is computed; a `Calibrate` of the decider's.

    All ways to train are measured when the first is asked about, as to start a process for it takes longer than most of
    them; what was measured is remembered (`calibrations`).

    Args:
        experiment: its model and training settings are used.
        input_shape: (C, H, W) of a sample.
        classes: number of outputs.
        budget: bytes that steps may take; as many as there are when None.
        measure: whether to measure what is not remembered.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        input_shape: tuple[int, int, int],
        classes: int,
        budget: int | None = None,
        measure: bool = True,
    ) -> None:
        self._input_shape, self._classes, self._budget, self._measure = input_shape, classes, budget, measure
        native = status().available
        self._ways: dict[_Way, Experiment] = {}
        for candidate in candidates(experiment, native=native):
            self._ways |= _ways(candidate, experiment, native=native)
        self._found: Mapping[_Way, Calibration | None] | None = None

    def __call__(self, network: Traced, candidate: Candidate) -> Calibration | None:
        """The calibration for a candidate with `native` or `dense` kernels; None where there is none."""
        if self._found is None:
            found = calibrations(
                list(self._ways.values()),
                network,
                input_shape=self._input_shape,
                classes=self._classes,
                budget=self._budget,
                measure=self._measure,
            )
            self._found = dict(zip(self._ways, found, strict=True))
        return self._found.get(_way(candidate))


def calibrations(
    experiments: Sequence[Experiment],
    network: Traced,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    budget: int | None = None,
    measure: bool = True,
) -> list[Calibration | None]:
    """What steps of experiments take beyond what is computed, measured once a machine and then remembered.

    It depends on the model, the kernels, how activations are held, and whether blocks run again: hardly on density and
    batch size. `auto` kernels count as native where there are any. Versions of this package, of torch and of the
    kernels, the processor and the number of threads are part of what is remembered, and so is what could not be
    measured within the budget, until there is a larger one.

    Args:
        experiments: one or more, of one model; its and their training settings are used.
        network: what `hedgerow.ledger.traced` found of the model.
        input_shape: (C, H, W) of a sample.
        classes: number of outputs.
        budget: bytes that a step may take; as many as there are when None.
        measure: whether to measure what is not remembered.

    Returns:
        The calibration of each; None where such a step cannot be taken here, for want of memory above all.
    """
    small = [small_steps(one) for one in experiments]
    key = _key(small, network, input_shape=input_shape, classes=classes)

    def taken() -> dict[str, Any]:
        found = tried_steps(
            [one for pair in small for one in pair], input_shape=input_shape, classes=classes, budget=budget
        )
        return {"budget": budget, "steps": [None if step is None else asdict(step) for step in found]}

    def read(content: Any) -> list[Step | None]:
        found = [None if step is None else _read(step, network) for step in content["steps"]]
        tried = content["budget"]
        if len(found) != len(SIZES) * len(small):
            raise ValueError("these are other steps")
        if None in found and tried is not None and (budget is None or budget > _MORE * tried):
            raise ValueError("there is more memory now")
        return found

    try:
        if measure:
            decision = remembered(key, read=read, measure=taken)
            found = read(taken()) if decision is None else decision[0]
        else:
            found = known(key, read=read) or []
    except (HedgerowError, OSError, subprocess.SubprocessError, ValueError):
        found = []
    return [_of_pair(network, pair, found[2 * n : 2 * n + 2]) for n, pair in enumerate(small)]


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


def _way(candidate: Candidate) -> _Way:
    return candidate.kernels, candidate.activations, candidate.recompute


def _ways(candidate: Candidate, experiment: Experiment, *, native: bool) -> dict[_Way, Experiment]:
    """The ways that a candidate may be trained in, and an experiment that is trained so with its own optimiser."""
    names: list[Kernels] = [candidate.kernels]
    if candidate.kernels == "auto":
        names = ["native", "dense"] if native else ["dense"]
    momentum = Candidate.of(experiment).momentum
    each = [replace(candidate, kernels=name, momentum=momentum) for name in names]
    return {_way(one): one.applied(experiment) for one in each}


def _of_pair(network: Traced, pair: Sequence[Experiment], found: Sequence[Step | None]) -> Calibration | None:
    taken = [(one, step) for one, step in zip(pair, found, strict=False) if step is not None]
    return calibration_of(network, taken) if len(taken) == len(SIZES) else None


def _small(experiment: Experiment, samples: int) -> Experiment:
    """The experiment with batches of so many samples, in one part, and the kernels by name."""
    settings = experiment.training
    kernels = settings.kernels
    if kernels == "auto":
        kernels = "native" if status().available else "dense"
    training = settings.model_copy(update={"batch_size": samples, "micro_batch": None, "kernels": kernels})
    # The process that takes them is asked for one step, which belongs to no round.
    return experiment.model_copy(update={"training": training, "finish": FinishSettings()})


def _key(
    small: Sequence[Sequence[Experiment]], network: Traced, *, input_shape: tuple[int, int, int], classes: int
) -> dict[str, Any]:
    first = small[0][0]
    return {
        "what": "memory of a step",
        "version": [_VERSION, version("hedgerow")],
        "machine": [processor(), status().isa, status().digest, torch.__version__, torch.get_num_threads()],
        "samples": list(SIZES),
        "input": [*input_shape, classes],
        "model": first.model.model_dump(mode="json"),
        # A user's own model may have changed behind its name.
        "network": [[name, *shape] for name, shape in network.sizes.items()],
        "representation": [first.representation, first.weights.momentum > 0, first.signs.magnitude],
        "ways": [_settings(pair[0].training) for pair in small],
        # What is computed for one density holds for others, but two may be told apart at no cost.
        "density": first.first_density,
        # What was measured without it stays known.
        **({"proximal": True} if first.training.proximal else {}),
    }


def _settings(training: TrainingSettings) -> list[Any]:
    kept = [training.keep_ratio, training.topk_layers]
    return [training.kernels, training.activations, *kept, training.recompute, training.precision]


def _read(found: Any, network: Traced) -> Step:
    """A step from JSON; ValueError, KeyError or TypeError where it is none of this network."""
    sizes = {name: found[name] for name in ("forward", "backward", "update", "scratch")}
    kept = dict(found["kept"])
    if kept.keys() != network.sizes.keys():
        raise ValueError("a step is of another network")
    if not all(type(size) is int and 0 <= size < _MOST for size in (*sizes.values(), *kept.values())):
        raise ValueError("a step did not take so many bytes")
    return Step(**sizes, kept=kept)
