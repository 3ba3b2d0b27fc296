"""Training inside a budget of memory: which ways there are, what they cost, and which one is taken.

From the bottom up: `plans` has the values, `space` lists the candidates, `penalties` says what they cost, `prediction`
what they take, `solver` chooses, and `words` explains. `classes` says how much memory the clients of a simulation have.
"""

from hedgerow.budget.classes import class_of
from hedgerow.budget.plans import Candidate, DevicePlan, Refusal
from hedgerow.budget.prediction import Calibration, Prediction, predict
from hedgerow.budget.solver import GUARD, solve
from hedgerow.budget.space import candidates

__all__ = [
    "GUARD",
    "Calibration",
    "Candidate",
    "DevicePlan",
    "Prediction",
    "Refusal",
    "candidates",
    "class_of",
    "predict",
    "solve",
]
