"""Accuracy of each recipe against what it costs: bytes, memory and device time."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.compare.lines import OURS, RECIPES, YARDSTICK
from hedgerow.files import write_atomically
from hedgerow.server.comparing.figures import LineFigures
from hedgerow.server.comparing.placing import Box, Wanted, placed
from hedgerow.server.comparing.plots import Point, front_of
from hedgerow.server.comparing.rows import COSTS, Cost
from hedgerow.server.report.svg import drawing

__all__ = ["pareto_picture"]

_OURS, _YARDSTICK, _OTHERS = "#1a7f4e", "#b7791f", "#2b6cb0"
_INK, _MUTED, _GRID = "#1c2521", "#5b6661", "#e3e8e5"
_MARKER, _NAME = 8.0, 9.5
"""Points, of a marker and of its name."""


def pareto_picture(path_png: Path, cases: Mapping[str, Sequence[LineFigures]]) -> None:
    """Writes a PNG with a row for each data set and a panel for each cost. Who is on the front, so that nobody is
    better in both, is filled.

    Args:
        path_png: where to, atomically.
        cases: for each title the lines; recipes are drawn, and at least one of them has an accuracy and its costs.

    Raises:
        RunError: the file cannot be written.
    """
    look = {"font.size": 11.5, "text.color": _INK, "xtick.labelcolor": _MUTED, "ytick.labelcolor": _MUTED}
    with drawing(**look, **{"axes.labelcolor": _MUTED, "axes.edgecolor": "#aab4af"}):
        size = (6.2 * len(COSTS), 5.0 * len(cases))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(cases), len(COSTS), squeeze=False)
        named = [
            (axes, points)
            for row, (title, lines) in zip(panels, cases.items(), strict=True)
            for axes, cost in zip(row, COSTS, strict=True)
            if (points := _panel(axes, title, lines, cost))
        ]
        # Only a drawn figure has its final layout.
        figure.draw_without_rendering()
        for axes, points in named:
            _names(figure, axes, points)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=130, metadata={"Software": None})
    write_atomically(path_png, image.getvalue())


def _panel(axes: Axes, title: str, lines: Sequence[LineFigures], cost: Cost) -> Sequence[Point]:
    points = []
    for place, line in enumerate(lines):
        x, y = line.over.get(cost.figure), line.over.get("accuracy")
        if line.name in RECIPES and x is not None and y is not None and x.mean > 0:
            deviations = {"x_deviation": x.deviation or 0.0, "y_deviation": y.deviation or 0.0}
            points.append(Point(name=line.name, look=place, x=x.mean, y=y.mean, **deviations))
    if not points:
        axes.set_axis_off()
        return points
    axes.set_title(f"{title}: {cost.title.lower()}", loc="left", fontsize=13, fontweight="bold", color=_INK, pad=10)
    axes.set_xlabel(f"{cost.label}, log scale")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, pad=6)
    axes.grid(color=_GRID, linewidth=1.0)
    _scales(axes, points, text=cost.text)
    front = front_of(points)
    right = axes.get_xlim()[1]
    steps = [*((point.x, point.y) for point in front), (right, front[-1].y)]
    axes.plot(*zip(*steps, strict=True), drawstyle="steps-post", color=_MUTED, linewidth=1.0, linestyle=(0, (4, 2.5)))
    for point in points:
        colour = _colour(point)
        axes.errorbar(
            point.x,
            point.y,
            xerr=point.x_deviation or None,
            yerr=point.y_deviation or None,
            fmt="o",
            color=colour,
            markersize=_MARKER,
            markerfacecolor=colour if point in front else "white",
            zorder=3,
        )
    return points


def _scales(axes: Axes, points: Sequence[Point], *, text: Callable[[float], str]) -> None:
    low, high = min(point.x for point in points), max(point.x for point in points)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.5, high * 1.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5), numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def _names(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Names stand where there is room; ours and the yardstick choose first."""
    ordered = sorted(points, key=lambda point: (point.name not in (OURS, YARDSTICK), -point.y))
    places = [axes.transData.transform((point.x, point.y)) for point in ordered]
    pixel = figure.dpi / 72
    half = _MARKER / 2 * pixel
    # What letters take, near enough to see which overlap.
    wanted = [
        Wanted(x, y, 0.62 * _NAME * pixel * len(point.name), 1.3 * _NAME * pixel)
        for (x, y), point in zip(places, ordered, strict=True)
    ]
    taken = [Box(x - half, y - half, x + half, y + half) for x, y in places]
    frame = axes.get_window_extent()
    within = Box(frame.x0, frame.y0, frame.x1 + 8 * pixel, frame.y1 + 8 * pixel)
    found = placed(wanted, within=within, taken=taken, gap=half + 3 * pixel)
    for point, box in zip(ordered, found, strict=True):
        if box is not None:
            x, y = axes.transData.inverted().transform(((box.left + box.right) / 2, (box.bottom + box.top) / 2))
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            text = axes.text(x, y, point.name, ha="center", va="center", fontsize=_NAME, color=_colour(point))
            text.set(bbox=behind, zorder=4)


def _colour(point: Point) -> str:
    return {OURS: _OURS, YARDSTICK: _YARDSTICK}.get(point.name, _OTHERS)
