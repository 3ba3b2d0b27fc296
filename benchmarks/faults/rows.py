"""A line of the fault table, and what a run that was disturbed has to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.faults.lab import Lab
from hedgerow.telemetry import RoundRecord

__all__ = ["Outcome", "Row", "outcome_of", "table"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run.

    Attributes:
        lost: devices that were asked and of which nothing is recorded.
        twice: replies that were counted more than once, and rounds recorded more than once.
        refused: what was not counted or thrown away, with the reason and how often.
        identical: whether the model is bit by bit the one that it has to be; None where it cannot be.
        problem: what is wrong with it; empty when nothing is.
    """

    lost: int
    twice: int
    refused: Mapping[str, int]
    identical: bool | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One fault.

    Attributes:
        fault: what was done.
        seen: what was seen.
        outcome: of its run.
    """

    fault: str
    seen: str
    outcome: Outcome

    @property
    def passed(self) -> bool:
        """Whether all is as it has to be."""
        outcome = self.outcome
        return not (outcome.lost or outcome.twice or outcome.problem) and outcome.identical is not False


def outcome_of(lab: Lab, *, reference: bytes | None, uncounted: Mapping[int, str] | None = None) -> Outcome:
    """What became of a run that is done.

    Args:
        lab: where it was.
        reference: the model that it has to give; None where another one is right.
        uncounted: rounds in which one device does not count, with the kind of its failure, or `late`.
    """
    records = lab.records()
    played = records[1:]
    expected = {} if uncounted is None else dict(uncounted)
    twice = len(records) - len({r.round for r in records}) + sum(max(0, r.replies - r.cohort) for r in played)
    lost = sum(max(0, r.cohort - _accounted(r)) for r in played)
    kinds = {r.round: kind for r in played if (kind := _uncounted(r))}
    problem = ""
    if [r.round for r in records] != list(range(lab.experiment.rounds + 1)):
        problem = f"rounds {[r.round for r in records]} are recorded"
    elif kinds != expected:
        problem = f"in rounds {kinds} somebody does not count, expected {expected}"
    identical = None if reference is None else lab.model() == reference
    return Outcome(lost, twice, _refused(lab, played), identical, problem)


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| fault | seen | lost | counted twice | rejected or not counted | model | |",
        "|---|---|--:|--:|---|---|---|",
    ]
    for row in rows:
        outcome = row.outcome
        refused = ", ".join(f"{count} {reason}" for reason, count in sorted(outcome.refused.items())) or "–"
        model = {True: "identical", False: "**differs**", None: "–"}[outcome.identical]
        verdict = "passed" if row.passed else f"**failed** {outcome.problem}"
        cells = (row.fault, row.seen, str(outcome.lost), str(outcome.twice), refused, model, verdict)
        # Log lines end up in it.
        lines.append("| " + " | ".join(" ".join(cell.replace("|", "/").split()) for cell in cells) + " |")
    return "\n".join(lines)


def _accounted(record: RoundRecord) -> int:
    return record.replies + len(record.failures) + record.late


def _uncounted(record: RoundRecord) -> str:
    kinds = [failure.kind for failure in record.failures] + ["late"] * record.late
    return ", ".join(kinds)


def _refused(lab: Lab, played: list[RoundRecord]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for record in played:
        found.update(failure.kind.replace("_", " ") for failure in record.failures)
        if record.late:
            found["late"] += record.late
    for name, value in lab.counters().items():
        if name.startswith("hedgerow_rejected_replies_total"):
            reason = name.partition('reason="')[2].partition('"')[0].replace("_", " ")
            # Who is late in the record is late on arrival too.
            if reason != "late":
                found[reason] += int(value)
    return dict(found)
