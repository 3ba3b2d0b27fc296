"""What a client's training takes in memory, and what computes each layer, as rows of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hedgerow.ledger import Ledger
from hedgerow.telemetry.records import PhaseBytes, RoundRecord
from hedgerow.units import MISSING, bytes_text, clean_text, count_text, factor_text, percent_text

__all__ = [
    "LayerRow",
    "LedgerRow",
    "PhaseRow",
    "kernels_text",
    "layer_rows",
    "ledger_rows",
    "phase_rows",
    "unconverted_texts",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """What memory is for, and how much of it."""

    what: str
    size: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRow:
    """A phase of a step: the largest measured peak of all rounds, and what was computed for that round."""

    phase: str
    measured: str
    computed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """A layer: what computes it, how long that takes either way, and what it keeps for the backward pass."""

    layer: str
    kept: str
    path: str
    native: str
    dense: str
    activations: str


def ledger_rows(ledger: Ledger | None) -> list[LedgerRow]:
    """The sums of a ledger, the lasting ones first."""
    if ledger is None:
        return []
    of = f" ({ledger.transient_of})" if ledger.transient_of else ""
    sums = (
        ("Kept weights or scores", ledger.weights),
        ("Their positions", ledger.indices),
        ("Biases, norms, statistics", ledger.floats),
        ("Optimiser’s state", ledger.optimiser),
        *([("What the round began with", ledger.start)] if ledger.start else []),
        ("Gradients", ledger.gradients),
        ("Kept for the backward pass", sum(ledger.activations.values())),
        (f"Most that a layer needs beside{of}", ledger.transient),
    )
    return [LedgerRow(what=what, size=bytes_text(size)) for what, size in sums]


def phase_rows(records: Sequence[RoundRecord]) -> list[PhaseRow]:
    """Measured and computed peaks of the round with the largest measured one; nothing where none was measured."""
    measured = [(r.measured.client_phase_bytes, r.measured.client_ledger_bytes) for r in records]
    known = [(found, computed) for found, computed in measured if found is not None]
    if not known:
        return []
    found, computed = max(known, key=lambda pair: pair[0].peak)
    rows = [
        PhaseRow(phase=label, measured=bytes_text(getattr(found, name)), computed=_of(computed, name))
        for label, name in (("Forward", "forward"), ("Backward", "backward"), ("Update", "update"), ("Peak", "peak"))
    ]
    if found.growth:
        # The computed peak is that of a step.
        rows.insert(3, PhaseRow(phase="Gradients of pruned weights", measured=bytes_text(found.growth), computed=""))
    return rows


def kernels_text(records: Sequence[RoundRecord], paths: Mapping[str, Any] | None) -> str:
    """One or two sentences about what computed the clients' layers; empty where nothing is known."""
    share = next((r.measured.native_share for r in reversed(records) if r.measured.native_share is not None), None)
    if share is None:
        return ""
    text = f"Native sparse kernels computed with {percent_text(share)} of the kept weights."
    ratio = None if paths is None else _number(paths.get("step_ratio"))
    if ratio is None:
        return text
    if share == 0:
        return f"{text} They were measured before the first round, and dense layers are faster here."
    return f"{text} Measured before the first round, a step is {factor_text(ratio)} as fast as with dense layers only."


def layer_rows(ledger: Ledger | None, paths: Mapping[str, Any] | None) -> list[LayerRow]:
    """One row a layer of the measurement, with what the ledger says of it; nothing where nothing was measured."""
    layers = paths.get("layers") if paths is not None else None
    if not isinstance(layers, list):
        return []
    held = {} if ledger is None else ledger.activations
    return [_layer(layer, held) for layer in layers if isinstance(layer, dict)]


def unconverted_texts(paths: Mapping[str, Any] | None) -> list[str]:
    """What has no native kernels, with the reasons."""
    found = paths.get("unconverted") if paths is not None else None
    return [clean_text(str(reason), 200) for reason in found] if isinstance(found, list) else []


def _layer(layer: Mapping[str, Any], held: Mapping[str, int]) -> LayerRow:
    name = str(layer.get("name", ""))
    kept, density = _number(layer.get("kept")), _number(layer.get("density"))
    return LayerRow(
        layer=clean_text(name, 120),
        kept=f"{count_text(kept)} ({percent_text(density)})",
        path=str(layer.get("path", MISSING)),
        native=_milliseconds(layer.get("native_seconds")),
        dense=_milliseconds(layer.get("dense_seconds")),
        activations=bytes_text(held.get(name)),
    )


def _of(computed: PhaseBytes | None, name: str) -> str:
    return bytes_text(None if computed is None else getattr(computed, name))


def _milliseconds(value: object) -> str:
    seconds = _number(value)
    return MISSING if seconds is None else f"{1000 * seconds:,.2f} ms"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
