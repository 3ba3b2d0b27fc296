"""Dynamic recipes with and without what FedMef adds: accuracy, and the memory that their clients measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.budget.lines import LINES, QUICK_LINES, SAME_NETWORK, experiment_of
from benchmarks.trainings import Figures, Found, Records, data_sets, found_of, line_figures, points_over, spread

__all__ = ["fedmef", "summarised"]

_PLAIN, _OURS = SAME_NETWORK, "fedmef"


def fedmef(
    data: Sequence[str], *, seeds: Sequence[int], quick: bool, out: Path, console: Console
) -> tuple[Figures, list[str]]:
    """Trains what is not in `out`; figures, which begin with `fedmef.DATA`, and the data sets that were there."""
    figures: Figures = {}
    there, lines = [], QUICK_LINES if quick else tuple(LINES)
    for name, settings in data_sets(data, out=out, console=console):
        experiments = {
            seed: {line: experiment_of(line, data=settings, seed=seed, quick=quick) for line in lines} for seed in seeds
        }
        found = found_of(experiments, title=name, quick=quick, out=out, console=console)
        figures |= {f"fedmef.{name}.{figure}": value for figure, value in summarised(found).items()}
        there.append(name)
    return figures, there


def summarised(found: Found) -> Figures:
    """Means over the seeds of each line, and what `fedmef` has beyond the same network and seed trained by `rigl`."""
    figures: Figures = {}
    accuracies: dict[str, dict[int, float]] = {}
    for line, runs in found.items():
        each = {seed: _figures_of(records) for seed, records in runs.items()}
        accuracies[line] = {seed: one["accuracy"] for seed, one in each.items()}
        figures |= line_figures(line, each)
    points = points_over(accuracies[_OURS], accuracies[_PLAIN])
    return figures | {
        "less_memory": 1 - figures[f"{_OURS}.peak_bytes"] / figures[f"{_PLAIN}.peak_bytes"],
        "points": statistics.mean(points),
        "points_spread": spread(points),
    }


def _figures_of(records: Records) -> Figures:
    training, growth = _peaks(records)
    return {
        "accuracy": records[-1].accuracy or 0.0,
        "kept": records[-1].kept,
        "peak_bytes": max(training, growth),
        "training_bytes": training,
        "growth_bytes": growth,
        "bytes_both": sum(r.all_bytes_up + r.all_bytes_down for r in records[1:]),
        "seconds": sum(r.measured.seconds for r in records),
    }


def _peaks(records: Records) -> tuple[int, int]:
    """The most that any client of a run held in its training, and in its search for what grows, in bytes."""
    phases = [r.measured.client_phase_bytes for r in records if r.measured.client_phase_bytes is not None]
    training = max((max(p.forward, p.backward, p.update) for p in phases), default=0)
    return training, max((p.growth for p in phases), default=0)
