"""The plots of a comparison's page, with what is said about them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from hedgerow.server.comparing.figures import LineFigures
from hedgerow.server.comparing.folder import Found
from hedgerow.server.comparing.plots import Curve, Point, curve_chart, scatter_chart
from hedgerow.server.comparing.rows import PLOTTED, Cost, axis_of
from hedgerow.units import percent_text

__all__ = ["Picture", "pictures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A plot of the page; `text` says what it shows to those who cannot see it."""

    name: str
    title: str
    text: str
    svg: Markup
    note: str = ""


def pictures(lines: Sequence[LineFigures], found: Iterable[Found]) -> list[Picture]:
    """Those that there are figures for: accuracy against each cost, and over the rounds."""
    made = [_scatter(lines, cost) for cost in PLOTTED]
    made.append(_curves(lines, list(found)))
    return [picture for picture in made if picture is not None]


def _scatter(lines: Sequence[LineFigures], cost: Cost) -> Picture | None:
    points = []
    for place, line in enumerate(lines):
        x, y = line.over.get(cost.figure), line.over.get("accuracy")
        if x is not None and y is not None and x.mean > 0:
            points.append(
                Point(
                    name=line.name,
                    look=place,
                    x=x.mean,
                    y=y.mean,
                    x_deviation=x.deviation or 0.0,
                    y_deviation=y.deviation or 0.0,
                )
            )
    if not points:
        return None
    said = "; ".join(f"{p.name}: {percent_text(p.y)} for {cost.text(p.x)}" for p in points)
    divisor, tick, label = axis_of(cost, [point.x for point in points])
    points = [replace(p, x=p.x / divisor, x_deviation=p.x_deviation / divisor) for p in points]
    name = f"plot-{cost.figure.replace('_', '-')}"
    return Picture(
        name=name,
        title=cost.title,
        text=said,
        svg=Markup(scatter_chart(name, points, tick=tick, label=label)),
        note="Filled: the Pareto front, nobody is better in both. Bars: one standard deviation over the seeds.",
    )


def _curves(lines: Sequence[LineFigures], found: Sequence[Found]) -> Picture | None:
    curves, said = [], []
    for place, line in enumerate(lines):
        runs = [
            {r.round: r.accuracy for r in one.records if r.accuracy is not None and math.isfinite(r.accuracy)}
            for one in found
            if one.run.line == line.name and one.stage == "done"
        ]
        rounds = sorted(set.intersection(*map(set, runs))) if runs else []
        if not rounds:
            continue
        over = [[run[number] for run in runs] for number in rounds]
        means = tuple(math.fsum(values) / len(values) for values in over)
        deviations = tuple(statistics.stdev(values) if len(values) > 1 else 0.0 for values in over)
        curves.append(Curve(look=place, rounds=tuple(rounds), means=means, deviations=deviations))
        said.append(f"{line.name}: {percent_text(means[0])} in round {rounds[0]}, {percent_text(means[-1])} at last")
    if not curves:
        return None
    return Picture(
        name="plot-rounds",
        title="Accuracy over the rounds",
        text="; ".join(said),
        svg=Markup(curve_chart("plot-rounds", curves)),
        note="Means over the seeds; shaded: one standard deviation.",
    )
