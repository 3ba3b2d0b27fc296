"""The sums: what training holds for what, and how much at most in each phase of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from hedgerow.ledger.plan import Plan
from hedgerow.ledger.steps import Steps
from hedgerow.ledger.traced import Traced, traced
from hedgerow.pruning import Mask

__all__ = ["Ledger", "ledger", "ledger_of"]

_WIDE = 65_536
"""Weights of one output up to which a position among them takes two bytes, else four."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Bytes that one client's training takes, computed from shapes, mask and plan.

    Attributes:
        weights: kept weights or scores, and frozen magnitudes.
        indices: where the kept weights are.
        floats: biases, norms and their statistics.
        optimiser: its state.
        gradients: of all that is trained.
        activations: what each layer keeps for the backward pass.
        transient: the most that a layer needs while it runs, but for what is kept.
        transient_of: that layer.
        forward: the most that is held while the network runs.
        backward: the most while gradients are made.
        update: the most in the optimiser's step; of a search, when all that was found is put in order.
        scratch: working memory that native kernels keep from one call to the next. It is in `peak` and in no other sum:
            a profiler does not see it, as it was there before the step.
        start: what a proximal term keeps training near to.
    """

    weights: int
    indices: int
    floats: int
    optimiser: int
    gradients: int
    activations: Mapping[str, int]
    transient: int
    transient_of: str
    forward: int
    backward: int
    update: int
    scratch: int = 0
    start: int = 0

    @property
    def phases(self) -> Mapping[str, int]:
        """The most in each phase of a step: `forward`, `backward` and `update`."""
        return {"forward": self.forward, "backward": self.backward, "update": self.update}

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.forward, self.backward, self.update) + self.scratch

    @property
    def lasting(self) -> int:
        """What is held between two steps, but for `scratch`."""
        return self.weights + self.indices + self.floats + self.optimiser + self.start


def ledger(model: nn.Module, mask: Mask, input_shape: tuple[int, ...], plan: Plan) -> Ledger:
    """Adds up what training `model` with `mask` takes; nothing is run but one sample, to see which layers there are.

    Args:
        model: the dense network; it is not changed.
        mask: what is kept of it.
        input_shape: of one sample, (C, H, W).
        plan: how it is trained.
    """
    return ledger_of(traced(model, input_shape), mask.layer_kept(), plan)


def ledger_of(network: Traced, kept: Mapping[str, int], plan: Plan) -> Ledger:
    """The same of a network that was followed before, by the number of kept weights alone; in milliseconds.

    Args:
        network: what `traced` found.
        kept: how many weights of each prunable tensor are kept.
        plan: how it is trained.

    >>> network = traced(nn.Sequential(nn.Linear(4, 3)), (4,))
    >>> ledger_of(network, {"0.weight": 6}, Plan(samples=10)).weights
    24
    """
    assert kept.keys() == network.sizes.keys(), "the counts are of another network"
    index_bytes = {name: _index_bytes(network, name, kept, plan) for name in kept}
    steps = Steps(network, plan, kept=kept, index_bytes=index_bytes)
    trained = sum(kept.values()) + network.free
    weights = (4 + plan.magnitude_bytes) * sum(kept.values())
    indices, floats = sum(index_bytes.values()), 4 * network.free + network.buffers
    # Where kept weights have an optimiser of their own, that of the others holds nothing.
    optimiser = plan.state_bytes * (sum(kept.values()) if plan.signs else trained)
    gradients, start = 4 * trained, plan.start_bytes * trained
    lasting = weights + indices + floats + optimiser + start
    # Adam makes two tensors beside each that it changes, and gives one of them back when it is at the next.
    pairs = pairwise([0, *kept.values()]) if plan.sampled else ()
    changing = max((4 * before + 8 * now for before, now in pairs), default=0)
    transients = {unit.call.name: steps.transients.forward(unit) for unit in steps.units}
    worst = max(transients, key=lambda name: transients[name], default="")
    return Ledger(
        weights=weights,
        indices=indices,
        floats=floats,
        optimiser=optimiser,
        gradients=gradients,
        activations=steps.held_by_layer(),
        transient=transients.get(worst, 0),
        transient_of=worst,
        forward=lasting + steps.forward() + (gradients if plan.parts else 0),
        backward=lasting + steps.backward(),
        update=lasting + (gradients + changing if plan.grows is None else steps.found()),
        scratch=steps.transients.held(steps.units),
        start=start,
    )


def _index_bytes(network: Traced, name: str, kept: Mapping[str, int], plan: Plan) -> int:
    shape = network.sizes[name]
    if not (plan.signs or plan.native or name in network.standard) and kept[name] == math.prod(shape):
        return 0
    if not plan.compact:
        return 4 * kept[name]
    return kept[name] * (2 if math.prod(shape[1:]) <= _WIDE else 4) + 4 * (shape[0] + 1)
