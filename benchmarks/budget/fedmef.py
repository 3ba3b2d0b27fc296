"""Dynamic recipes with and without what FedMef adds: accuracy, and the memory that their clients measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.budget.lines import LINES, QUICK_LINES, experiment_of
from benchmarks.selection.compared import spread
from benchmarks.trainings import Records, data_sets, records_of

__all__ = ["fedmef", "summarised"]

_PLAIN, _OURS = "rigl", "fedmef"

Figures = dict[str, float]
Runs = Mapping[str, Mapping[int, Records]]
"""What each line left behind, by seed."""


def fedmef(
    data: Sequence[str], *, seeds: Sequence[int], quick: bool, out: Path, console: Console
) -> tuple[Figures, list[str]]:
    """Trains what is not in `out`; figures, which begin with `fedmef.DATA`, and the data sets that were there."""
    figures: Figures = {}
    there, lines = [], QUICK_LINES if quick else tuple(LINES)
    for name, settings in data_sets(data, out=out, console=console):
        found: dict[str, dict[int, Records]] = {line: {} for line in lines}
        for seed in seeds:
            for line in lines:
                console.print(f"{name}, seed {seed}: {line}")
                experiment = experiment_of(line, data=settings, seed=seed, quick=quick)
                found[line][seed] = records_of(experiment, quick=quick, out=out, console=console)
        figures |= {f"fedmef.{name}.{figure}": value for figure, value in summarised(found).items()}
        there.append(name)
    return figures, there


def summarised(found: Runs) -> Figures:
    """Means over the seeds of each line, and what `fedmef` has beyond `rigl` with the same seed."""
    figures: Figures = {}
    accuracies: dict[str, dict[int, float]] = {}
    for line, runs in found.items():
        own = accuracies[line] = {seed: records[-1].accuracy or 0.0 for seed, records in runs.items()}
        peaks = {seed: _peaks(records) for seed, records in runs.items()}
        figures |= {
            f"{line}.accuracy": statistics.mean(own.values()),
            f"{line}.spread": spread([*own.values()]),
            f"{line}.seeds": len(runs),
            f"{line}.kept": statistics.mean(records[-1].kept for records in runs.values()),
            f"{line}.peak_bytes": statistics.mean(max(both) for both in peaks.values()),
            f"{line}.training_bytes": statistics.mean(training for training, _ in peaks.values()),
            f"{line}.growth_bytes": statistics.mean(growth for _, growth in peaks.values()),
            f"{line}.bytes_both": statistics.mean(
                sum(r.all_bytes_up + r.all_bytes_down for r in records[1:]) for records in runs.values()
            ),
            f"{line}.seconds": statistics.mean(sum(r.measured.seconds for r in records) for records in runs.values()),
        }
        figures |= {f"{line}.accuracy.{seed}": accuracy for seed, accuracy in own.items()}
    points = [100 * (accuracy - accuracies[_PLAIN][seed]) for seed, accuracy in accuracies[_OURS].items()]
    return figures | {
        "less_memory": 1 - figures[f"{_OURS}.peak_bytes"] / figures[f"{_PLAIN}.peak_bytes"],
        "points": statistics.mean(points),
        "points_spread": spread(points),
    }


def _peaks(records: Records) -> tuple[int, int]:
    """The most that any client of a run held in its training, and in its search for what grows, in bytes."""
    phases = [r.measured.client_phase_bytes for r in records if r.measured.client_phase_bytes is not None]
    training = max((max(p.forward, p.backward, p.update) for p in phases), default=0)
    return training, max((p.growth for p in phases), default=0)
