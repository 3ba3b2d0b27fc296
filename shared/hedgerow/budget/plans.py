"""How a device may train: what it can change of an experiment's settings to take less memory, and what it chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from hedgerow.config import Experiment

__all__ = ["Candidate", "DevicePlan", "Kernels", "Refusal", "Storage"]

Kernels: TypeAlias = Literal["auto", "native", "dense"]
Storage: TypeAlias = Literal["exact", "int8", "int4", "topk"]

_MOST_FASTER = 3.0
"""Without momentum a step is m / (1 - m) steps short, which a larger one makes up for as far as it is still stable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to train.

    Attributes:
        level: the part of the network, 0 = all that is kept; see `BudgetSettings.levels`.
        kernels: see `TrainingSettings.kernels`.
        activations: see `TrainingSettings.activations`.
        micro_batch: samples that go through the network at once.
        recompute: whether blocks run again in the backward pass.
        momentum: whether the optimiser keeps its state.
    """

    level: int = 0
    kernels: Kernels
    activations: Storage
    micro_batch: int
    recompute: bool
    momentum: bool

    @classmethod
    def of(cls, experiment: Experiment) -> Candidate:
        """What the settings ask for.

        >>> Candidate.of(Experiment()).micro_batch
        16
        """
        training = experiment.training
        return cls(
            kernels=training.kernels,
            activations=training.activations,
            micro_batch=training.at_once,
            recompute=training.recompute,
            momentum=experiment.representation == "weights" and experiment.weights.momentum > 0,
        )

    def applied(self, experiment: Experiment) -> Experiment:
        """The experiment as a device trains it so; itself where nothing differs but the part of the network.

        Without momentum m the learning rate is multiplied by 1 / (1 - m), which moves weights as far in the long run,
        but by no more than 3. Everything that both ends have to agree about stays as it is.
        """
        own = Candidate.of(experiment)
        training, weights = experiment.training, experiment.weights
        changes = {
            name: getattr(self, name)
            for name in ("kernels", "activations", "micro_batch", "recompute")
            if getattr(self, name) != getattr(own, name)
        }
        if changes:
            training = training.model_copy(update=changes)
        if own.momentum and not self.momentum:
            rate = weights.learning_rate * min(1 / (1 - weights.momentum), _MOST_FASTER)
            weights = weights.model_copy(update={"momentum": 0.0, "learning_rate": rate})
        if training is experiment.training and weights is experiment.weights:
            return experiment
        return experiment.model_copy(update={"training": training, "weights": weights})


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """What a device chose.

    Attributes:
        chosen: how it trains.
        asked: how the experiment's settings would like it to.
        budget: bytes that it may take.
        predicted: bytes that it takes at most.
        asked_bytes: bytes that `asked` would take.
        penalty: what it costs, in points of accuracy; see `hedgerow.budget.penalties`.
    """

    chosen: Candidate
    asked: Candidate
    budget: int
    predicted: int
    asked_bytes: int
    penalty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Nothing fits.

    Attributes:
        smallest: what takes the least.
        budget: bytes that the device may take.
        least: bytes, whole megabytes, that `smallest` would do with.
    """

    smallest: Candidate
    budget: int
    least: int
