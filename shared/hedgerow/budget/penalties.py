"""What each step towards less memory costs in accuracy and in time.

These are priors, from published results and from what is known of the steps, until the project's benchmark has measured
them: they decide an order, and no figure should be quoted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from hedgerow.budget.plans import Candidate, Kernels, Storage
from hedgerow.config import Experiment
from hedgerow.sparse import NATIVE_BELOW

__all__ = ["penalty_of", "time_of"]

STORAGE: Mapping[Storage, float] = {"exact": 0.0, "int8": 0.02, "int4": 0.2, "topk": 0.5}
"""Points, by how activations are kept. The gradients' cosine is 0.99999 with int8, 0.999 with int4."""
PARTS_WITH_BATCH_NORM = 0.1
"""Points of parts of 8 samples or more, whose statistics a batch norm takes; doubles with each halving below."""
NO_MOMENTUM = 0.5
"""Points of plain steps in place of those with momentum."""
LEVEL_AT = (0.2, 0.5)
"""A density, and the points that half of the weights cost there …"""
LEVEL_SLOPE = 0.5
"""… and how many more for each halving of that density."""
LEAST_LEVEL = 0.25
"""Points that half of the weights cost at least."""

RECOMPUTE_TIME = 4 / 3
STORAGE_TIME: Mapping[Storage, float] = {"exact": 1.0, "int8": 2.0, "int4": 2.5, "topk": 1.2}
"""As measured with Conv-4, native kernels and density 0.05, as are the others."""
SLOWER_KERNELS_TIME = 1.5
FEW, FEW_DENSE_TIME = 0.1, 3.0
"""A density up to which dense kernels take so much longer than native ones."""
SIDE_BY_SIDE = 16
"""Samples that native kernels compute at once, with the widest instructions; fewer take as long."""
HALVING_TIME: Mapping[Kernels, float] = {"native": 2.1, "dense": 1.4}
"""A sample's, with half of these at once, a quarter, and so on."""


def penalty_of(candidate: Candidate, *, experiment: Experiment, density: float, fraction: float = 1.0) -> float:
    """Points of accuracy that a candidate costs against the experiment's own settings, at least 0.

    Args:
        candidate: how to train.
        experiment: its settings cost nothing.
        density: kept fraction of the whole network.
        fraction: of those weights, that the candidate's level has.

    >>> small = Candidate(kernels="auto", activations="exact", micro_batch=4, recompute=False, momentum=False)
    >>> penalty_of(small, experiment=Experiment(), density=0.05)
    0.2
    """
    own = Candidate.of(experiment)
    points = STORAGE[candidate.activations] - STORAGE[own.activations]
    if experiment.model.norm == "batch":
        points += _parts(candidate, experiment) - _parts(own, experiment)
    if own.momentum and not candidate.momentum:
        points += NO_MOMENTUM
    return round(points + _level(density, fraction), 6)


def time_of(candidate: Candidate, *, experiment: Experiment, density: float) -> float:
    """How many times as long a step takes, about, as with the experiment's own settings.

    Args:
        candidate: how to train.
        experiment: its settings take 1.
        density: kept fraction of the candidate's network.
    """
    own = Candidate.of(experiment)
    time = STORAGE_TIME[candidate.activations] / STORAGE_TIME[own.activations]
    if candidate.recompute and not own.recompute:
        time *= RECOMPUTE_TIME
    faster: Kernels = "native" if density <= NATIVE_BELOW else "dense"
    time *= _parts_time(candidate, faster=faster) / _parts_time(own, faster=faster)
    if candidate.kernels not in ("auto", own.kernels, faster):
        time *= FEW_DENSE_TIME if density <= FEW else SLOWER_KERNELS_TIME
    return round(time, 6)


def _parts_time(one: Candidate, *, faster: Kernels) -> float:
    """What a sample takes that is computed with so few others; 1 with as many as native kernels have at once."""
    kernels = faster if one.kernels == "auto" else one.kernels
    return math.pow(HALVING_TIME[kernels], max(0.0, math.log2(SIDE_BY_SIDE / one.micro_batch)))


def _parts(candidate: Candidate, experiment: Experiment) -> float:
    if candidate.micro_batch >= experiment.training.batch_size:
        return 0.0
    return PARTS_WITH_BATCH_NORM * math.exp2(max(0.0, math.log2(8 / candidate.micro_batch)))


def _level(density: float, fraction: float) -> float:
    """What a smaller part costs: halvings, each at the rate in the middle of the way."""
    if fraction >= 1:
        return 0.0
    at, points = LEVEL_AT
    rate = points + LEVEL_SLOPE * math.log2(at / (density * math.sqrt(fraction)))
    return max(LEAST_LEVEL, rate) * math.log2(1 / fraction)
