"""What travels: codecs beside Shannon's bound, whole messages and runs, votes, and damaged bytes for every decoder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.targets import table_of
from benchmarks.wire import codecs, fuzz, message, runs, votes
from benchmarks.wire.rows import DENSITIES, FLIP_RATES, VALUES, tables, targets
from hedgerow.codec.values import ValueFormat
from hedgerow.native.library import status

__all__ = ["run"]

_ONLY = "HEDGEROW_BENCH_ONLY"
_FORMATS: dict[str, tuple[ValueFormat, float]] = {
    "fp16": ("fp16", 1),
    "int8": ("int8", 1),
    "uniform-0.5": ("uniform", 0.5),
    "uniform-1": ("uniform", 1),
    "uniform-2": ("uniform", 2),
}

Figures = dict[str, float]


def run(*, quick: bool, out: Path) -> Figures:
    """Measures everything, prints the tables and returns the figures; HEDGEROW_BENCH_ONLY may list some parts of it."""
    console, began = Console(), time.monotonic()
    console.print(f"native kernels: {status().isa if status().available else status().reason}\n")
    parts: dict[str, Callable[[], Figures]] = {
        "codecs": lambda: _codecs(quick=quick, console=console),
        "votes": lambda: _votes(quick=quick),
        "message": lambda: message.measured(quick=quick),
        "fuzz": lambda: fuzz.measured(quick=quick, out=out),
        "runs": lambda: runs.measured(quick=quick, out=out),
    }
    wanted = os.environ.get(_ONLY, ",".join(parts)).split(",")
    figures: Figures = {}
    for name in wanted:
        console.print(f"{name} …")
        # Runs have worker processes that divide the cores among themselves.
        with _one_thread(name != "runs"):
            figures |= parts[name]()
    asked = list(targets(figures, quick=quick))
    figures["wire.missed"] = sum(not target.reached(figures) for target in asked)
    figures["wire.seconds"] = time.monotonic() - began
    print("\n" + "\n\n".join(tables(figures)))
    print(f"\n{table_of(asked, figures)}\n")
    return figures


def _codecs(*, quick: bool, console: Console) -> Figures:
    count, turns = (1_000_000, 5) if quick else (11_000_000, 25)
    figures: Figures = {}

    def add(name: str, found: Figures) -> None:
        figures.update({f"{name}.{key}": value for key, value in found.items()})

    for rate in FLIP_RATES:
        add(f"flips.{rate:g}", codecs.flips(rate, count=count, turns=turns))
    for model in ("conv4",) if quick else ("conv4", "resnet18"):
        for density in DENSITIES:
            add(f"masks.random-{model}.{density:g}", codecs.random_masks(density, model=model, turns=1 if quick else 3))
            if quick and density != DENSITIES[0]:
                continue
            console.print(f"  SynFlow of {model} at {density:g}")
            add(f"masks.synflow-{model}.{density:g}", codecs.real_masks(density, model=model, turns=1 if quick else 3))
    for name in VALUES:
        format, step = _FORMATS[name]
        add(f"values.{name}", codecs.values(format, step=step, count=100_000 if quick else 1_000_000))
    return figures


def _votes(*, quick: bool) -> Figures:
    return {f"votes.{line}.{key}": value for line, found in votes.rows(quick=quick) for key, value in found.items()}


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
