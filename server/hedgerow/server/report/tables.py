"""The numbers behind the pictures, as rows of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hedgerow.telemetry.records import PhaseBytes, RoundRecord
from hedgerow.units import MISSING, clean_text, number_text, percent_text

__all__ = ["COLUMNS", "FAILURES_SHOWN", "FailureRow", "failure_rows", "round_rows"]

FAILURES_SHOWN = 200
"""A fleet can fail a million times; the page shows the latest, `metrics.jsonl` has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRow:
    """A client that did not deliver; both texts came from another machine and hold anything but control characters."""

    round: int
    client: str
    reason: str


def _whole(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _exact_percent(value: float | None) -> str:
    text = number_text(None if value is None else 100 * value, 2)
    return text if text == MISSING else f"{text}%"


def _phase(value: PhaseBytes | None, name: str) -> str:
    return _whole(None if value is None else getattr(value, name))


_CELLS: tuple[tuple[str, Callable[[RoundRecord], str]], ...] = (
    ("Round", lambda r: str(r.round)),
    ("Accuracy", lambda r: _exact_percent(r.accuracy)),
    ("Test loss", lambda r: number_text(r.loss)),
    ("Training loss", lambda r: number_text(r.train_loss)),
    ("Density", lambda r: percent_text(r.density)),
    ("Kept weights", lambda r: _whole(r.kept)),
    ("Exchanged weights", lambda r: _whole(None if r.adjustment is None else r.adjustment.weights)),
    ("Clients asked", lambda r: _whole(r.cohort)),
    ("Replies", lambda r: _whole(r.replies)),
    ("Failures", lambda r: _whole(len(r.failures))),
    ("Samples", lambda r: _whole(r.examples)),
    ("Bytes up", lambda r: _whole(r.all_bytes_up)),
    ("Bound up, bytes", lambda r: number_text(r.all_entropy_up, 0)),
    ("Sent changes only", lambda r: _whole(r.updated)),
    ("Bytes down", lambda r: _whole(r.all_bytes_down)),
    ("Bound down, bytes", lambda r: number_text(r.all_entropy_down, 0)),
    ("Signs changed", lambda r: _exact_percent(r.flip_rate)),
    ("… on a client", lambda r: _exact_percent(r.client_flip_rate)),
    ("Vote margin", lambda r: number_text(r.vote_margin, 3)),
    ("Client peak, bytes", lambda r: _whole(r.measured.client_peak_bytes)),
    ("… forward", lambda r: _phase(r.measured.client_phase_bytes, "forward")),
    ("… backward", lambda r: _phase(r.measured.client_phase_bytes, "backward")),
    ("… update", lambda r: _phase(r.measured.client_phase_bytes, "update")),
    ("… computed", lambda r: _phase(r.measured.client_ledger_bytes, "peak")),
    ("Held for a request, bytes", lambda r: _whole(r.measured.client_held_bytes)),
    ("On native kernels", lambda r: percent_text(r.measured.native_share)),
    ("Coordinator peak, bytes", lambda r: _whole(r.measured.coordinator_peak_bytes)),
    ("Seconds", lambda r: number_text(r.measured.seconds, 2)),
    ("Evaluation, s", lambda r: number_text(r.measured.evaluation_seconds, 2)),
    ("Clients’ training, s", lambda r: number_text(r.measured.client_seconds, 2)),
)

COLUMNS = tuple(name for name, _ in _CELLS)


def round_rows(records: Sequence[RoundRecord]) -> list[list[str]]:
    """One row a round, in the order of `COLUMNS`."""
    return [[cell(record) for _, cell in _CELLS] for record in records]


def failure_rows(records: Sequence[RoundRecord]) -> list[FailureRow]:
    """All failures, oldest first; not escaped, which is the template's work."""
    return [
        FailureRow(round=record.round, client=clean_text(failure.client, 80), reason=clean_text(failure.reason))
        for record in records
        for failure in (
            *(record.selection.failures if record.selection else ()),
            *(record.plans.failures if record.plans else ()),
            *record.failures,
        )
    ]
