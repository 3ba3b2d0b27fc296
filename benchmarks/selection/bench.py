"""Static masks beside a choice among them by the devices and beside masks that change: accuracy, bytes, exactness."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from benchmarks.selection import exact, memory
from benchmarks.selection.compared import choices, summarised
from benchmarks.selection.picture import accuracies_picture
from benchmarks.selection.rows import case_tables, checks_tables, targets
from benchmarks.selection.runs import trained
from benchmarks.selection.wanted import Wanted
from benchmarks.targets import table_of

__all__ = ["run"]


def run(*, quick: bool, out: Path) -> dict[str, float]:
    """Measures what environment variables pick, prints the tables, writes the picture, and returns the figures."""
    console, began = Console(), time.monotonic()
    wanted = Wanted.of(quick=quick)
    figures: dict[str, float] = {}
    if wanted.exact:
        console.print("exactness …")
        figures |= exact.pooling(quick=quick) | exact.largest(quick=quick)
    if wanted.memory:
        console.print("memory …")
        figures |= memory.growth(quick=quick)
    tables, cases = list(checks_tables(figures)), list[str]()
    pictured: dict[str, dict[str, list[float]]] = {}
    for case, found, channels in trained(wanted, quick=quick, out=out, console=console):
        own = summarised(found, pool=wanted.pool, channels=channels)
        figures |= {f"{case.name}.{name}": value for name, value in own.items()}
        tables += case_tables(case.name, figures, choices(found))
        pictured[case.title] = {line: [r[-1].accuracy or 0.0 for r in runs.values()] for line, runs in found.items()}
        cases.append(case.name)
    asked = list(targets(figures, cases=cases, quick=quick))
    figures["selection.missed"] = sum(not target.reached(figures) for target in asked)
    figures["selection.seconds"] = time.monotonic() - began
    print("\n" + "\n\n".join(tables))
    if asked:
        print(f"\n{table_of(asked, figures)}\n")
    if pictured:
        picture = out / ("selection-quick.png" if quick else "selection.png")
        accuracies_picture(picture, pictured)
        console.print(f"picture: {picture}")
    return figures
