"""The sums: what training holds for what, and how much at most in each phase of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from hedgerow.ledger.plan import Plan
from hedgerow.ledger.steps import Steps
from hedgerow.ledger.trace import Trace, trace
from hedgerow.ledger.units import Unit
from hedgerow.pruning import Mask, prunable_tensors

__all__ = ["Ledger", "ledger"]

_TAP = 16
"""Bytes a kept weight that a native kernel needs while it runs."""
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
        update: the most in the optimiser's step.
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

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.forward, self.backward, self.update)

    @property
    def lasting(self) -> int:
        """What is held between two steps."""
        return self.weights + self.indices + self.floats + self.optimiser


def ledger(model: nn.Module, mask: Mask, input_shape: tuple[int, ...], plan: Plan) -> Ledger:
    """Adds up what training `model` with `mask` takes; nothing is run but one sample, to see which layers there are.

    Args:
        model: the dense network; it is not changed.
        mask: what is kept of it.
        input_shape: of one sample, (C, H, W).
        plan: how it is trained.
    """
    return _Sums(trace(model, input_shape), model, mask, plan).ledger()


class _Sums:
    def __init__(self, found: Trace, model: nn.Module, mask: Mask, plan: Plan) -> None:
        self._plan, self._kept = plan, mask.layer_kept()
        weights = prunable_tensors(model)
        self._sizes = {name: tuple(weight.shape) for name, weight in weights.items()}
        pruned = {id(weight) for weight in weights.values()}
        self._free = sum(p.numel() for p in model.parameters() if id(p) not in pruned)
        self._buffers = sum(b.numel() * b.element_size() for b in model.buffers())
        self._steps = Steps(found, model, plan, transient=self._transient, trained=self._trained)

    def ledger(self) -> Ledger:
        plan, steps = self._plan, self._steps
        kept = sum(self._kept.values())
        weights = (4 + plan.magnitude_bytes) * kept
        indices = sum(self._index_bytes(name) for name in self._kept)
        floats = 4 * self._free + self._buffers
        optimiser = plan.state_bytes * (kept + self._free)
        gradients = 4 * (kept + self._free)
        lasting = weights + indices + floats + optimiser
        transients = {unit.call.name: self._transient(unit, back=False) for unit in steps.units}
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
            update=lasting + gradients,
        )

    def _index_bytes(self, name: str) -> int:
        if self._whole(name) and not self._plan.native:
            return 0
        if not self._plan.compact:
            return 4 * self._kept[name]
        outputs, row = self._sizes[name][0], math.prod(self._sizes[name][1:])
        return self._kept[name] * (2 if row <= _WIDE else 4) + 4 * (outputs + 1)

    def _whole(self, name: str) -> bool:
        """Whether the layer trains its weight as it is."""
        return not self._plan.signs and self._kept[name] == math.prod(self._sizes[name])

    def _trained(self, unit: Unit) -> int:
        return self._kept.get(unit.call.weight, 0)

    def _transient(self, unit: Unit, back: bool) -> int:
        name = unit.call.weight
        if not name:
            return 0
        if self._plan.native:
            # The input with zeros around it, and where each kept weight finds its own.
            return 4 * self._plan.samples * unit.call.padded + _TAP * self._kept[name]
        if self._whole(name):
            return 0
        # The weight, and for a convolution a copy in the order that is fastest; on the way back the gradient too.
        copies = 1 if len(self._sizes[name]) == 2 else 3 if back else 2
        return copies * 4 * math.prod(self._sizes[name])
