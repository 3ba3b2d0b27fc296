"""The numbers of the headline, computed from the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hedgerow.telemetry.records import RoundRecord
from hedgerow.units import (
    MISSING,
    bytes_text,
    count_text,
    factor_text,
    finite,
    number_text,
    percent_text,
    seconds_text,
)

__all__ = ["Sizes", "Tile", "accuracies", "best_accuracy", "tiles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes that are known from the model alone."""

    dense_model_bytes: int
    """Length of all parameters and buffers of the dense model as fp32, in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One number of the headline."""

    label: str
    value: str
    note: str
    aside: str = ""
    """What stands beside the value, smaller."""
    wide: bool = False


def accuracies(records: Sequence[RoundRecord]) -> list[tuple[int, float]]:
    """(round, accuracy) of the rounds that were evaluated."""
    found = [(record.round, finite(record.accuracy)) for record in records]
    return [(number, accuracy) for number, accuracy in found if accuracy is not None]


def best_accuracy(records: Sequence[RoundRecord]) -> tuple[int, float] | None:
    """(round, accuracy) of the best round, the first of equals; None when none was evaluated."""
    return max(accuracies(records), key=lambda pair: pair[1], default=None)


def tiles(records: Sequence[RoundRecord], sizes: Sizes) -> list[Tile]:
    """The headline; a number that the records do not give is a dash with its reason."""
    measured = accuracies(records)
    final = measured[-1] if measured else None
    best = best_accuracy(records)
    last = records[-1] if records else None
    seconds = [s for record in records if (s := finite(record.measured.seconds)) is not None]
    return [
        _accuracy("Final accuracy", final),
        _accuracy("Best accuracy", best),
        Tile(
            label="Density",
            value=percent_text(last.density if last else None),
            note=f"{count_text(last.kept)} weights kept" if last else "no round yet",
        ),
        _traffic(records, sizes),
        _bits(records),
        _memory(records),
        Tile(
            label="Total time",
            value=seconds_text(sum(seconds)) if seconds else MISSING,
            note=_span(records),
        ),
    ]


def _accuracy(label: str, pair: tuple[int, float] | None) -> Tile:
    if pair is None:
        return Tile(label=label, value=MISSING, note="not evaluated")
    return Tile(label=label, value=percent_text(pair[1]), note=f"test set, round {pair[0]}")


def _span(records: Sequence[RoundRecord]) -> str:
    if not records:
        return "no round yet"
    first, last = records[0].round, records[-1].round
    return f"wall clock, round {first}" if first == last else f"wall clock, rounds {first} to {last}"


def _traffic(records: Sequence[RoundRecord], sizes: Sizes) -> Tile:
    up = sum(record.all_bytes_up for record in records)
    down = sum(record.all_bytes_down for record in records)
    asked = sum(record.cohort for record in records)
    replied = sum(record.replies for record in records)
    dense_once = sizes.dense_model_bytes
    dense = dense_once * (asked + replied)
    total = up + down
    if not total or not dense:
        return Tile(label="Total bytes", value=bytes_text(total), note="nothing was sent yet", wide=True)
    times = f"{factor_text(dense / total)} fewer" if dense >= total else f"{factor_text(total / dense)} more"
    aside = f"{times} than dense fp32"
    note = (
        f"{bytes_text(up)} up, {bytes_text(down)} down. Dense: sending the fp32 model ({bytes_text(dense_once)}) "
        f"to the same clients ({asked:,} times) and back ({replied:,} times) would take {bytes_text(dense)}; "
        "that is computed from the model’s size, not measured."
    )
    return Tile(label="Total bytes, both ways", value=bytes_text(total), note=note, aside=aside, wide=True)


def _bits(records: Sequence[RoundRecord]) -> Tile:
    """8 · bytes up ÷ Σ over rounds (kept weights · replies), with the same for the entropy bound."""
    weights = sum(record.kept * record.replies for record in records)
    if not weights:
        return Tile(label="Bits up per kept weight", value=MISSING, note="no reply yet")
    bound = 8 * sum(record.entropy_up for record in records) / weights
    return Tile(
        label="Bits up per kept weight",
        value=number_text(8 * sum(record.bytes_up for record in records) / weights, 2),
        note=f"per reply; entropy bound {number_text(bound, 2)}",
    )


def _memory(records: Sequence[RoundRecord]) -> Tile:
    known = [r.measured for r in records if r.measured.client_peak_bytes is not None]
    if not known:
        held = max((r.measured.client_held_bytes or 0 for r in records), default=0)
        note = "measured, what one client’s process held for a request" if held else "not measured on this system"
        return Tile(label="Peak client memory", value=bytes_text(held) if held else MISSING, note=note)
    largest = max(known, key=lambda measured: measured.client_peak_bytes or 0)
    computed = largest.client_ledger_bytes
    beside = "" if computed is None else f"; computed: {bytes_text(computed.peak)}"
    return Tile(
        label="Peak client memory",
        value=bytes_text(largest.client_peak_bytes),
        note=f"measured, one client’s training{beside}",
    )
