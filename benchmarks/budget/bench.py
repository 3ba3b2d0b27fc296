"""Memory: predicted and measured, kept to under a limit, FedMef beside RigL, and devices with three sizes of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from benchmarks.budget.classes import classes
from benchmarks.budget.fedmef import fedmef
from benchmarks.budget.limits import limits
from benchmarks.budget.lines import FLEETS
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
    if quick:
        # Bytes are the same beside each other, and of seconds nothing is asked.
        with ThreadPoolExecutor(1) as beside:
            measuring = beside.submit(_measured, wanted, quick=quick, console=console)
            trained, data = _trained(wanted, quick=quick, out=out, console=console)
            measured, printed = measuring.result()
    else:
        measured, printed = _measured(wanted, quick=quick, console=console)
        trained, data = _trained(wanted, quick=quick, out=out, console=console)
    figures = measured | trained
    asked = list(targets(figures, data=data, quick=quick))
    figures["budget.missed"] = sum(not target.reached(figures) for target in asked)
    figures["budget.seconds"] = time.monotonic() - began
    print("\n" + "\n\n".join([*printed, *tables(figures, data=data)]))
    if asked:
        print(f"\n{table_of(asked, figures)}\n")
    return figures


def _measured(wanted: Wanted, *, quick: bool, console: Console) -> tuple[dict[str, float], list[str]]:
    """Figures of what is measured in processes of its own, and what is printed about it."""
    figures: dict[str, float] = {}
    printed: list[str] = []
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
    return figures, printed


def _trained(wanted: Wanted, *, quick: bool, out: Path, console: Console) -> tuple[dict[str, float], list[str]]:
    """Figures of the trainings, and the data sets that were there."""
    figures: dict[str, float] = {}
    data: list[str] = []
    if "fedmef" in wanted.parts:
        figures, data = fedmef(wanted.data, seeds=wanted.seeds, quick=quick, out=out, console=console)
    for part in FLEETS:
        if part in wanted.parts:
            figures = figures | classes(part, wanted.data, seeds=wanted.seeds, quick=quick, out=out, console=console)
    return figures, data
