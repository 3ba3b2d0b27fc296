"""What is held while a network runs forward and back: followed from unit to unit, as tensors come and go."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from hedgerow.ledger.plan import Plan
from hedgerow.ledger.trace import Call, Trace
from hedgerow.ledger.units import Unit, units
from hedgerow.sparse.fusion import stages

__all__ = ["Steps"]


@dataclass(frozen=True, slots=True)
class _Held:
    """What is kept: tensors as they are, by their numbers, and bytes that were made of others."""

    tensors: Mapping[int, int]
    made: int = 0

    @property
    def nbytes(self) -> int:
        return sum(self.tensors.values()) + self.made

    def __or__(self, other: _Held) -> _Held:
        return _Held({**self.tensors, **other.tensors}, self.made + other.made)


_NOTHING = _Held({})


class Steps:
    """One pass forward and back.

    Args:
        found: the calls of the network.
        model: the network.
        plan: how it is trained.
        transient: bytes that a unit needs only while it runs, forward or (True) back.
        trained: weights of a unit that get gradients.
    """

    def __init__(
        self,
        found: Trace,
        model: nn.Module,
        plan: Plan,
        *,
        transient: Callable[[Unit, bool], int],
        trained: Callable[[Unit], int],
    ) -> None:
        self._plan, self._transient, self._trained = plan, transient, trained
        self._elements = found.elements
        bounds = stages(model) if plan.recompute and isinstance(model, nn.Sequential) else ()
        self.units = units(found, native=plan.native, stage_of=_numbering(model, bounds))
        self._recomputed = range(len(bounds) - 1)
        """Stages that are run again; the last one is not."""
        self._maker = {unit.makes: number for number, unit in enumerate(self.units)}
        self._last = {tensor: number for number, unit in enumerate(self.units) for tensor in unit.reads}
        self._holds = [self._held(unit) for unit in self.units]
        numbers = itertools.groupby(range(len(self.units)), key=lambda number: self.units[number].stage)
        self._stages = {stage: list(members) for stage, members in numbers}

    def forward(self) -> int:
        """The most that is held while the network runs: what is kept, what is still to be read, what a layer needs."""
        peak, kept = 0, _NOTHING
        for stage, members in self._stages.items():
            again = stage in self._recomputed
            peak = max(peak, self._run(members, kept, keeping=not again))
            kept = kept | self._of_stage(stage)
        return peak

    def backward(self) -> int:
        """The most while gradients are made, from the last layer to the first."""
        weights = 4 * sum(map(self._trained, self.units)) if self._plan.parts else 0
        peak = 0
        for stage, members in reversed(self._stages.items()):
            before = _NOTHING
            for earlier in range(stage + (stage in self._recomputed)):
                before = before | self._of_stage(earlier)
            if stage in self._recomputed:
                flowing = self._bytes(self.units[members[-1]].makes)
                peak = max(peak, self._run(members, before, keeping=True) + flowing + weights)
            for number in reversed(members):
                unit = self.units[number]
                weights += 0 if self._plan.parts else 4 * self._trained(unit)
                kept = before
                for earlier in members[: members.index(number) + 1]:
                    kept = kept | self._holds[earlier]
                unpacked = self._unpacked(unit)
                peak = max(peak, kept.nbytes + self._flowing(number) + weights + unpacked + self._transient(unit, True))
        return peak

    def held_by_layer(self) -> dict[str, int]:
        """What is kept from the forward to the backward pass, in bytes, by the first layer that asks for it."""
        result: dict[str, int] = {}
        seen: set[int] = set()
        for number, unit in enumerate(self.units):
            again = unit.stage in self._recomputed
            first = number == self._stages[unit.stage][0]
            held = self._holds[number] if not again else self._of_stage(unit.stage) if first else _NOTHING
            size = held.made + sum(nbytes for tensor, nbytes in held.tensors.items() if tensor not in seen)
            seen.update(held.tensors)
            if size:
                result[unit.call.name] = result.get(unit.call.name, 0) + size
        return result

    def _run(self, members: Sequence[int], kept: _Held, *, keeping: bool) -> int:
        makes = {self.units[number].makes for number in members}
        alive = {t: self._bytes(t) for number in members for t in self.units[number].reads if t not in makes and t != 0}
        peak = 0
        for number in members:
            unit = self.units[number]
            alive[unit.makes] = self._bytes(unit.makes)
            now = _Held(alive) | kept
            peak = max(peak, now.nbytes + self._transient(unit, False))
            if keeping:
                kept = kept | _Held(
                    {t: n for t, n in self._holds[number].tensors.items() if t}, self._holds[number].made
                )
            for tensor in [t for t in alive if self._last.get(t, -1) <= number and t != unit.makes]:
                del alive[tensor]
        return peak

    def _of_stage(self, stage: int) -> _Held:
        """What a stage that has run keeps. The samples, tensor 0, were there before."""
        members = self._stages.get(stage, [])
        if stage in self._recomputed:
            start = self.units[members[0]].reads[0]
            return _Held({start: self._bytes(start)} if start else {})
        held = _NOTHING
        for number in members:
            held = held | self._holds[number]
        return _Held({tensor: size for tensor, size in held.tensors.items() if tensor}, held.made)

    def _flowing(self, number: int) -> int:
        """Gradients of tensors: each is there from the last reader of its tensor to the maker."""
        output = self.units[number].makes
        last = self._last if output in self._last else {**self._last, output: number}
        return sum(self._bytes(t) for t, end in last.items() if t in self._maker and self._maker[t] <= number <= end)

    def _held(self, unit: Unit) -> _Held:
        plan = self._plan
        exact = plan.value_bits == plan.input_bits == 32
        tensors: dict[int, int] = {}
        made = plan.samples * self._elements[unit.makes] * unit.per_output
        for tensor, bits in (
            *((t, plan.input_bits) for t in unit.inputs),
            *((t, plan.value_bits) for t in unit.values),
            *((t, 32 if exact else 1) for t in unit.signs),
            *((t, 1) for t in unit.rectified if not exact),
        ):
            # The samples, tensor 0, are the caller's, who holds them anyway.
            if bits == 32 or tensor == 0:
                tensors[tensor] = self._bytes(tensor)
            else:
                made += self._bytes(tensor, bits)
        return _Held(tensors, made)

    def _unpacked(self, unit: Unit) -> int:
        """What it makes of what it keeps, for as long as it runs back."""
        inputs = unit.inputs if self._plan.input_bits != 32 else ()
        values = unit.values if self._plan.value_bits != 32 else ()
        return sum(self._bytes(tensor) for tensor in {*inputs, *values} if tensor)

    def _bytes(self, tensor: int, bits: float = 32) -> int:
        return round(self._plan.samples * self._elements[tensor] * bits / 8)


def _numbering(model: nn.Module, bounds: Sequence[int]) -> Callable[[Call], int]:
    """Which stage a call belongs to; the bounds are those of the outermost chain's children."""
    places = {name: place for place, (name, _) in enumerate(model.named_children())}

    def stage_of(call: Call) -> int:
        place = places.get(call.name.partition(".")[0], 0)
        return max(0, bisect.bisect_right(bounds, place) - 1) if bounds else 0

    return stage_of
