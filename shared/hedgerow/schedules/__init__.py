"""What changes from round to round, as functions of the round."""

from __future__ import annotations

import math

from hedgerow.config import Experiment

__all__ = ["step_scale"]


def step_scale(experiment: Experiment, *, round: int) -> float:
    """Step size of a round as a fraction of the first.

    `cosine`: final_step + (1 - final_step) · (1 + cos(π · x)) / 2, where x runs from 0 at the end of `hold` to 1; once
    over the rounds, or with a finish in float once over those before it and once over its own.
    """
    training = experiment.training
    if training.schedule == "constant":
        return 1.0
    stretch = experiment.stretch(round)
    done = (round - stretch.start) / len(stretch)
    cosine = (1 + math.cos(math.pi * max(0.0, done - training.hold) / (1 - training.hold))) / 2
    return training.final_step + (1 - training.final_step) * cosine
