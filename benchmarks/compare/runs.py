"""The trainings, as many at once as there are cores; what is finished is not run again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.compare.lines import lines_of, shared_settings
from benchmarks.compare.wanted import Wanted
from benchmarks.trainings import Overrides, data_sets
from hedgerow.machine import cores
from hedgerow.server.comparing.comparison import compare
from hedgerow.server.comparing.folder import Found
from hedgerow.server.comparing.plan import Plan, planned
from hedgerow.server.comparing.telling import Teller
from hedgerow.server.comparing.writing import write_comparison

__all__ = ["plan_of", "trained"]


def trained(wanted: Wanted, *, quick: bool, out: Path, console: Console) -> Iterator[tuple[str, Plan, Sequence[Found]]]:
    """Trains what is not in `out`.

    Yields:
        The name of a data set, what was compared on it, and how its runs stand.
    """
    for data, settings in data_sets(wanted.data, out=out, console=console):
        console.print(f"{data} …")
        plan = plan_of(wanted, title=data, data=settings, quick=quick)
        path = out / ("compare-quick" if quick else "compare") / data

        def write(found: list[Found], path: Path = path, plan: Plan = plan) -> None:
            write_comparison(path, plan, found)

        found = compare(plan, path, jobs=cores(), workers=1, teller=Teller(console), write=write)
        yield data, plan, found


def plan_of(wanted: Wanted, *, title: str, data: Overrides, quick: bool) -> Plan:
    """All lines with each seed, seed by seed, so that lines can be compared before all is done.

    SNIP's mask looks at public samples, which no client of that line has: its splits differ by these.
    """
    lines = lines_of(wanted.lines, rounds=wanted.rounds, quick=quick)
    shared = shared_settings(data, rounds=wanted.rounds, quick=quick)
    plans = [
        planned(
            None, title=title, lines=lines, seeds=1, settings={**shared, "seed": seed}.items(), allow_different=True
        )
        for seed in wanted.seeds
    ]
    runs = tuple(itertools.chain.from_iterable(plan.runs for plan in plans))
    return dataclasses.replace(plans[0], seeds=tuple(wanted.seeds), runs=runs)
