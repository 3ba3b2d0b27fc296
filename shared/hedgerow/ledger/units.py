"""The calls of a network as they are really computed: some fused into others, each with what it keeps for backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace

from hedgerow.ledger.plan import Plan
from hedgerow.ledger.trace import Call, Trace

__all__ = ["Unit", "units"]

_KEEP_NOTHING = ("add", "iadd", "sub", "pad", "getitem", "cat", "mean", "reshape", "view", "flatten", "permute")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One thing that is computed at once.

    Attributes:
        call: the one that it is named after, with its weight.
        reads: tensors that it needs.
        makes: the one that it makes.
        inputs: of `reads`, what only the gradient of its weight needs.
        values: tensors that it keeps for anything else.
        signs: a tensor that it needs the signs of only.
        rectified: tensors whose signs it finds in what it keeps of them, if that is exact.
        whole: tensors that it keeps as they are, however others are stored.
        aliased: of `reads`, those whose gradient is that of `makes` itself and takes no memory of its own.
        normed: of a layer, whether the norm before it is part of it.
        standard: of a layer, whether its weights are standardised.
        per_output: further bytes that it keeps for each element of `makes`.
        stage: which of the network's stages it belongs to.
    """

    call: Call
    reads: tuple[int, ...]
    makes: int
    inputs: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    signs: tuple[int, ...] = ()
    rectified: tuple[int, ...] = ()
    whole: tuple[int, ...] = ()
    aliased: tuple[int, ...] = ()
    normed: bool = False
    standard: bool = False
    per_output: int = 0
    stage: int = 0

    def in_bits(self, plan: Plan) -> bool:
        """Whether it keeps a bit an element of `rectified`, as it does not keep the tensor itself."""
        # A norm looks at how anything is stored, a layer at how it stores this.
        if self.call.kind != "weight":
            exact = plan.exact
        elif self.normed:
            exact = plan.value_bits == 32
        else:
            exact = plan.bits_of_input(standard=self.standard) == 32
        return bool(self.rectified) and not exact


def units(
    found: Trace,
    *,
    native: bool,
    stage_of: Callable[[Call], int] = lambda call: 0,
    standard: Container[str] = (),
) -> tuple[Unit, ...]:
    """What is computed, in its order; nothing is fused across the bounds of a stage.

    With native kernels a layer computes the norm and ReLU before it for itself, if nobody else reads what they make;
    a norm does the sum and ReLU after it, and a pooling layer keeps one byte an output in place of nine and its input.
    The weights `standard` are standardised.
    """
    calls = [call for call in found.calls if call.kind != "view" and call.inputs]
    fusion = _Fusion(calls, stage_of)
    made = [fusion.unit(call) if native else _alone(call) for call in reversed(calls) if fusion.remains(call)]
    return tuple(
        replace(unit, stage=stage_of(unit.call), standard=unit.call.weight in standard) for unit in reversed(made)
    )


class _Fusion:
    """Goes backward through the calls; each takes in what it can of those before it."""

    def __init__(self, calls: list[Call], stage_of: Callable[[Call], int]) -> None:
        self._stage_of = stage_of
        self._maker = {call.output: call for call in calls}
        self._readers = Counter(tensor for call in calls for tensor in call.inputs)
        self._taken: set[int] = set()

    def remains(self, call: Call) -> bool:
        return call.output not in self._taken

    def unit(self, call: Call) -> Unit:
        first = call.inputs[0]
        if call.kind == "weight":
            relu = self._take(first, "relu", by=call) if self._follows_layer(first) else None
            norm = self._take(relu.inputs[0] if relu else first, "norm", by=call)
            start = norm.inputs[0] if norm else relu.inputs[0] if relu else first
            # What only a ReLU was applied to is stored as an input, and is what the ReLU made where that is not exact.
            inputs, values = ((), (start,)) if norm else ((start,), ())
            return Unit(
                call=call,
                reads=(start,),
                makes=call.output,
                inputs=inputs,
                values=values,
                rectified=(start,) if relu else (),
                normed=norm is not None,
            )
        if call.kind == "relu":
            if norm := self._take(first, "norm", by=call):
                kept = norm.inputs
                return Unit(call=norm, reads=kept, makes=call.output, values=kept, rectified=kept)
            if total := self._take_sum(first, by=call):
                return self._sum(total, makes=call.output, relu=True)
        if _is_sum(call):
            return self._sum(call, makes=call.output, relu=False)
        if call.kind == "max_pool":
            return Unit(call=call, reads=call.inputs, makes=call.output, per_output=1)
        return _alone(call)

    def _sum(self, total: Call, *, makes: int, relu: bool) -> Unit:
        for tensor in total.inputs:
            if norm := self._take(tensor, "norm", by=total):
                others = tuple(t for t in total.inputs if t != tensor)
                return Unit(
                    call=norm,
                    reads=(*norm.inputs, *others),
                    makes=makes,
                    values=norm.inputs,
                    signs=(makes,) if relu else (),
                    aliased=() if relu else others,
                )
        aliased = () if relu else total.inputs
        return Unit(call=total, reads=total.inputs, makes=makes, signs=(makes,) if relu else (), aliased=aliased)

    def _follows_layer(self, tensor: int) -> bool:
        """Whether what makes it reads what a layer or norm has made; a sum is rectified where it is added up."""
        maker = self._maker.get(tensor)
        before = None if maker is None else self._maker.get(maker.inputs[0])
        return before is not None and before.kind in ("weight", "norm")

    def _take(self, tensor: int, kind: str, *, by: Call) -> Call | None:
        call = self._maker.get(tensor)
        if call is None or call.kind != kind or self._readers[tensor] != 1 or tensor in self._taken:
            return None
        if self._stage_of(call) != self._stage_of(by):
            return None
        self._taken.add(tensor)
        return call

    def _take_sum(self, tensor: int, *, by: Call) -> Call | None:
        call = self._maker.get(tensor)
        return self._take(tensor, "other", by=by) if call is not None and _is_sum(call) else None


def _is_sum(call: Call) -> bool:
    return call.kind == "other" and call.name.rpartition(".")[2] in ("add", "iadd") and len(call.inputs) == 2


def _alone(call: Call) -> Unit:
    """As torch computes it."""
    kept: dict[str, Iterable[int]] = {}
    match call.kind:
        case "weight":
            kept = {"inputs": call.inputs}
        case "norm":
            kept = {"values": call.inputs}
        case "relu":
            kept = {"signs": (call.output,)}
        case "max_pool":
            kept = {"whole": call.inputs}
        case "other" if call.name.rpartition(".")[2] not in _KEEP_NOTHING:
            kept = {"whole": (call.output,)}
    return Unit(
        call=call,
        reads=call.inputs,
        makes=call.output,
        inputs=tuple(kept.get("inputs", ())),
        values=tuple(kept.get("values", ())),
        signs=tuple(kept.get("signs", ())),
        whole=tuple(kept.get("whole", ())),
        aliased=call.inputs if _is_sum(call) else (),
        # Places of 8 bytes.
        per_output=8 if call.kind == "max_pool" else 0,
    )
