"""All recipes on the same splits and seeds, and ours without each of its pieces: accuracy, bytes, memory, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.compare.picture import pareto_picture
from benchmarks.compare.rows import case_tables, targets
from benchmarks.compare.runs import trained
from benchmarks.compare.summary import summarised
from benchmarks.compare.wanted import Wanted
from benchmarks.targets import table_of
from hedgerow.server.comparing.figures import LineFigures, line_figures
from hedgerow.units import clean_text

__all__ = ["run"]


def run(*, quick: bool, out: Path) -> dict[str, float]:
    """Trains what environment variables pick, prints the tables, writes the picture, and returns the figures."""
    console, began = Console(), time.monotonic()
    figures: dict[str, float] = {}
    tables: list[str] = []
    cases: dict[str, Sequence[LineFigures]] = {}
    failed: list[str] = []
    for data, plan, found in trained(Wanted.of(quick=quick), quick=quick, out=out, console=console):
        cases[data] = line_figures(plan, found)
        figures |= {f"compare.{data}.{name}": value for name, value in summarised(cases[data]).items()}
        tables += case_tables(data, figures)
        failed += [f"{data}, {one.run.name}: {one.reason}" for one in found if one.stage != "done"]
    figures["compare.failed"] = len(failed)
    asked = list(targets(figures, data=list(cases), quick=quick))
    figures["compare.missed"] = sum(not target.reached(figures) for target in asked)
    figures["compare.seconds"] = time.monotonic() - began
    print("\n" + "\n\n".join(text for text in tables if text))
    print(f"\n{table_of(asked, figures)}\n")
    for text in failed:
        console.print(f"failed: {clean_text(text, 300)}", markup=False, highlight=False)
    if any(line.runs for lines in cases.values() for line in lines):
        picture = out / ("compare-quick.png" if quick else "compare.png")
        pareto_picture(picture, cases)
        console.print(f"picture: {picture}")
    return figures
