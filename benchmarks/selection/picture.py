"""Final accuracies by line: a dot for each seed, their mean, and one standard deviation to both sides."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.selection.lines import CHOSEN, POOL
from benchmarks.trainings import spread
from hedgerow.files import write_atomically
from hedgerow.server.report.svg import drawing
from hedgerow.units import percent_text

__all__ = ["accuracies_picture"]

_STATIC, _SELECTED, _ADJUSTED = "#4a5568", "#2b6cb0", "#1a7f4e"
_INK, _MUTED, _GRID = "#1c2521", "#5b6661", "#e3e8e5"
_COLUMNS = 2


def accuracies_picture(path_png: Path, cases: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Writes a PNG with a panel for each case.

    Args:
        path_png: where to, atomically.
        cases: for each title the accuracies of each line, as fractions, one a seed.

    Raises:
        RunError: the file cannot be written.
    """
    columns = min(_COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    longest = max(len(lines) for lines in cases.values())
    look = {"font.size": 12.0, "text.color": _INK, "xtick.labelcolor": _MUTED, "ytick.labelcolor": _INK}
    with drawing(**look, **{"axes.labelcolor": _MUTED, "axes.edgecolor": "#aab4af"}):
        size = (6.4 * columns, rows * (1.5 + 0.36 * longest))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, (title, lines) in zip(panels, cases.items(), strict=False):
            _panel(panel, title, lines)
        for panel in panels[len(cases) :]:
            panel.set_axis_off()
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=160, metadata={"Software": None})
    write_atomically(path_png, image.getvalue())


def _panel(axes: Axes, title: str, lines: Mapping[str, Sequence[float]]) -> None:
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", color=_INK, pad=10)
    axes.set_xlabel("Accuracy on the test samples, after the last round", labelpad=6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, pad=6)
    axes.grid(axis="x", color=_GRID, linewidth=1.0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    places = range(len(lines))
    for place, (line, found) in zip(places, lines.items(), strict=True):
        colour = _STATIC if line in POOL else _SELECTED if line in CHOSEN else _ADJUSTED
        mean = statistics.mean(found)
        axes.errorbar(mean, place, xerr=spread(found), color=colour, linewidth=2.2, capsize=4)
        axes.plot(found, [place] * len(found), "o", color=colour, markersize=4.5, alpha=0.5, markeredgewidth=0)
        axes.plot(mean, place, "D", color=colour, markersize=8, markeredgecolor="white", zorder=5)
        axes.annotate(
            percent_text(mean, decimals=2),
            (1.0, place),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    axes.set_yticks(places, list(lines))
    axes.set_ylim(len(lines) - 0.5, -0.5)
