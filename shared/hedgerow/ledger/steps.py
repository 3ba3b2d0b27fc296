"""What is held while a network runs forward and back: followed from unit to unit, as tensors come and go."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hedgerow.ledger.plan import Plan
from hedgerow.ledger.traced import Traced
from hedgerow.ledger.transients import FOUND, RESULT, Transients
from hedgerow.ledger.units import Unit, units

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
        network: the network.
        plan: how it is trained.
        kept: kept weights of each prunable weight.
        index_bytes: of their positions.
    """

    def __init__(self, network: Traced, plan: Plan, *, kept: Mapping[str, int], index_bytes: Mapping[str, int]) -> None:
        self._plan, self._kept, self._index_bytes = plan, kept, index_bytes
        self._elements = network.found.elements
        recomputes = plan.recompute and bool(network.bounds)
        stage_of = network.stage_of if recomputes else (lambda call: 0)
        self.units = units(network.found, native=plan.native, stage_of=stage_of, standard=network.standard)
        self._recomputed = range(len(network.bounds) - 1 if recomputes else 0)
        """Stages that are run again; the last one is not."""
        self.transients = Transients(
            plan, sizes=network.sizes, kept=kept, size_of=self._bytes, standard=network.standard
        )
        self._maker = {unit.makes: number for number, unit in enumerate(self.units)}
        self._last = {tensor: number for number, unit in enumerate(self.units) for tensor in unit.reads}
        self._roots = self._gradient_roots()
        self._rectified = {
            unit.makes for unit in self.units if unit.call.kind == "relu" or (unit.signs and unit.makes in unit.signs)
        }
        wanted = [number for number, unit in enumerate(self.units) if self.transients.wanted(unit)]
        self._first = 0 if plan.grows is None else min(wanted, default=len(self.units))
        """The first unit that has to run back; those before it keep nothing."""
        self._holds = [_NOTHING] * self._first + [self._held(unit) for unit in self.units[self._first :]]
        numbers = itertools.groupby(range(len(self.units)), key=lambda number: self.units[number].stage)
        self._stages = {stage: list(members) for stage, members in numbers}

    def forward(self) -> int:
        """The most that is held while the network runs: what is kept, what is still to be read, what a layer needs."""
        peak, kept = 0, _NOTHING
        for stage, members in self._stages.items():
            again = stage in self._recomputed
            # Of a stage that runs again all buffers are copied, as any of them may change.
            copies = sum(self._index_bytes.get(self.units[number].call.weight, 0) for number in members) if again else 0
            peak = max(peak, self._run(members, kept, keeping=not again) + copies)
            kept = kept | self._of_stage(stage)
        return peak

    def backward(self) -> int:
        """The most while gradients are made, from the last layer to the first."""
        weights = sum(map(self._found, self.units)) if self._plan.parts else 0
        peak = 0
        for stage, members in reversed(self._stages.items()):
            before, flowing, result = _NOTHING, 0, 0
            for earlier in range(stage + (stage in self._recomputed)):
                before = before | self._of_stage(earlier)
            if stage in self._recomputed:
                # The result of the second run and its gradient stay until all of the stage is through.
                result = self.units[members[-1]].makes
                flowing = self._bytes(result)
                peak = max(peak, self._run(members, before, keeping=True) + flowing + weights)
                before = before | _Held({result: flowing})
            for number in reversed([number for number in members if number >= self._first]):
                unit = self.units[number]
                weights += 0 if self._plan.parts else self._found(unit)
                kept = before
                for earlier in members[: members.index(number) + 1]:
                    kept = kept | self._holds[earlier]
                now = kept.nbytes + self._flowing(number, stays=result)
                peak = max(peak, now + weights + self._unpacked(unit) + self.transients.backward(unit))
        return peak

    def found(self) -> int:
        """What a search has found, when it is put in order."""
        wanted = [self.transients.wanted(unit) for unit in self.units]
        return RESULT * sum(wanted) + FOUND * max(wanted, default=0)

    def held_by_layer(self) -> dict[str, int]:
        """What is kept from the forward to the backward pass, in bytes, by the first layer that asks for it."""
        result: dict[str, int] = {}
        seen: set[int] = set()
        for number, unit in enumerate(self.units):
            again = unit.stage in self._recomputed
            first = number == self._stages[unit.stage][0]
            held = self._holds[number] if not again else self._of_stage(unit.stage) if first else _NOTHING
            # The samples are shown, whoever has them.
            sizes = {tensor: self._in_bits(tensor) for tensor in held.tensors}
            size = held.made + sum(nbytes for tensor, nbytes in sizes.items() if tensor not in seen)
            seen.update(held.tensors)
            if size:
                result[unit.call.name] = result.get(unit.call.name, 0) + size
        return result

    def _run(self, members: Sequence[int], kept: _Held, *, keeping: bool) -> int:
        makes = {self.units[number].makes for number in members}
        alive = {t: self._bytes(t) for number in members for t in self.units[number].reads if t not in makes}
        peak = 0
        for number in members:
            unit = self.units[number]
            alive[unit.makes] = self._bytes(unit.makes)
            if keeping:
                kept = kept | self._holds[number]
            peak = max(peak, (_Held(alive) | kept).nbytes + self.transients.forward(unit))
            for tensor in [t for t in alive if self._last.get(t, -1) <= number and t != unit.makes]:
                del alive[tensor]
        return peak

    def _of_stage(self, stage: int) -> _Held:
        """What a stage that has run keeps."""
        members = self._stages.get(stage, [])
        if stage in self._recomputed:
            # The samples, tensor 0, are the caller's, who holds them anyway.
            start = self.units[members[0]].reads[0]
            return _Held({start: self._bytes(start)} if start else {})
        held = _NOTHING
        for number in members:
            held = held | self._holds[number]
        return held

    def _flowing(self, number: int, *, stays: int = 0) -> int:
        """Gradients of tensors: each is there from the last reader of its tensor to the maker.

        Where another layer after it reads the same tensor, the gradient from there waits to be added to this one's.
        That of the tensor `stays`, if any, is there in any case.
        """
        output = self.units[number].makes
        last = self._last if output in self._last else {**self._last, output: number}
        alive = {t for t, end in last.items() if t in self._maker and self._maker[t] <= number <= end}
        if stays:
            alive.add(stays)
        sizes = {self._roots.get(t, t): self._bytes(t) for t in alive}
        waiting = {t for t in self.units[number].reads if t in self._maker and self._last[t] > number}
        return sum(sizes.values()) + sum(map(self._bytes, waiting))

    def _gradient_roots(self) -> dict[int, int]:
        """Which other tensor's gradient is that of a tensor, without memory of its own: behind a sum all have one."""
        roots: dict[int, int] = {}
        for number in reversed(range(len(self.units))):
            unit = self.units[number]
            for tensor in unit.aliased:
                # What is read again later has another gradient already.
                if self._last[tensor] == number:
                    roots[tensor] = roots.get(unit.makes, unit.makes)
        return roots

    def _found(self, unit: Unit) -> int:
        """What is there of a layer's gradient when the layer has run back."""
        return FOUND * self.transients.wanted(unit) if self._plan.grows is not None else 4 * self._trained(unit)

    def _trained(self, unit: Unit) -> int:
        return self._kept.get(unit.call.weight, 0)

    def _held(self, unit: Unit) -> _Held:
        plan = self._plan
        tensors = {tensor: self._bytes(tensor) for tensor in unit.whole}
        made = plan.samples * self._elements[unit.makes] * unit.per_output
        if plan.signs and (unit.standard or plan.sampled or not plan.native) and unit.call.weight:
            made += 4 * self._trained(unit)  # the weights that were made of scores
        if unit.standard:
            made += 4 * self._trained(unit)  # the weights that were made of others
        for tensor, bits in (
            *((t, self._input_bits(unit, t)) for t in unit.inputs),
            *((t, plan.value_bits) for t in unit.values),
            *((t, 32 if plan.exact else 1) for t in unit.signs),
            *((t, 1) for t in unit.rectified if unit.in_bits(plan)),
        ):
            # The samples are not packed.
            if bits == 32 or tensor == 0:
                tensors[tensor] = self._bytes(tensor)
            else:
                made += self._in_bits(tensor, bits)
        return _Held(tensors, made)

    def _input_bits(self, unit: Unit, tensor: int) -> float:
        plan = self._plan
        if plan.rectified_bits is not None and (tensor in self._rectified or tensor in unit.rectified):
            return plan.rectified_bits
        return plan.bits_of_input(standard=unit.standard)

    def _unpacked(self, unit: Unit) -> int:
        """What it makes of what it keeps, for as long as it runs back."""
        if unit.call.kind == "weight" and self._plan.native and not unit.normed:
            # It is gone before the gradient of the input is there, which takes its room.
            return 0
        inputs = unit.inputs if self._plan.bits_of_input(standard=unit.standard) != 32 else ()
        values = unit.values if self._plan.value_bits != 32 else ()
        return sum(self._bytes(tensor) for tensor in {*inputs, *values} if tensor)

    def _bytes(self, tensor: int) -> int:
        """Of a tensor as it is. The samples, tensor 0, are the caller's; native layers make a copy in their order."""
        return 0 if tensor == 0 and not self._plan.native else self._in_bits(tensor)

    def _in_bits(self, tensor: int, bits: float = 32) -> int:
        return round(self._plan.samples * self._elements[tensor] * bits / 8)
