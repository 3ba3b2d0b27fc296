"""Fleets whose devices have three sizes of memory, beside the same with only the smallest or the largest."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.budget.lines import CLASSES, FLEETS, budgets, class_experiment, plans
from benchmarks.trainings import Figures, Found, Records, data_sets, found_of, line_figures, points_over, spread

__all__ = ["classes", "summarised"]


def classes(
    part: str, data: Sequence[str], *, seeds: Sequence[int], quick: bool, out: Path, console: Console
) -> Figures:
    """Trains what is not in `out` of one of `FLEETS`, on the first data set that is there; figures begin with its name.

    Args:
        part: its name.
        data: names of the data sets that it may be.
        seeds: of the runs.
        quick: whether these are small versions.
        out: where runs are.
        console: is told what is trained.
    """
    fleet = FLEETS[part]
    for name, settings in data_sets(data, out=out, console=console):
        smallest = budgets(fleet, data=settings, quick=quick)
        figures: Figures = {}
        for size, plan in plans(fleet, data=settings, quick=quick, smallest=smallest).items():
            named = {"bytes": plan.budget, "predicted_bytes": plan.predicted, "level": plan.chosen.level}
            figures |= {f"{part}.budget.{size}.{key}": value for key, value in named.items()}
        experiments = {
            seed: {
                line: class_experiment(fleet, line, data=settings, seed=seed, quick=quick, smallest=smallest)
                for line in CLASSES
            }
            for seed in seeds
        }
        found = found_of(experiments, title=f"{name}, {part}", quick=quick, out=out, console=console)
        return figures | {f"{part}.{figure}": value for figure, value in summarised(found).items()}
    return {}


def summarised(found: Found) -> Figures:
    """Means over the seeds of each line, and points of accuracy between lines with the same seed."""
    figures: Figures = {}
    accuracies: dict[str, dict[int, float]] = {}
    for line, runs in found.items():
        each = {seed: _figures_of(records) for seed, records in runs.items()}
        accuracies[line] = {seed: one["accuracy"] for seed, one in each.items()}
        figures |= line_figures(line, each)
        figures[f"{line}.failures"] = sum(len(r.failures) for records in runs.values() for r in records)
    for more, less in (("mixed", "small"), ("large", "mixed")):
        points = points_over(accuracies[more], accuracies[less])
        figures |= {f"{more}_minus_{less}": statistics.mean(points), f"{more}_minus_{less}_spread": spread(points)}
    return figures


def _figures_of(records: Records) -> Figures:
    # Devices that plan measure what their process held, which a profiler would add to.
    held = [r.measured.client_held_bytes for r in records if r.measured.client_held_bytes is not None]
    return {
        "accuracy": records[-1].accuracy or 0.0,
        "kept": records[-1].kept,
        **({"held_bytes": max(held)} if held else {}),
        "seconds": sum(r.measured.seconds for r in records),
    }
