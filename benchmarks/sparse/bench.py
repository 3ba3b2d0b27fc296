"""Training steps of kept weights beside dense `weight * mask`: seconds, memory, gradients, losses."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.sparse import measures
from benchmarks.sparse.memory import Peak
from benchmarks.sparse.networks import Case, Rule
from benchmarks.sparse.rows import case_line, paths_text, table_head, target_table, targets
from hedgerow.native.library import status

__all__ = ["run"]

_DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.01)
_RULES: tuple[Rule, ...] = ("uniform", "erk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        cases: with the turns that each is timed for.
        channels_last: models whose dense networks are also timed with the channels last in memory.
        signs: models whose signs are timed.
        lean: the case of memory mode, which is also trained under a limit; neither when None.
        gradients: models whose gradients are compared.
        drift_seeds: how often losses are compared.
        drift_steps: over how many steps.
        turns: for what is timed beside the cases.
    """

    cases: tuple[tuple[Case, int], ...]
    channels_last: tuple[str, ...]
    signs: tuple[str, ...]
    lean: Case | None
    gradients: tuple[str, ...]
    drift_seeds: int
    drift_steps: int
    turns: int


FULL = Size(
    cases=tuple(
        (Case(model, rule, density), turns)
        for model, turns in (("resnet18", 5), ("conv4", 7), ("mobilenetv2", 5))
        for rule in _RULES
        for density in _DENSITIES
    ),
    channels_last=("resnet18", "conv4", "mobilenetv2"),
    signs=("resnet18", "conv4"),
    lean=Case("resnet18", "uniform", 0.05),
    gradients=("resnet18", "conv4"),
    drift_seeds=5,
    drift_steps=60,
    turns=7,
)
QUICK = Size(
    cases=tuple((Case("conv4", "uniform", density), 3) for density in (1.0, 0.05)),
    channels_last=(),
    signs=("conv4",),
    lean=None,
    gradients=("conv4",),
    drift_seeds=1,
    drift_steps=10,
    turns=3,
)


def run(*, quick: bool, out: Path) -> dict[str, float]:
    """Measures everything, prints the tables and returns the figures; `out` is not used."""
    size, console, began = QUICK if quick else FULL, Console(), time.monotonic()
    figures: dict[str, float] = {}
    with _one_thread(), _own_paths():
        console.print(f"native kernels: {status().isa if status().available else status().reason}\n")
        print(table_head())
        dense: dict[str, Peak] = {}
        for case, turns in size.cases:
            if case.model not in dense:
                # The mask does not matter to it.
                dense[case.model] = measures.dense_peak(case)
            found, paths = measures.step(case, turns=turns, dense=dense[case.model])
            figures |= found
            print(case_line(case, figures, paths=paths_text(paths)), flush=True)
        figures["slowest.ratio"] = min(figures[f"{case.name}.ratio"] for case, _ in size.cases)
        print()
        for model in size.channels_last:
            figures |= measures.channels_last(Case(model, "uniform", 0.05), turns=size.turns)
        for model in size.signs:
            figures |= measures.signs(Case(model, "uniform", 0.05), turns=size.turns)
        if size.lean is not None:
            console.print("memory mode, in processes of its own …")
            figures |= measures.memory_mode(size.lean, turns=size.turns)
            figures |= measures.limit(size.lean, at_least=figures["memory.dense_resident_bytes"])
        for model in size.gradients:
            figures |= measures.gradients(Case(model, "uniform", 0.1))
        console.print("losses of five trainings a seed …")
        figures |= measures.drift(Case("conv4", "uniform", 0.05), steps=size.drift_steps, seeds=size.drift_seeds)
    figures["sparse.missed"] = sum(not target.reached(figures) for target in targets(figures))
    figures["sparse.seconds"] = time.monotonic() - began
    print(f"\n{target_table(figures)}\n")
    return figures


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _own_paths() -> Iterator[None]:
    # What was measured some other day, by a machine that was busy, is not what is compared here.
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before
