"""What a comparison came to, on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from hedgerow.server.comparing.figures import LineFigures
from hedgerow.server.comparing.rows import (
    COSTS,
    PLOTTED,
    Cost,
    accuracy_text,
    beaten_text,
    cost_text,
    count_of_seeds,
    fewer_text,
    points_text,
)
from hedgerow.server.comparing.text_plot import Mark, text_plot

__all__ = ["marks_of", "print_comparison"]

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_PIPE_WIDTH = 200
"""Whatever reads a pipe has no edge to wrap at."""
_ROOM = 150
"""Letters that the whole table takes; on a narrower terminal columns are left out, which the page has."""
_PLOT_WIDTH, _PLOT_HEIGHT = 64, 14


def print_comparison(console: Console, lines: Sequence[LineFigures], *, seeds: Sequence[int]) -> None:
    """The table, and a plot of accuracy against each cost."""
    wide = console if console.is_terminal else Console(file=console.file, width=_PIPE_WIDTH)
    wide.print(_table(lines, seeds, roomy=wide.width >= _ROOM))
    width = min(_PLOT_WIDTH, wide.width)
    for cost in PLOTTED:
        marks = marks_of(lines, cost)
        if marks:
            wide.print(f"\n{cost.title}", markup=False, highlight=False)
            plot = text_plot(marks, x_text=cost.text, x_label=cost.label, width=width, height=_PLOT_HEIGHT)
            wide.print(plot, markup=False, highlight=False, soft_wrap=True)


def marks_of(lines: Iterable[LineFigures], cost: Cost) -> list[Mark]:
    """The points of a plot: those lines that have both figures."""
    points = [(place, line.mean(cost.figure), line.mean("accuracy")) for place, line in enumerate(lines)]
    return [Mark(letter=_LETTERS[place % len(_LETTERS)], x=x, y=y) for place, x, y in points if x and y is not None]


def _table(lines: Sequence[LineFigures], seeds: Sequence[int], *, roomy: bool) -> Table:
    """With room, how many times less each cost is than that of the first line stands beside it."""
    first = lines[0].name
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("line", overflow="fold")
    headings = ["seeds", "accuracy", f"points over {first}" if roomy else "points"]
    headings += [heading for cost in COSTS for heading in ([cost.short, f"than {first}"] if roomy else [cost.short])]
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("beaten by", overflow="fold")
    for place, line in enumerate(lines):
        costs = [(cost_text(line, cost), fewer_text(line, cost)) for cost in COSTS]
        table.add_row(
            _LETTERS[place % len(_LETTERS)],
            line.name,
            count_of_seeds(line, seeds),
            accuracy_text(line.over.get("accuracy")),
            points_text(line.points),
            *[cell for pair in costs for cell in (pair if roomy else pair[:1])],
            beaten_text(line),
        )
    return table
