"""One picture that compares runs: accuracy against rounds, and against the bytes that they took."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Transform

from hedgerow.files import write_atomically
from hedgerow.server.report.svg import drawing
from hedgerow.telemetry.records import RoundRecord
from hedgerow.units import bytes_text, clean_text, finite, percent_text, tick_text

__all__ = ["accuracy_picture"]

_COLOURS = ("#1a7f4e", "#c2571a", "#2b6cb0", "#8a4fbf", "#b83260", "#0f8b8d", "#8a6d1b", "#4a5568")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")  # colour is never the only difference
_INK, _MUTED, _GRID = "#1c2521", "#5b6661", "#e3e8e5"
_WIDTH, _HEIGHT, _LINE = 12.0, 5.2, 0.2  # inches; the last is what one label of a crowd needs
_GAP = 0.13
"""Least distance of two labels, each of two lines, as a fraction of the axes' height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    name: str
    colour: str
    style: str
    marker: str
    rounds: tuple[int, ...]
    traffic: tuple[float, ...]
    accuracy: tuple[float, ...]


def accuracy_picture(path_png: Path, runs: Mapping[str, Sequence[RoundRecord]]) -> None:
    """Writes a PNG with accuracy over rounds on the left and over total bytes both ways (log) on the right.

    Args:
        path_png: Where to write, atomically; the folder is made if it is missing.
        runs: Records by the name of the run, drawn in this order. A run without any evaluation is left out.

    Raises:
        RunError: the file cannot be written.
    """
    curves = [curve for place, (name, records) in enumerate(runs.items()) if (curve := _curve(place, name, records))]
    look = {"font.size": 13.0, "text.color": _INK, "xtick.labelcolor": _MUTED, "ytick.labelcolor": _MUTED}
    with drawing(**look, **{"axes.labelcolor": _MUTED, "axes.edgecolor": "#aab4af"}):
        layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, wspace=0.05)
        figure = Figure(figsize=(_WIDTH, max(_HEIGHT, 1.2 + _LINE * len(curves))), layout=layout, facecolor="white")
        left, right = figure.subplots(1, 2, sharey=True)
        _left(left, curves)
        _right(right, curves)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=160, metadata={"Software": None})
    write_atomically(path_png, image.getvalue())


def _curve(place: int, name: str, records: Sequence[RoundRecord]) -> _Curve | None:
    totals = accumulate(record.all_bytes_up + record.all_bytes_down for record in records)
    points = [
        (record.round, float(total), accuracy)
        for record, total in zip(records, totals, strict=True)
        if (accuracy := finite(record.accuracy)) is not None
    ]
    if not points:
        return None
    return _Curve(
        name=clean_text(name, 40),
        colour=_COLOURS[place % len(_COLOURS)],
        marker=_MARKERS[place % len(_MARKERS)],
        style=("solid", "dashed", "dotted")[place // len(_COLOURS) % 3],
        rounds=tuple(number for number, _, _ in points),
        traffic=tuple(total for _, total, _ in points),
        accuracy=tuple(accuracy for _, _, accuracy in points),
    )


def _left(axes: Axes, curves: Sequence[_Curve]) -> None:
    _frame(axes, "Accuracy over rounds", "Round")
    rounds = sorted({number for curve in curves for number in curve.rounds})
    if len(rounds) < 2:
        axes.set_xticks(rounds)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    for curve in curves:
        _plot(axes, curve, curve.rounds, curve.accuracy)
    if curves and axes.get_ylim()[1] > 1:
        axes.set_ylim(top=1)


def _right(axes: Axes, curves: Sequence[_Curve]) -> None:
    _frame(axes, "Accuracy over bytes sent", "All bytes, both ways, as encoded (log scale)")
    axes.tick_params(labelleft=False)
    drawn = False
    for curve in curves:
        points = [(x, y) for x, y in zip(curve.traffic, curve.accuracy, strict=True) if x > 0]
        if points:
            xs, ys = zip(*points, strict=True)
            _plot(axes, curve, xs, ys)
            drawn = True
    _labels(axes, curves)
    if not drawn:
        axes.set_xticks([])
        return
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    narrow = high < 30 * low
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick_text(bytes_text(value))))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _frame(axes: Axes, title: str, x_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=16, fontweight="bold", color=_INK, pad=14)
    axes.set_xlabel(x_label, labelpad=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, pad=7)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(axis="y", color=_GRID, linewidth=1.0)


def _plot(axes: Axes, curve: _Curve, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, color=curve.colour, linestyle=curve.style, linewidth=2.4, clip_on=False)
    _dot(axes, curve, x[-1], y[-1])


def _dot(axes: Axes, curve: _Curve, x: float, y: float, transform: Transform | None = None) -> None:
    axes.plot(
        x,
        y,
        curve.marker,
        color=curve.colour,
        markersize=9,
        markeredgecolor="white",
        clip_on=False,
        zorder=5,
        transform=transform or axes.transData,
    )


def _labels(axes: Axes, curves: Sequence[_Curve]) -> None:
    """Names each run once, right of both pictures, at the height where it ends, moved apart where they would touch."""
    low, high = axes.get_ylim()
    order = sorted(curves, key=lambda curve: curve.accuracy[-1])
    crowded = len(order) * _GAP > 1
    gap = 1 / len(order) if crowded else _GAP
    heights = spread([(curve.accuracy[-1] - low) / (high - low) for curve in order], gap)
    for curve, height in zip(order, heights, strict=True):
        numbers = f"{percent_text(curve.accuracy[-1])} after {bytes_text(curve.traffic[-1])}"
        if crowded:
            _dot(axes, curve, 1.05, height, transform=axes.transAxes)
            _words(axes, f"{curve.name}  {numbers}", height, size=10.0, colour=curve.colour, va="center")
        else:
            _dot(axes, curve, 1.05, height + 0.022, transform=axes.transAxes)
            _words(axes, curve.name, height, size=13.0, colour=curve.colour, va="bottom", bold=True)
            _words(axes, numbers, height, size=11.5, colour=_MUTED, va="top")


def _words(
    axes: Axes,
    words: str,
    height: float,
    *,
    size: float,
    colour: str,
    va: Literal["bottom", "center", "top"],
    bold: bool = False,
) -> None:
    axes.annotate(
        words,
        (1.0, height),
        xytext=(32, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        va=va,
        fontsize=size,
        fontweight="bold" if bold else "normal",
        color=colour,
    )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves ascending heights apart until neighbours are `gap` apart, each crowd around its middle, inside 0 to 1.

    >>> [round(h, 2) for h in spread([0.1, 0.5, 0.52, 0.99], 0.1)]
    [0.1, 0.46, 0.56, 0.95]
    """
    crowds: list[list[float]] = []
    for height in heights:
        crowds.append([height])
        while len(crowds) > 1 and _edges(crowds[-1], gap)[0] < _edges(crowds[-2], gap)[1] + gap:
            last = crowds.pop()
            crowds[-1] = crowds[-1] + last
    return [_edges(crowd, gap)[0] + gap * place for crowd in crowds for place in range(len(crowd))]


def _edges(crowd: Sequence[float], gap: float) -> tuple[float, float]:
    half = gap * (len(crowd) - 1) / 2
    room = half + gap / 2
    middle = max(min(sum(crowd) / len(crowd), 1 - room), room)
    return middle - half, middle + half
