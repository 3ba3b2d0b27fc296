"""Which parts of the network devices have memory for, as rows of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hedgerow.telemetry.records import RoundRecord
from hedgerow.units import MISSING, bytes_text, count_text

__all__ = ["PartRow", "part_rows", "refused_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartRow:
    """A part of the network, and the devices that train it."""

    part: str
    kept: str
    chosen: str
    budget: str
    predicted: str
    replies: str


def part_rows(records: Sequence[RoundRecord]) -> list[PartRow]:
    """The parts from the whole on, with what devices said in all rounds; nothing where none was asked."""
    plans = [record.plans for record in records if record.plans is not None]
    if not plans:
        return []
    last = next((record.levels for record in reversed(records) if record.levels), ())
    kept = {part.level: part.kept for part in last} or {0: records[-1].kept}
    # Who is asked anew counts again.
    chosen: Counter[int] = Counter()
    replies: Counter[int] = Counter()
    for plan in plans:
        chosen.update(plan.levels)
    for record in records:
        # Where there is only the whole, nothing is said of parts.
        replies.update({part.level: part.replies for part in record.levels} or {0: record.replies})
    return [
        PartRow(
            part="the whole" if level == 0 else f"level {level}",
            kept=count_text(kept[level]) if level in kept else MISSING,
            chosen=count_text(chosen[level]),
            budget=bytes_text(min((p.budgets[level] for p in plans if level in p.budgets), default=None)),
            predicted=bytes_text(max((p.predicted[level] for p in plans if level in p.predicted), default=None)),
            replies=count_text(replies[level]),
        )
        for level in sorted({*kept, *chosen})
    ]


def refused_text(records: Sequence[RoundRecord]) -> str:
    """A sentence about the devices that have too little memory; empty where there are none."""
    plans = [record.plans for record in records if record.plans is not None and record.plans.refused]
    if not plans:
        return ""
    count = sum(plan.refused for plan in plans)
    least = min((plan.least_bytes for plan in plans if plan.least_bytes is not None), default=None)
    who = "1 device has" if count == 1 else f"{count_text(count)} devices have"
    return f"{who} too little memory for each part and did not train; {bytes_text(least)} would do for the nearest."
