"""One fleet whose devices have three sizes of memory, beside fleets that have only the smallest or the largest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.budget.lines import CLASSES, budgets, class_experiment, plans
from benchmarks.selection.compared import spread
from benchmarks.trainings import Records, data_sets, records_of

__all__ = ["classes", "summarised"]

Figures = dict[str, float]
Runs = Mapping[str, Mapping[int, Records]]
"""What each line left behind, by seed."""


def classes(data: Sequence[str], *, seeds: Sequence[int], quick: bool, out: Path, console: Console) -> Figures:
    """Trains what is not in `out` on the first data set that is there; figures begin with `classes`."""
    for name, settings in data_sets(data, out=out, console=console):
        smallest = budgets(data=settings, quick=quick)
        figures: Figures = {}
        for size, plan in plans(data=settings, quick=quick, smallest=smallest).items():
            named = {"bytes": plan.budget, "predicted_bytes": plan.predicted, "level": plan.chosen.level}
            figures |= {f"classes.budget.{size}.{key}": value for key, value in named.items()}
        found: dict[str, dict[int, Records]] = {line: {} for line in CLASSES}
        for seed in seeds:
            for line in CLASSES:
                console.print(f"{name}, seed {seed}: memory of {line}")
                experiment = class_experiment(line, data=settings, seed=seed, quick=quick, smallest=smallest)
                found[line][seed] = records_of(experiment, quick=quick, out=out, console=console)
        return figures | {f"classes.{figure}": value for figure, value in summarised(found).items()}
    return {}


def summarised(found: Runs) -> Figures:
    """Means over the seeds of each line, and points of accuracy between lines with the same seed."""
    figures: Figures = {}
    accuracies: dict[str, dict[int, float]] = {}
    for line, runs in found.items():
        own = accuracies[line] = {seed: records[-1].accuracy or 0.0 for seed, records in runs.items()}
        figures |= {
            f"{line}.accuracy": statistics.mean(own.values()),
            f"{line}.spread": spread([*own.values()]),
            f"{line}.seeds": len(runs),
            f"{line}.kept": statistics.mean(records[-1].kept for records in runs.values()),
            f"{line}.peak_bytes": statistics.mean(
                max(r.measured.client_peak_bytes or 0 for r in records) for records in runs.values()
            ),
            f"{line}.failures": sum(len(r.failures) for records in runs.values() for r in records),
            f"{line}.seconds": statistics.mean(sum(r.measured.seconds for r in records) for records in runs.values()),
        }
        figures |= {f"{line}.accuracy.{seed}": accuracy for seed, accuracy in own.items()}
    for more, less in (("mixed", "small"), ("large", "mixed")):
        points = [100 * (accuracy - accuracies[less][seed]) for seed, accuracy in accuracies[more].items()]
        figures |= {f"{more}_minus_{less}": statistics.mean(points), f"{more}_minus_{less}_spread": spread(points)}
    return figures
