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
    "SAME_NETWORK",
    "SIZES",
    "Class",
    "Line",
    "budgets",
    "class_experiment",
    "experiment_of",
    "plans",
]


SAME_NETWORK = "rigl-nsconv"
"""The network of `fedmef`, trained by the recipe `rigl`."""


@dataclass(frozen=True, slots=True)
class Line:
    """A recipe, and what of it is changed."""

    recipe: str
    changes: Overrides


LINES: Mapping[str, Line] = {
    "rigl": Line("rigl", {}),
    SAME_NETWORK: Line("rigl", {"model.norm": "nsconv", "model.gain": 1.714}),
    "fedmef": Line("fedmef", {}),
    "fedmef-no-extrusion": Line("fedmef", {"extrusion.penalty": 0.0}),
}
"""Recipes that change their masks alike, on the same splits and cohorts."""
QUICK_LINES = (SAME_NETWORK, "fedmef")
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
    "rounds": 20,
    "fleet.clients": 12,
    "fleet.cohort": 6,
    "pruning.saliency": "random",
    "pruning.rule": "erk",
    "pruning.density": 0.05,
    # Parts of a batch then give the step of the whole.
    "model.norm": "nsconv",
    "model.gain": 1.714,
    "budget.plan": True,
    "budget.levels": [1.0, 0.5, 0.25, 0.125],
}
_LEAST_PART = 8
"""Samples at once that the smallest memory is enough for; fewer would do, at several times the seconds."""
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
    """The smallest class's memory in bytes, whole megabytes: enough for all kept weights with momentum and activations
    as they are, so many samples at once, by whatever else takes the least.
    """
    decider = _decider(_fleet(data, seed=0, quick=quick, more={}))
    least = min(
        decider.predict(one)
        for one in decider.candidates
        if one.level == 0 and one.momentum and one.activations == "exact" and one.micro_batch >= _LEAST_PART
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
