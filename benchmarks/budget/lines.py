"""What is trained: dynamic recipes beside each other, and fleets with several sizes of memory."""

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
    "FLEETS",
    "LINES",
    "QUICK_LINES",
    "SAME_NETWORK",
    "SIZES",
    "Class",
    "Fleet",
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
_QUICK_LINE: Overrides = {
    # Activations are what differs.
    "model.name": "conv4",
    "training.batch_size": 64,
    "training.steps": 4,
    "rounds": 4,
    "adjustment.every": 2,
    "adjustment.until": 2,
}


@dataclass(frozen=True, slots=True)
class Class:
    """A size of memory, as a multiple of the smallest."""

    name: str
    multiple: int


SIZES = (Class("small", 1), Class("medium", 2), Class("large", 4))
CLASSES: Mapping[str, tuple[Class, ...]] = {"mixed": SIZES, "small": SIZES[:1], "large": SIZES[-1:]}
"""Each line's classes, with as many clients each."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Devices with `SIZES` of memory, of which the smallest is just enough.

    Attributes:
        settings: of its runs.
        level: what the smallest memory is enough for with momentum and activations as they are: all kept weights at
            level 0, the smallest part that there is at level -1.
        samples: that go through the network at once in it, or more.
    """

    settings: Overrides
    level: int
    samples: int


_FLEET: Overrides = {
    "representation": "weights",
    "fleet.clients": 12,
    "fleet.cohort": 6,
    "pruning.saliency": "random",
    "pruning.rule": "erk",
    # Parts of a batch then give the step of the whole.
    "model.norm": "nsconv",
    "model.gain": 1.714,
    "budget.plan": True,
    "budget.levels": [1.0, 0.5, 0.25, 0.125],
}
FLEETS: Mapping[str, Fleet] = {
    # Of fewer samples at once, less memory would do too, at several times the seconds.
    "classes": Fleet({**_FLEET, "rounds": 20, "pruning.density": 0.05}, level=0, samples=8),
    "parts": Fleet({**_FLEET, "rounds": 30, "pruning.density": 0.2}, level=-1, samples=1),
}
"""One of which all devices train all kept weights, and one of which only the largest do."""
_QUICK_FLEET: Overrides = {
    "model.name": "conv4",
    "rounds": 2,
    "fleet.clients": 6,
    "fleet.cohort": 3,
    "training.steps": 4,
}
"""A network that is large beside what any request takes, or all sizes of memory would do for a whole batch."""


def _kernels() -> Overrides:
    # Which are chosen by measurement would decide what a step takes.
    return {"training.kernels": "native" if status().available else "dense"}


def experiment_of(line: str, *, data: Overrides, seed: int, quick: bool) -> Experiment:
    """The settings of one of `LINES`, with those of the data set."""
    base = {**QUICK, **_QUICK_LINE, **_kernels()} if quick else {**FEDERATED, **_kernels()}
    overrides = {**base, **data, **LINES[line].changes, "seed": seed}
    return load_experiment(recipe=LINES[line].recipe, overrides=overrides.items())


def class_experiment(fleet: Fleet, line: str, *, data: Overrides, seed: int, quick: bool, smallest: int) -> Experiment:
    """The settings of one of `CLASSES`, with those of the data set.

    Args:
        fleet: what is trained.
        line: the name of its classes.
        data: settings of the data set.
        seed: of the run.
        quick: a small one.
        smallest: the smallest class's memory in bytes.
    """
    classes = CLASSES[line]
    share = round(1 / len(classes), 7)
    devices = [{"name": c.name, "share": share, "memory": str(c.multiple * smallest)} for c in classes]
    return _experiment(fleet, data, seed=seed, quick=quick, more={"fleet.devices": devices})


def budgets(fleet: Fleet, *, data: Overrides, quick: bool) -> int:
    """The smallest class's memory in bytes, whole megabytes: what it has to be enough for, by whatever else takes the
    least.
    """
    decider = _decider(_experiment(fleet, data, seed=0, quick=quick, more={}))
    levels = sorted({candidate.level for candidate in decider.candidates})
    least = min(
        decider.predict(one)
        for one in decider.candidates
        if one.level == levels[fleet.level]
        and one.micro_batch >= fleet.samples
        and one.momentum
        and one.activations == "exact"
    )
    return math.ceil(least * GUARD / 1e6) * 1_000_000


def plans(fleet: Fleet, *, data: Overrides, quick: bool, smallest: int) -> dict[str, DevicePlan]:
    """What each of `SIZES` plans, by its name."""
    decider = _decider(_experiment(fleet, data, seed=0, quick=quick, more={}))
    found = {}
    for one in SIZES:
        plan = decider.decide(one.multiple * smallest)
        assert isinstance(plan, DevicePlan), "the smallest was made to be enough"
        found[one.name] = plan
    return found


def _experiment(fleet: Fleet, data: Overrides, *, seed: int, quick: bool, more: Overrides) -> Experiment:
    base = {**QUICK, **fleet.settings, **_QUICK_FLEET} if quick else {**FEDERATED, **fleet.settings, **_kernels()}
    return load_experiment(recipe="fedavg", overrides={**base, **data, **more, "seed": seed}.items())


def _decider(experiment: Experiment) -> Decider:
    dataset = dataset_of(experiment)
    model = model_of(experiment, dataset, hollow=True)
    levels = estimated_levels(experiment, model)
    return Decider(experiment, model, input_shape=dataset.input_shape, levels=levels)
