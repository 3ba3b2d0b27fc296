"""From an experiment and its network to the choice: candidates, what each takes, and the one that fits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import nn

from hedgerow.budget.penalties import penalty_of, time_of
from hedgerow.budget.plans import Candidate, DevicePlan, Refusal
from hedgerow.budget.prediction import Calibration, Prediction, prediction_of
from hedgerow.budget.solver import GUARD, solve
from hedgerow.budget.space import candidates
from hedgerow.config import Experiment
from hedgerow.ledger import Ledger, Traced, ledger_of, plan_of, traced
from hedgerow.native.library import status
from hedgerow.pruning import prunable_tensors, uniform
from hedgerow.pruning.density import LAYER_RULES

__all__ = ["Calibrate", "Decider", "estimated_levels"]

Calibrate: TypeAlias = Callable[[Traced, Candidate], Calibration | None]
"""What was measured on this machine for a candidate, whose kernels are `native` or `dense`; None where nothing was."""

_REQUEST = 6_000_000
"""Bytes of Python's objects and of what the allocator does not give back, in networks of 3 to 53 pruned layers."""
_TENSOR = 8_192
"""Bytes of the same for each pruned tensor."""
_COPIES = 4
"""Of each kept weight, as float32, while it is trained: in the request, in its section, in the version that this says,
and in the version that is remembered from the request before. Some are shorter, as the wire's settings have it."""
_PIECE = 1 << 16
"""Values of a gradient that are looked at together on the dense path, where not so many grow that it is more."""
_FOUND = 24
"""Bytes there for each that grows while others are taken in."""
_TOLD = 64
"""Bytes for each that grows while it is said where they are."""


class Decider:
    """Chooses for one network; the same arguments always give the same choice.

    Args:
        experiment: what is trained.
        model: the dense network, which may be hollow; it is not changed.
        input_shape: of one sample, (C, H, W).
        levels: number of kept weights of each prunable tensor at each level that there is to choose from.
        numbers: of these levels; from 0 on when None.
        native: whether there are native kernels; as on this machine when None.
        calibrate: says what was measured on this machine; predictions are what is computed when None.
    """

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,
        *,
        input_shape: tuple[int, int, int],
        levels: Sequence[Mapping[str, int]],
        numbers: Sequence[int] | None = None,
        native: bool | None = None,
        calibrate: Calibrate | None = None,
    ) -> None:
        self.experiment = experiment
        self._calibrate = calibrate
        self._native = status().available if native is None else native
        numbers = range(len(levels)) if numbers is None else numbers
        self._kept = dict(zip(numbers, levels, strict=True))
        self._traced = traced(_followed(model), input_shape)
        self._largest = max((weight.numel() for weight in prunable_tensors(model).values()), default=0)
        self._ledgers: dict[Candidate, Ledger] = {}
        self._steps: dict[Candidate, Prediction] = {}
        self.candidates = candidates(experiment, native=self._native, levels=list(numbers))

    @property
    def weights(self) -> int:
        """Prunable weights of the network."""
        return self._traced.weights

    def kept(self, level: int) -> int:
        """Kept weights at a level."""
        return sum(self._kept[level].values())

    def decide(self, budget: int, *, guard: float = GUARD) -> DevicePlan | Refusal:
        """See `hedgerow.budget.solver.solve`."""
        return solve(self.candidates, self.predict, budget, cost=self.cost, guard=guard)

    def request_bytes(self, candidate: Candidate) -> int:
        """What a request holds beside the training step, at any time."""
        kept = self._kept[candidate.level]
        return _REQUEST + _TENSOR * len(kept) + _COPIES * 4 * sum(kept.values())

    def reading_bytes(self, candidate: Candidate) -> int:
        """What a network takes while it is made from its mask, which is a byte a weight then."""
        return self.weights + self.ledger(candidate).lasting

    def predict(self, candidate: Candidate) -> int:
        """Bytes that a request takes at most, from reading it to the reply."""
        work = self.step(candidate).step_bytes, self.growth_bytes(candidate), self.reading_bytes(candidate)
        return max(work) + self.request_bytes(candidate)

    def step(self, candidate: Candidate) -> Prediction:
        """What a training step takes, put right by what was measured. Of `auto` kernels: those that take more."""
        if candidate not in self._steps:
            ways = (self._step(candidate, native=way) for way in self._ways(candidate))
            self._steps[candidate] = max(ways, key=lambda found: found.step_bytes)
        return self._steps[candidate]

    def growth_bytes(self, candidate: Candidate) -> int:
        """What looking for gradients of pruned weights and saying them takes; 0 where the experiment never looks.

        All layers compute by the path of their training, and store what they store there. Of the dense path it is
        rather too much: its ledger has the dense gradient of a layer, of which only pieces are made.
        """
        settings = self.experiment.adjustment
        if settings.every == 0 or settings.density == "cubic":
            return 0
        found = max(self._growth(candidate, native=way) for way in self._ways(candidate))
        kept = self._kept[candidate.level].values()
        # A byte and 8 for each kept weight of one tensor at a time, and a bit for each weight that may be said.
        tensor = self._largest + 8 * max(kept, default=0)
        said = _TOLD * math.ceil(settings.rate * sum(kept)) + tensor + self.weights // 8
        # The mask is held meanwhile, a bit a weight.
        return max(found, self.ledger(candidate).lasting + said) + self.weights // 8

    def _growth(self, candidate: Candidate, *, native: bool) -> int:
        settings = self.experiment.adjustment
        plan = plan_of(candidate.applied(self.experiment), native=native)
        plan = replace(
            plan,
            samples=plan.samples if settings.batch_size is None else settings.batch_size,
            parts=False,
            compact=plan.compact or self._native,
            # A device that adjusts its mask does so in the midst of its training, others when it is over.
            state_bytes=plan.state_bytes if settings.by == "devices" else 0,
            start_bytes=plan.start_bytes if settings.by == "devices" else 0,
            grows=settings.rate,
        )
        kept = self._kept[candidate.level]
        # Gradients of kept weights are looked for in a pass of its own, which has them all, as a step has.
        passes = [plan] if settings.criterion == "magnitude" else [plan, replace(plan, grows=None)]
        found = [ledger_of(self._traced, kept, one) for one in passes]
        held = max(size for one in found for size in one.phases.values())
        scratch = max(self.ledger(candidate).scratch, *(one.scratch for one in found))
        if native:
            return held + scratch
        most = math.ceil(settings.rate * max(kept.values(), default=0))
        return held + 2 * 4 * max(_PIECE, most) + _FOUND * most + scratch

    def ledger(self, candidate: Candidate) -> Ledger:
        """What a candidate takes, and what for. Of `auto` kernels: those that take more, as both are tried."""
        if candidate not in self._ledgers:
            self._ledgers[candidate] = max(
                (self._computed(candidate, native=way) for way in self._ways(candidate)), key=lambda o: o.peak
            )
        return self._ledgers[candidate]

    def cost(self, candidate: Candidate) -> tuple[float, float]:
        """Points of accuracy that a candidate costs, and its time."""
        whole, part = self.kept(min(self._kept)), self.kept(candidate.level)
        return (
            penalty_of(candidate, experiment=self.experiment, density=whole / self.weights, fraction=part / whole),
            time_of(candidate, experiment=self.experiment, density=part / self.weights),
        )

    def _ways(self, candidate: Candidate) -> list[bool]:
        """Whether native kernels compute, or each of both where either may."""
        return [True, False] if candidate.kernels == "auto" and self._native else [candidate.kernels == "native"]

    def _step(self, candidate: Candidate, *, native: bool) -> Prediction:
        found = None
        if self._calibrate is not None:
            found = self._calibrate(self._traced, replace(candidate, kernels="native" if native else "dense"))
        return prediction_of(self._computed(candidate, native=native), samples=candidate.micro_batch, calibration=found)

    def _computed(self, candidate: Candidate, *, native: bool) -> Ledger:
        plan = plan_of(candidate.applied(self.experiment), native=native)
        return ledger_of(self._traced, self._kept[candidate.level], plan)


def estimated_levels(experiment: Experiment, model: nn.Module) -> list[dict[str, int]]:
    """How many weights each tensor will about keep at each level, before there is a mask.

    Of rules that fix the counts of layers it is exact. `global` depends on scores; the same density everywhere stands
    for it, so the sum is exact.

    Raises:
        PruningError: there is no such mask.
    """
    shapes = {name: tuple(weight.shape) for name, weight in prunable_tensors(model).items()}
    rule = LAYER_RULES.get(experiment.pruning.rule, uniform)
    whole = rule(shapes, density=experiment.pruning.density)
    # Half is rounded up where Python would round to even: 1 of 1 must not become 0.
    return [
        {name: max(1, int(fraction * count + 0.5)) for name, count in whole.items()}
        for fraction in experiment.budget.levels
    ]


def _followed(model: nn.Module) -> nn.Module:
    """A copy of a network that a sample can pass through, with one number for all the values of a hollow tensor."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    model = copy.deepcopy(model, shared)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                module.register_parameter(name, nn.Parameter(_zeros_like(parameter), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                module.register_buffer(name, _zeros_like(buffer))
    return model


def _zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
