"""What is trained: static masks, a choice among them, and masks that change, on the same splits and cohorts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.trainings import FEDERATED, QUICK, Overrides
from hedgerow.config import Experiment, load_experiment

__all__ = ["CHOSEN", "LINES", "POOL", "QUICK_LINES", "Run", "candidates", "pool_line"]

FEDTINY: Overrides = {
    "selection.candidates": 3,
    "selection.trial_steps": 40,
    "adjustment.every": 3,
    "adjustment.until": 24,
    "adjustment.blocks": 4,
    "adjustment.batch_size": 128,
    "adjustment.relative": True,
}
"""A choice among the pool and progressive pruning; the other lines have parts of it."""
QUICK_LINES = ("synflow", "random", "random-igq", "selected", "fedtiny", "fedtiny-public")
"""A run is a few seconds of starting a worker, however small it is."""
_QUICK_PARTS: Overrides = {
    "selection.candidates": 3,
    "selection.trial_steps": 5,
    "selection.public_samples": 200,
    "adjustment.every": 2,
    "adjustment.until": 4,
    "adjustment.blocks": 2,
}
"""In place of what a line says of these; what it does not say stays unsaid."""


def _static(saliency: str, rule: str) -> Overrides:
    return {"pruning.saliency": saliency, "pruning.rule": rule}


def _part(*sections: str) -> Overrides:
    return {key: value for key, value in FEDTINY.items() if key.startswith(sections)}


POOL: Mapping[str, Overrides] = {
    "synflow": _static("synflow", "global"),
    "random": _static("random", "erk"),
    "random-igq": _static("random", "igq"),
    "lamp": _static("lamp", "global"),
    "magnitude": _static("magnitude", "erk"),
}
"""What the pool begins with, in its order, as static masks; devices choose among the first of them."""
CHOSEN: Mapping[str, Overrides] = {
    "selected": {**_part("selection."), "selection.trial_steps": 0},
    "selected-trial": _part("selection."),
}
"""A choice, and nothing but it."""
LINES: Mapping[str, Overrides] = {
    **POOL,
    **CHOSEN,
    "progressive": {**POOL["synflow"], **_part("adjustment.")},
    "fedtiny": FEDTINY,
    "fedtiny-public": {**FEDTINY, "selection.public_samples": 1000},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training."""

    line: str
    density: float
    seed: int

    def experiment(self, data: Overrides, *, quick: bool) -> Experiment:
        """Its settings, with those of the data set."""
        own: Overrides = LINES[self.line]
        if quick:
            own = {key: _QUICK_PARTS.get(key, value) if value else value for key, value in own.items()}
        base = QUICK if quick else FEDERATED
        overrides = {**base, **data, **own, "pruning.density": self.density, "seed": self.seed}
        return load_experiment(recipe="fedavg", overrides=overrides.items())


def candidates(*, quick: bool) -> list[str]:
    """The static lines that are made as the networks are that devices choose among, in the order of the pool."""
    count = (_QUICK_PARTS if quick else FEDTINY)["selection.candidates"]
    assert isinstance(count, int)
    return list(POOL)[:count]


def pool_line(candidate: str) -> str | None:
    """The line whose static mask is made as a candidate's is, such as `synflow/global`; None where there is none."""
    made = {f"{own['pruning.saliency']}/{own['pruning.rule']}": line for line, own in POOL.items()}
    return made.get(candidate)
