"""Figures as Markdown tables: a line for each thing that was measured, a column for each figure of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

__all__ = ["Columns", "Figures", "Text", "number", "table"]

Figures = Mapping[str, float]
"""Numbers by name."""
Text = Callable[[float], str]
"""How a number is shown."""
Columns = Mapping[str, tuple[str, Text]]
"""The heading of each figure, and how it is shown; by the last part of the figure's name."""


def number(decimals: int, unit: str = "") -> Text:
    """As `1,234.5` and a unit.

    >>> number(1, " s")(1234.56)
    '1,234.6 s'
    """
    return lambda value: f"{value:,.{decimals}f}{unit}"


def table(first: str, columns: Columns, lines: Mapping[str, str], figures: Figures) -> str:
    """Markdown; empty where nothing was measured. Lines and columns without a figure are left out.

    Args:
        first: heading of the first column.
        columns: the others.
        lines: the first column's text, by how the names of the line's figures begin.
        figures: what was measured.

    >>> print(table("run", {"bytes": ("size", number(0))}, {"a": "first", "b": "second"}, {"a.bytes": 5.0}))
    | run | size |
    |---|--:|
    | first | 5 |
    """
    there = {name: text for name, text in lines.items() if any(f"{name}.{column}" in figures for column in columns)}
    shown = {key: value for key, value in columns.items() if any(f"{name}.{key}" in figures for name in there)}
    if not there:
        return ""

    def cells(name: str) -> Sequence[str]:
        found = ((text, figures.get(f"{name}.{key}")) for key, (_, text) in shown.items())
        return ["" if value is None else text(value) for text, value in found]

    rows = [[first, *(heading for heading, _ in shown.values())]]
    rows += [[text, *cells(name)] for name, text in there.items()]
    heading, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([heading, "|---" + "|--:" * len(shown) + "|", *rest])
