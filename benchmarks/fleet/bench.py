"""Rounds over gRPC beside stock Flower's, hundreds of attached devices, and how soon a killed one is missed."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.fleet.flower_rounds import FlowerRounds, flower_rounds
from benchmarks.fleet.hedgerow_rounds import HedgerowRounds, hedgerow_rounds
from benchmarks.fleet.many import measure_many
from benchmarks.processes import Children
from hedgerow.units import MISSING, bytes_text, factor_text, percent_text

__all__ = ["run"]

DEVICES = 4
EMPTY, LARGE = 1000, 40_000_000
"""Bytes of a broadcast."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. Rounds are played in turns: one of Flower's, then as many of ours as it takes."""

    empty_rounds: int
    flower_empty_rounds: int
    large_rounds: int
    flower_large_rounds: int
    many: int
    kills: int
    idle_seconds: float


FULL = Size(
    empty_rounds=102, flower_empty_rounds=3, large_rounds=9, flower_large_rounds=3, many=500, kills=10, idle_seconds=10
)
QUICK = Size(
    empty_rounds=50, flower_empty_rounds=1, large_rounds=2, flower_large_rounds=0, many=100, kills=3, idle_seconds=2
)


def run(*, quick: bool, out: Path) -> dict[str, float]:
    """Measures everything, prints the table and returns the figures; `out` is not used."""
    size = QUICK if quick else FULL
    console = Console()
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as folder:
        console.print(f"{DEVICES} devices, beside stock Flower with {DEVICES} SuperNodes (half a minute to start) …")
        with (
            Children(Path(folder) / "rounds") as children,
            hedgerow_rounds(children, devices=DEVICES) as hedgerow,
            flower_rounds(children, devices=DEVICES) as flower,
        ):
            figures = _beside("empty_round", hedgerow, flower, EMPTY, size.empty_rounds, size.flower_empty_rounds)
            figures |= _beside("broadcast", hedgerow, flower, LARGE, size.large_rounds, size.flower_large_rounds)
        with (
            Children(Path(folder) / "real") as children,
            hedgerow_rounds(children, devices=DEVICES, real=True) as real,
        ):
            # The workers import torch before the first one.
            real.play(EMPTY)
            seconds = [real.play(EMPTY) for _ in range(size.empty_rounds)]
            figures["empty_round.with_workers_ms_median"] = 1e3 * statistics.median(seconds)
        console.print(f"{size.many} devices …")
        with Children(Path(folder) / "many") as children:
            figures |= measure_many(
                children, devices=size.many, kills=size.kills, rounds=5, idle_seconds=size.idle_seconds
            )
    _print(figures)
    return figures


def _beside(
    name: str, hedgerow: HedgerowRounds, flower: FlowerRounds, size: int, rounds: int, flower_rounds: int
) -> dict[str, float]:
    ours: list[float] = []
    theirs: list[float] = []
    # The first one of a connection is not what is asked for.
    hedgerow.play(size)
    for turn in range(max(1, flower_rounds)):
        theirs += [flower.play(size)] if turn < flower_rounds else []
        ours += [hedgerow.play(size) for _ in range(rounds // max(1, flower_rounds))]
    figures = {
        f"{name}.hedgerow_ms_median": 1e3 * statistics.median(ours),
        f"{name}.hedgerow_ms_max": 1e3 * max(ours),
        f"{name}.hedgerow_rounds": len(ours),
    }
    if theirs:
        figures |= {
            f"{name}.flower_ms_median": 1e3 * statistics.median(theirs),
            f"{name}.flower_rounds": len(theirs),
            f"{name}.ratio.flower_over_hedgerow": statistics.median(theirs) / statistics.median(ours),
        }
    return figures


def _print(figures: Mapping[str, float]) -> None:
    # Markdown, so that it can stand in a README.
    print("\n| 4 devices, mutual TLS, loopback | hedgerow | stock Flower | times faster | target |")
    print("|---|--:|--:|--:|--:|")
    for name, title, target in (
        ("empty_round", "empty round, 1 KB down and up, median", "20 ms, 300×"),
        ("broadcast", "40 MB down, 1 KB up, median", "3×"),
    ):
        theirs, ratio = figures.get(f"{name}.flower_ms_median"), figures.get(f"{name}.ratio.flower_over_hedgerow")
        flower = MISSING if theirs is None else f"{theirs:,.0f} ms"
        ours = f"{figures[f'{name}.hedgerow_ms_median']:,.1f} ms"
        print(f"| {title} | {ours} | {flower} | {factor_text(ratio)} | {target} |")
    workers = figures["empty_round.with_workers_ms_median"]
    print(f"| empty round with the worker processes and folders of `hedgerow join` | {workers:,.1f} ms | | | |")
    devices = f"{figures['many.devices']:,.0f}"
    print(f"\n| {devices} devices, mutual TLS, loopback | measured | target |\n|---|--:|--:|")
    for title, text, target in (
        (f"all {devices} attached, from a cold start", f"{figures['many.attach_seconds']:.1f} s", ""),
        (
            "resident memory of the coordinator, torch included, at most",
            bytes_text(figures["many.coordinator_bytes_peak"]),
            "1 GB",
        ),
        ("of it, a device", bytes_text(figures["many.bytes_a_device"]), ""),
        (f"round with all {devices}, 1 KB, median", f"{figures['many.round_ms_median']:,.0f} ms", ""),
        (f"round with all {devices}, 1 MB down", f"{figures['many.megabyte_round_seconds']:.1f} s", ""),
        ("processor time of heartbeats alone, of one core", percent_text(figures["many.idle_processor_ratio"]), ""),
        ("a killed device is noticed after, at most", f"{1e3 * figures['killed.notice_seconds_max']:.1f} ms", "2 s"),
        (
            "the last of a hundred that are killed together",
            f"{1e3 * figures['killed.notice_seconds_together']:.1f} ms",
            "2 s",
        ),
    ):
        print(f"| {title} | {text} | {target} |")
    print()
