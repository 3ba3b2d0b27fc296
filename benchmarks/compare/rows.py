"""What is printed: a line for each recipe, one for each piece of ours, one for each figure that has to be reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.compare.lines import ABLATIONS, ADDITIONS, LINES, OURS, YARDSTICK
from benchmarks.compare.summary import RIVAL
from benchmarks.tables import Columns, Figures, number, table
from benchmarks.targets import Target
from hedgerow.units import bytes_text, number_text, percent_text, seconds_text

__all__ = ["case_tables", "effect", "targets"]

_POINTS = number(2, " points")
_TIMES = number(1, "×")
_FACTOR = number(2, "×")
_ALIKE = 1.02
"""Costs that differ by less are alike."""
_COLUMNS: Columns = {
    "accuracy": ("accuracy", lambda value: percent_text(value, decimals=2)),
    "spread": ("±", lambda value: number_text(100 * value, 2)),
    "seeds": ("seeds", number(0)),
    "points": (f"points over {YARDSTICK}", lambda value: f"{value:+.2f}"),
    "points_spread": ("±", number(2)),
    "kept": ("kept", number(0)),
    "bytes_up": ("up", bytes_text),
    "bytes_down": ("down", bytes_text),
    "bytes_both": ("both", bytes_text),
    "fewer_bytes": ("fewer", _TIMES),
    "peak_bytes": ("client peak", bytes_text),
    "less_memory": ("less", _FACTOR),
    "device_seconds": ("device time", seconds_text),
    "less_time": ("less", _FACTOR),
}


def case_tables(data: str, figures: Figures) -> Iterator[str]:
    """Markdown of one data set: all lines, and what each piece of ours brings."""
    prefix = f"compare.{data}"
    yield table(data, _COLUMNS, {f"{prefix}.{line}": f"`{line}`" for line in LINES}, figures)
    pieces = {"ablation": ABLATIONS, "addition": ADDITIONS}
    of = [(f"{prefix}.{kind}.{name}", name) for kind, names in pieces.items() for name in names]
    rows = [row for figure, name in of if (row := _piece(figure, name, figures))]
    if rows:
        headings = ("points", "±", "fewer bytes", "less memory", "less time", "what the piece does")
        heading = " | ".join([f"{data}: `{OURS}` over what lacks a piece, and what has one more over it", *headings])
        yield "\n".join([f"| {heading} |", "|---" + "|--:" * 5 + "|---|", *rows])


def effect(*, points: float, spread: float, seeds: int, fewer_bytes: float, less_memory: float) -> str:
    """What a piece does, in words. Of accuracy what is more than one standard deviation of several seeds.

    >>> effect(points=0.5, spread=0.2, seeds=3, fewer_bytes=2.0, less_memory=1.0)
    'helps accuracy and bytes'
    >>> effect(points=-0.5, spread=0.2, seeds=3, fewer_bytes=1.0, less_memory=1.0)
    'costs accuracy'
    >>> effect(points=0.1, spread=0.2, seeds=3, fewer_bytes=1.0, less_memory=1.0)
    'does not help'
    """
    moved = seeds > 1 and abs(points) > spread
    signs = {
        "accuracy": (points > 0) - (points < 0) if moved else 0,
        "bytes": _sign(fewer_bytes),
        "memory": _sign(less_memory),
    }
    said = [
        f"{verb} {' and '.join(named)}"
        for verb, sign in (("helps", 1), ("costs", -1))
        if (named := [name for name, found in signs.items() if found == sign])
    ]
    return ", ".join(said) or "does not help"


def targets(figures: Figures, *, data: Sequence[str], quick: bool) -> Iterator[Target]:
    """What is asked of the figures that there are; nothing of a quick version but that no run failed."""
    for target in [*([] if quick else [t for name in data for t in _data_targets(name)]), _failed()]:
        if target.figure in figures:
            yield target


def _data_targets(data: str) -> Iterator[Target]:
    ours, pair = f"compare.{data}.{OURS}", f"compare.{data}.{OURS}_over_{RIVAL}"
    yield Target(title=f"{data}: `{OURS}` - `{YARDSTICK}`", figure=f"{ours}.points", asked=-1, text=_POINTS)
    yield Target(title=f"{data}: fewer bytes than `{YARDSTICK}`", figure=f"{ours}.fewer_bytes", asked=200, text=_TIMES)
    yield Target(title=f"{data}: less peak memory than `{YARDSTICK}`", figure=f"{ours}.less_memory", asked=4)
    yield Target(
        title=f"{data}: recipes as good in accuracy, bytes and memory, and better in one",
        figure=f"{ours}.beaten_by",
        asked=0,
        at_most=True,
        text=number(0),
    )
    yield Target(title=f"{data}: fewer bytes than `{RIVAL}`", figure=f"{pair}.fewer_bytes", asked=2)
    yield Target(title=f"{data}: `{OURS}` - `{RIVAL}`", figure=f"{pair}.points", asked=0, text=_POINTS)


def _failed() -> Target:
    return Target(title="runs that failed", figure="compare.failed", asked=0, at_most=True, text=number(0))


def _piece(prefix: str, name: str, figures: Figures) -> str:
    """Empty where something was not measured."""
    of = {key.removeprefix(f"{prefix}."): value for key, value in figures.items() if key.startswith(f"{prefix}.")}
    if not {"points", "fewer_bytes", "less_memory"} <= of.keys():
        return ""
    cells = [
        f"`{name}`",
        f"{of['points']:+.2f}",
        number_text(of["points_spread"], 2),
        _FACTOR(of["fewer_bytes"]),
        _FACTOR(of["less_memory"]),
        _FACTOR(of["less_time"]) if "less_time" in of else "",
        effect(
            points=of["points"],
            spread=of["points_spread"],
            seeds=int(of["seeds"]),
            fewer_bytes=of["fewer_bytes"],
            less_memory=of["less_memory"],
        ),
    ]
    return "| " + " | ".join(cells) + " |"


def _sign(factor: float) -> int:
    return (factor > _ALIKE) - (factor < 1 / _ALIKE)
