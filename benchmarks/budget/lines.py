"""What is trained: dynamic recipes beside each other, and one fleet with several sizes of memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.trainings import FEDERATED, QUICK, Overrides
from hedgerow.assembly import dataset_of, model_of
from hedgerow.budget import GUARD, DevicePlan
from hedgerow.budget.deciding import Decider, estimated_levels
from hedgerow.config import Experiment, load_experiment
from hedgerow.native.library import status

__all__ = [
    "CLASSES",
    "LINES",
    "QUICK_LINES",
    "SIZES",
    "Class",
    "Line",
    "budgets",
    "class_experiment",
    "experiment_of",
    "plans",
]


@dataclass(frozen=True, slots=True)
class Line:
    """A recipe, and what of it is changed."""

    recipe: str
    changes: Overrides


LINES: Mapping[str, Line] = {
    "rigl": Line("rigl", {}),
    "fedmef": Line("fedmef", {}),
    "fedmef-no-extrusion": Line("fedmef", {"extrusion.penalty": 0.0}),
    "fedmef-batch-norm": Line("fedmef", {"model.norm": "batch", "training.topk_layers": "all"}),
}
"""Recipes that change their masks alike, on the same splits and cohorts."""
QUICK_LINES = ("rigl", "fedmef")
"""A run is a few seconds of starting a worker, however small it is."""
_QUICK_ADJUSTMENT: Overrides = {"adjustment.every": 2, "adjustment.until": 4}


@dataclass(frozen=True, slots=True)
class Class:
    """A size of memory, as a multiple of the smallest."""

    name: str
    multiple: int


SIZES = (Class("small", 1), Class("medium", 2), Class("large", 4))
CLASSES: Mapping[str, tuple[Class, ...]] = {"mixed": SIZES, "small": SIZES[:1], "large": SIZES[-1:]}
"""Each line's classes, with as many clients each."""
_FLEET: Overrides = {
    "representation": "weights",
    "fleet.clients": 12,
    "fleet.cohort": 6,
    "pruning.saliency": "random",
    "pruning.rule": "erk",
    "pruning.density": 0.4,
    "budget.plan": True,
    "budget.levels": [1.0, 0.5, 0.25, 0.125],
}
_QUICK_FLEET: Overrides = {
    "model.name": "conv4",
    "rounds": 2,
    "fleet.clients": 6,
    "fleet.cohort": 3,
    "training.steps": 4,
}
"""A network that is large beside what any request takes, or all budgets would do for all of it."""


def _kernels() -> Overrides:
    # Which are chosen by measurement would decide what a step takes.
    return {"training.kernels": "native" if status().available else "dense"}


def experiment_of(line: str, *, data: Overrides, seed: int, quick: bool) -> Experiment:
    """The settings of one of `LINES`, with those of the data set."""
    base = {**QUICK, **_QUICK_ADJUSTMENT} if quick else {**FEDERATED, **_kernels()}
    overrides = {**base, **data, **LINES[line].changes, "seed": seed}
    return load_experiment(recipe=LINES[line].recipe, overrides=overrides.items())


def class_experiment(line: str, *, data: Overrides, seed: int, quick: bool, smallest: int) -> Experiment:
    """The settings of one of `CLASSES`, with those of the data set.

    Args:
        line: its name.
        data: settings of the data set.
        seed: of the run.
        quick: a small one.
        smallest: the smallest class's memory in bytes.
    """
    classes = CLASSES[line]
    share = round(1 / len(classes), 7)
    devices = [{"name": c.name, "share": share, "memory": str(c.multiple * smallest)} for c in classes]
    return _fleet(data, seed=seed, quick=quick, more={"fleet.devices": devices})


def budgets(*, data: Overrides, quick: bool) -> int:
    """The smallest class's memory in bytes, whole megabytes: enough for an eighth of the kept weights with momentum and
    activations as they are, by whatever else takes the least.
    """
    decider = _decider(_fleet(data, seed=0, quick=quick, more={}))
    last = max(candidate.level for candidate in decider.candidates)
    least = min(
        decider.predict(candidate)
        for candidate in decider.candidates
        if candidate.level == last and candidate.momentum and candidate.activations == "exact"
    )
    return math.ceil(least * GUARD / 1e6) * 1_000_000


def plans(*, data: Overrides, quick: bool, smallest: int) -> dict[str, DevicePlan]:
    """What each of `SIZES` plans, by its name."""
    decider = _decider(_fleet(data, seed=0, quick=quick, more={}))
    found = {}
    for one in SIZES:
        plan = decider.decide(one.multiple * smallest)
        assert isinstance(plan, DevicePlan), "the smallest was made to be enough"
        found[one.name] = plan
    return found


def _fleet(data: Overrides, *, seed: int, quick: bool, more: Overrides) -> Experiment:
    base = {**QUICK, **_FLEET, **_QUICK_FLEET} if quick else {**FEDERATED, **_FLEET, **_kernels()}
    return load_experiment(recipe="fedavg", overrides={**base, **data, **more, "seed": seed}.items())


def _decider(experiment: Experiment) -> Decider:
    dataset = dataset_of(experiment)
    model = model_of(experiment, dataset, hollow=True)
    levels = estimated_levels(experiment, model)
    return Decider(experiment, model, input_shape=dataset.input_shape, levels=levels)
