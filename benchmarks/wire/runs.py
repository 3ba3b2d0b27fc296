"""Whole trainings: the recipe `hidenseek` as it is, beside the version of it that sends one bit a kept weight."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.recipes import FEDERATED, ONE_BIT, QUICK
from hedgerow.config import Experiment, load_experiment
from hedgerow.server.progress import PlainObserver, TerminalObserver
from hedgerow.server.simulation import simulate
from hedgerow.telemetry import RoundRecord, read_records

__all__ = ["LINES", "densities", "measured"]

LINES: Mapping[str, Mapping[str, object]] = {"one-bit": ONE_BIT, "coded": {}}
_VOTES = ("drift/", "signs/", "flips/")
_SEEDS, _DENSITIES = "HEDGEROW_BENCH_SEEDS", "HEDGEROW_BENCH_DENSITIES"


@dataclass(frozen=True, slots=True)
class _Run:
    line: str
    density: float
    seed: int

    def experiment(self, *, quick: bool) -> Experiment:
        base = {**FEDERATED, **QUICK} if quick else FEDERATED
        own = {"pruning.density": self.density, "seed": self.seed}
        return load_experiment(recipe="hidenseek", overrides={**base, **own, **LINES[self.line]}.items())


def densities(*, quick: bool) -> list[float]:
    """Those that are trained: 0.05, or what HEDGEROW_BENCH_DENSITIES lists, as in `0.05,0.2`."""
    return [0.05] if quick else [float(d) for d in os.environ.get(_DENSITIES, "0.05").split(",")]


def measured(*, quick: bool, out: Path) -> dict[str, float]:
    """Trains what is not in `out`; figures are means over the seeds, 0 or what HEDGEROW_BENCH_SEEDS lists."""
    seeds = [0] if quick else [int(seed) for seed in os.environ.get(_SEEDS, "0").split(",")]
    console = Console()
    figures: dict[str, float] = {"runs.seeds": len(seeds)}
    for density in densities(quick=quick):
        of: dict[str, list[dict[str, float]]] = {}
        # Seed by seed, so that lines can be compared before all are done.
        for run in (_Run(line, density, seed) for seed in seeds for line in LINES):
            observer = TerminalObserver(console) if console.is_terminal else PlainObserver(console)
            path = simulate(run.experiment(quick=quick), out=out, workers=1 if quick else None, observer=observer)
            of.setdefault(run.line, []).append(_figures(read_records(path / "metrics.jsonl")))
        for line, found in of.items():
            mean = {key: statistics.mean(one[key] for one in found) for key in found[0]}
            figures |= {f"runs.{line}-{density:g}.{key}": value for key, value in mean.items()}
        figures |= {f"runs.{key}-{density:g}": value for key, value in _compared(of["one-bit"], of["coded"])}
    return figures


def _compared(
    one_bit: Sequence[Mapping[str, float]], coded: Sequence[Mapping[str, float]]
) -> Iterator[tuple[str, float]]:
    pairs = list(zip(one_bit, coded, strict=True))
    gains = [100 * (after["accuracy"] - before["accuracy"]) for before, after in pairs]
    yield "points", statistics.mean(gains)
    yield "points_least", min(gains)
    for name in ("bytes_up", "bytes_down", "bytes_both"):
        yield f"ratio.{name}", statistics.mean(after[name] / before[name] for before, after in pairs)


def _figures(records: Sequence[RoundRecord]) -> dict[str, float]:
    played, kept = records[1:], records[-1].kept
    up, down = sum(r.bytes_up for r in played), sum(r.bytes_down for r in played)
    replies = sum(r.replies for r in played)
    votes = sum(part.bytes for r in played for label, part in r.sections_up.items() if label.startswith(_VOTES))
    accuracy = records[-1].accuracy
    assert accuracy is not None
    return {
        "accuracy": accuracy,
        "rounds": records[-1].round,
        "kept": kept,
        "bytes_up": up,
        "bytes_down": down,
        "bytes_both": up + down,
        "bits_up": 8 * up / (replies * kept),
        "bits_down": 8 * down / (replies * kept),
        "bits_votes": 8 * votes / (replies * kept),
        "deltas": sum(r.updated for r in played) / replies,
        "up_over_entropy": up / sum(r.entropy_up for r in played),
        "down_over_entropy": down / sum(r.entropy_down for r in played),
        "failures": sum(len(r.failures) for r in played),
        "seconds": sum(r.measured.seconds for r in records),
    }
