"""What is compared: all recipes, and the recipe `hedgerow` with a piece less or a piece more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.trainings import FEDERATED, QUICK, Overrides
from hedgerow.config import recipe_named
from hedgerow.native.library import status
from hedgerow.server.comparing.lines import Line

__all__ = [
    "ABLATIONS",
    "ADDITIONS",
    "LINES",
    "OURS",
    "QUICK_LINES",
    "RECIPES",
    "ROUNDS",
    "YARDSTICK",
    "lines_of",
    "rounds_of",
    "shared_settings",
]

OURS, YARDSTICK = "hedgerow", "fedavg"
RECIPES = (
    YARDSTICK,
    "fedprox",
    "fedpm",
    "static-synflow",
    "static-magnitude",
    "static-lamp",
    "static-random",
    "static-snip",
    "rigl",
    "gmp",
    "prunefl",
    "feddst",
    "fedtiny",
    "fedmef",
    "hidenseek",
    OURS,
)
"""The first is what the others are compared with."""
ABLATIONS: Mapping[str, Overrides] = {
    "random-erk": {"pruning.rule": "erk"},
    "synflow": {"pruning.saliency": "synflow", "pruning.rule": "global"},
    "signs-first": {"representation": "signs"},
    "signs-alone": {"representation": "signs", "finish.share": 0.0},
    # As large as the batch: an experiment's file has no way to say that it is absent.
    "whole-batch": {"training.micro_batch": FEDERATED["training.batch_size"]},
    "one-cohort": {"aggregation.statistics": 1.0},
    "half-precision-down": {"wire.down": "bf16"},
    "coarser-changes-up": {"wire.step": 2.0},
    "no-entropy-coding": {"wire.coder": "plain"},
    "no-memory-of-versions": {"wire.history": 0},
}
"""What each changes of `hedgerow`: one of its axes is turned off, or is what another method has there."""
ADDITIONS: Mapping[str, Overrides] = {
    "with-selection": {"selection.candidates": 3},
    "with-adjustment": {"adjustment.every": 12},
    "with-error-feedback": {"wire.error_feedback": True},
}
"""What each changes of `hedgerow`: it has a piece more, which the recipe leaves out."""
LINES = (*RECIPES, *ABLATIONS, *ADDITIONS)
QUICK_LINES = (YARDSTICK, "hidenseek", OURS, "with-adjustment")
"""A run is a few seconds of starting a worker, however small it is."""

ROUNDS, _QUICK_ROUNDS = 60, 4
_MANY: Overrides = {
    **FEDERATED,
    "fleet.clients": 100,
    "data.partition": "dirichlet",
    "data.alpha": 0.5,
    # As many as half the rounds of twice the steps: everything learns more from those, signs most of all.
    "training.steps": 10,
    "evaluation.every": 10,
}
_QUICK: Overrides = {**QUICK, "pruning.iterations": 10}
_QUICK_PARTS: Overrides = {"selection.trial_steps": 5, "adjustment.every": 1}
"""In place of what a line says of these; what it does without stays so."""


def rounds_of(wanted: int | None, *, quick: bool) -> int:
    """How many rounds all lines have: those that are wanted, or the benchmark's own."""
    return wanted or (_QUICK_ROUNDS if quick else ROUNDS)


def shared_settings(data: Overrides, *, rounds: int, quick: bool) -> dict[str, object]:
    """What all lines have, so that they differ in their recipes only; with the settings of the data set."""
    if quick:
        return {**_QUICK, **data, "rounds": rounds}
    # Which are chosen by measurement would decide what a step takes.
    return {**_MANY, "training.kernels": "native" if status().available else "dense", **data, "rounds": rounds}


def lines_of(names: Iterable[str], *, rounds: int, quick: bool) -> Sequence[Line]:
    """The lines of these names. Who changes the mask does so in the first four fifths of the rounds."""
    return [_line(name, last=4 * rounds // 5, quick=quick) for name in names]


def _line(name: str, *, last: int, quick: bool) -> Line:
    recipe = name if name in RECIPES else OURS
    there = recipe_named(recipe).settings
    own = {**ABLATIONS.get(name, {}), **ADDITIONS.get(name, {})}
    if quick:
        own |= {key: value for key, value in _QUICK_PARTS.items() if own.get(key, _said(there, key))}
    if own.get("adjustment.every", _said(there, "adjustment.every")):
        own["adjustment.until"] = last
    return Line(name=name, recipe=recipe, settings=tuple(own.items()))


def _said(settings: Mapping[str, object], key: str) -> object:
    """What a recipe says of a setting; None where it says nothing."""
    section, _, name = key.partition(".")
    found = settings.get(section)
    return found.get(name) if isinstance(found, dict) else None
