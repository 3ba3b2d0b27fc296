"""Figures that have to be reached, and the table that says whether they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Target", "table_of"]

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure that has to be reached."""

    title: str
    figure: str
    asked: float
    at_most: bool = False
    text: Callable[[float], str] = lambda value: f"{value:.2f}×"

    def reached(self, figures: Figures) -> bool:
        """Whether it was."""
        found = figures[self.figure]
        return found <= self.asked if self.at_most else found >= self.asked


def table_of(targets: Iterable[Target], figures: Figures) -> str:
    """Markdown of what is asked and what was measured."""
    lines = ["| asked | measured | target | |", "|---|--:|--:|---|"]
    for target in targets:
        asked = ("≤ " if target.at_most else "≥ ") + target.text(target.asked)
        missed = "" if target.reached(figures) else "**missed**"
        lines.append(f"| {target.title} | {target.text(figures[target.figure])} | {asked} | {missed} |")
    return "\n".join(lines)
