"""Figures of the lines: of each alone, beside dense federated averaging, and what each piece of ours brings."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.compare.lines import ABLATIONS, ADDITIONS, OURS, RECIPES, YARDSTICK
from hedgerow.server.comparing.figures import AXES, LineFigures, Spread
from hedgerow.server.comparing.pareto import beaten_by

__all__ = ["RIVAL", "beside", "summarised"]

RIVAL = "fedpm"
"""Who sends a bit a weight."""
_MEANS = {
    "accuracy": "accuracy",
    "kept": "kept",
    "bytes_up": "bytes_up",
    "bytes_down": "bytes_down",
    "bytes_both": "bytes_both",
    "peak_bytes": "client_peak_bytes",
    "device_seconds": "client_seconds",
    "seconds": "seconds",
    "failures": "failures",
}
_COSTS = {"fewer_bytes": "bytes_both", "less_memory": "client_peak_bytes", "less_time": "client_seconds"}

Figures = dict[str, float]


def summarised(lines: Sequence[LineFigures]) -> Figures:
    """Figures of the lines of one data set that ran; names begin with the line, the pair, `ablation` or `addition`.

    Args:
        lines: what each came to, over its seeds.
    """
    of = {line.name: line for line in lines if line.runs}
    figures: Figures = {}
    for name, line in of.items():
        if YARDSTICK in of and name != YARDSTICK:
            figures |= _named(name, beside(line, of[YARDSTICK]))
        found = {figure: line.mean(source) for figure, source in _MEANS.items()}
        known = {figure: value for figure, value in found.items() if value is not None}
        each = {f"accuracy.{seed}": run.accuracy for seed, run in line.runs.items() if run.accuracy is not None}
        spread = {"spread": _deviation(line.over.get("accuracy")), "seeds": len(line.runs)}
        figures |= _named(name, {**known, **spread, **each})
    if OURS in of:
        figures |= {f"{OURS}.beaten_by": len(_betters(of))}
        if RIVAL in of:
            figures |= _named(f"{OURS}_over_{RIVAL}", beside(of[OURS], of[RIVAL]))
        for name in ABLATIONS:
            if name in of:
                figures |= _named(f"ablation.{name}", beside(of[OURS], of[name]))
        for name in ADDITIONS:
            if name in of:
                figures |= _named(f"addition.{name}", beside(of[name], of[OURS]))
    return figures


def beside(one: LineFigures, other: LineFigures) -> Figures:
    """What one line has over another, over the seeds that both have: `points` of accuracy, their `points_spread`, and
    how many times fewer bytes (`fewer_bytes`), less memory and less device time it takes, of means. Without what is
    missing.
    """
    pairs = [(one.runs[seed], other.runs[seed]) for seed in sorted(one.runs.keys() & other.runs.keys())]
    accuracies = [(own.accuracy, its.accuracy) for own, its in pairs]
    points = Spread.of(100 * (own - its) for own, its in accuracies if own is not None and its is not None)
    figures: Figures = {}
    if points is not None:
        figures |= {"points": points.mean, "points_spread": _deviation(points), "seeds": points.count}
    for figure, source in _COSTS.items():
        costs = [(getattr(own, source), getattr(its, source)) for own, its in pairs]
        known = [(own, its) for own, its in costs if own and its]
        if known:
            figures[figure] = statistics.mean(its for _, its in known) / statistics.mean(own for own, _ in known)
    return figures


def _betters(of: Mapping[str, LineFigures]) -> Sequence[str]:
    """Recipes that are at least as good as ours in accuracy, bytes and memory at once, and better in one of them."""
    points = {name: [_signed(line, axis) for axis in AXES[:3]] for name, line in of.items() if name in RECIPES}
    return beaten_by(points)[OURS]


def _signed(line: LineFigures, axis: str) -> float | None:
    mean = line.mean(axis)
    return mean if mean is None or axis == "accuracy" else -mean


def _deviation(spread: Spread | None) -> float:
    return 0.0 if spread is None or spread.deviation is None else spread.deviation


def _named(prefix: str, figures: Mapping[str, float]) -> Figures:
    return {f"{prefix}.{name}": value for name, value in figures.items()}
