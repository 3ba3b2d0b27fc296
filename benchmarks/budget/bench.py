"""Memory: predicted and measured, kept to under a limit, FedMef beside RigL, and devices with three sizes of it."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from benchmarks.budget.classes import classes
from benchmarks.budget.fedmef import fedmef
from benchmarks.budget.limits import limits
from benchmarks.budget.prediction import predictions, text
from benchmarks.budget.reading import reading
from benchmarks.budget.rows import tables, targets
from benchmarks.budget.wanted import Wanted
from benchmarks.targets import table_of

__all__ = ["run"]


def run(*, quick: bool, out: Path) -> dict[str, float]:
    """Measures what environment variables pick, prints the tables, and returns the figures."""
    console, began = Console(), time.monotonic()
    wanted = Wanted.of(quick=quick)
    figures: dict[str, float] = {}
    printed: list[str] = []
    data: list[str] = []
    if "prediction" in wanted.parts:
        console.print("prediction …")
        found, points = predictions(quick=quick)
        figures |= found
        printed.append(text(points))
    if "reading" in wanted.parts:
        console.print("reading …")
        figures |= reading(quick=quick)
    if "limits" in wanted.parts:
        console.print("limits …")
        figures |= limits(quick=quick, console=console)
    if "fedmef" in wanted.parts:
        found, data = fedmef(wanted.data, seeds=wanted.seeds, quick=quick, out=out, console=console)
        figures |= found
    if "classes" in wanted.parts:
        figures |= classes(wanted.data, seeds=wanted.seeds, quick=quick, out=out, console=console)
    asked = list(targets(figures, data=data, quick=quick))
    figures["budget.missed"] = sum(not target.reached(figures) for target in asked)
    figures["budget.seconds"] = time.monotonic() - began
    print("\n" + "\n\n".join([*printed, *tables(figures, data=data)]))
    if asked:
        print(f"\n{table_of(asked, figures)}\n")
    return figures
