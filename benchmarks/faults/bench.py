"""What is killed, cut, slowed and forged, and what is lost by it: nothing."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.faults.fuzz import fuzz_frames, fuzz_messages
from benchmarks.faults.lab import experiment_of
from benchmarks.faults.rows import Outcome, Row, table
from benchmarks.faults.scenarios import FULL, QUICK, ROUNDS, Bed, simulated, undisturbed
from hedgerow.errors import HedgerowError

__all__ = ["run"]


@dataclass(frozen=True, slots=True)
class Fuzz:
    """How many mutants are sent."""

    frames: int
    messages: int


def run(*, quick: bool, out: Path) -> dict[str, float]:
    """Tries everything, prints the table and returns the figures; `out` is not used."""
    console = Console()
    rows: list[Row] = []
    began = time.monotonic()
    experiment = experiment_of(rounds=3 if quick else ROUNDS)
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name:
        console.print("undisturbed …")
        row, reference = (simulated if quick else undisturbed)(Path(name), experiment)
        rows.append(row)
        bed = Bed(Path(name), experiment, reference)
        for scenario in QUICK if quick else FULL:
            console.print(f"{scenario.__name__.replace('_', ' ')} …")
            rows += _tried(scenario, bed)
    figures: dict[str, float] = {}
    fuzz = Fuzz(frames=100, messages=900) if quick else Fuzz(frames=2000, messages=10_000)
    console.print(f"{fuzz.frames + fuzz.messages:,} mutants …")
    rows += _fuzzed(fuzz, figures)
    print(f"\n{table(rows)}\n")
    failed = sum(not row.passed for row in rows)
    return {
        "faults.passed": len(rows) - failed,
        "faults.failed": failed,
        "faults.lost": sum(row.outcome.lost for row in rows),
        "faults.counted_twice": sum(row.outcome.twice for row in rows),
        "faults.identical": sum(row.outcome.identical is True for row in rows),
        "faults.seconds": time.monotonic() - began,
        "fuzz.payloads": fuzz.frames + fuzz.messages,
        "fuzz.accepted": figures.get("fuzz.messages.accepted", math.nan),
        **figures,
    }


def _tried(scenario: Callable[[Bed], list[Row]], bed: Bed) -> list[Row]:
    try:
        return scenario(bed)
    except (HedgerowError, OSError) as error:
        return [_failure((scenario.__doc__ or "").splitlines()[0], error)]


def _fuzzed(fuzz: Fuzz, figures: dict[str, float]) -> list[Row]:
    rows = []
    for name, level, attempt, count in (
        ("frames", "damaged frames of valid replies", fuzz_frames, fuzz.frames),
        ("messages", "damaged messages and payloads, whole and with the right digest", fuzz_messages, fuzz.messages),
    ):
        fault = f"{count:,} fuzzed replies: {level}"
        try:
            found = attempt(count, seed=0)
        except (AssertionError, HedgerowError) as error:
            rows.append(_failure(fault, error))
            continue
        figures.update(found)
        prefix = f"fuzz.{name}.rejected."
        refused = {
            key.removeprefix(prefix).replace("_", " "): int(n) for key, n in found.items() if key.startswith(prefix)
        }
        if name == "frames":
            seen = (
                f"{found['fuzz.frames.true']:,.0f} true replies in the end, {found['fuzz.frames.failed']:,.0f} failures"
            )
        else:
            seen = f"{found['fuzz.messages.accepted']:,.0f} still valid; the others changed nothing in the sums"
        rows.append(Row(fault, seen, Outcome(0, 0, refused, None)))
    return rows


def _failure(fault: str, error: BaseException) -> Row:
    return Row(fault, "–", Outcome(0, 0, {}, None, problem=str(error) or type(error).__name__))
