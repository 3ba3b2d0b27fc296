"""Who is asked in a round."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hedgerow.config import Experiment
from hedgerow.errors import RunError
from hedgerow.seeds import numpy_generator

__all__ = ["cohort_of"]

_ROUNDING = 1e-9
"""A fraction that should come to a whole number of clients may come to a bit more."""


def cohort_of(experiment: Experiment, nodes: Sequence[int], *, round: int, least: int | None = None) -> list[int]:
    """The nodes that a round asks, drawn without replacement from (seed, round), in ascending order.

    Args:
        experiment: says how many are asked; all are where there are fewer.
        nodes: those that are there.
        round: the round.
        least: how many have to be there; `fleet.cohort` when None.

    Raises:
        RunError: there are fewer nodes than that.
    """
    fleet = experiment.fleet
    needed = fleet.cohort if least is None else least
    if len(nodes) < needed:
        raise RunError(f"round {round}: the cohort needs {needed} clients and only {len(nodes)} are there")
    size = min(len(nodes), fleet.cohort + math.ceil(fleet.cohort * fleet.oversampling - _ROUNDING))
    chosen = numpy_generator(experiment.seed, "cohort", round).choice(len(nodes), size, replace=False)
    return sorted(nodes[i] for i in chosen)
