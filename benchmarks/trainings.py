"""Simulated trainings that several benchmarks make alike: their settings, their data, what they leave behind, and what
lines of them come to over several seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.images import ARCHIVE, archive_there, converted
from hedgerow.config import Experiment
from hedgerow.server.progress import PlainObserver, TerminalObserver
from hedgerow.server.simulation import simulate
from hedgerow.telemetry import RoundRecord, read_records

__all__ = [
    "CIFAR10",
    "DIGITS",
    "FASHION",
    "FEDERATED",
    "QUICK",
    "Figures",
    "Found",
    "Overrides",
    "Records",
    "data_sets",
    "found_of",
    "line_figures",
    "points_over",
    "records_of",
    "spread",
]

DIGITS, FASHION, CIFAR10 = "digits", "fashion-mnist", "cifar10-jpeg"
_WORKERS = 2
"""As many on every machine, so that seconds can be compared; a quick version has one, which starts sooner."""

Overrides = Mapping[str, object]
Records = list[RoundRecord]
Found = Mapping[str, Mapping[int, Records]]
"""What each line's runs left behind, by seed."""
Figures = dict[str, float]

FEDERATED: Overrides = {
    "data.name": FASHION,
    "model.name": "conv4",
    "rounds": 30,
    "fleet.clients": 10,
    "fleet.cohort": 10,
    "training.epochs": 1,
    "training.steps": 20,
    "training.batch_size": 32,
    "evaluation.every": 5,
}
QUICK: Overrides = {
    **FEDERATED,
    "data.name": DIGITS,
    "model.name": "lenet5",
    "rounds": 6,
    "fleet.clients": 4,
    "fleet.cohort": 4,
    "training.batch_size": 16,
    # To measure which are faster takes longer than the training.
    "training.kernels": "dense",
    "evaluation.every": 2,
}


def data_sets(names: Sequence[str], *, out: Path, console: Console) -> Iterator[tuple[str, Overrides]]:
    """Those of some data sets that are there: the name of each, and the settings that load it.

    Raises:
        DataError: the archive of images cannot be read.
    """
    for name in names:
        if name == CIFAR10 and not archive_there():
            console.print(f"{name}: left out, because {ARCHIVE} does not say where the archive is")
        elif name == CIFAR10:
            yield name, {"data.name": "npz", "data.path": str(converted(out))}
        else:
            yield name, {"data.name": name}


def records_of(experiment: Experiment, *, quick: bool, out: Path, console: Console) -> Records:
    """Trains where that was not done yet, and reads what each round left behind."""
    observer = TerminalObserver(console) if console.is_terminal else PlainObserver(console)
    path = simulate(experiment, out=out, workers=1 if quick else _WORKERS, observer=observer)
    return read_records(path / "metrics.jsonl")


def found_of(
    experiments: Mapping[int, Mapping[str, Experiment]], *, title: str, quick: bool, out: Path, console: Console
) -> Found:
    """Trains what is not in `out`, and reads what each run left behind.

    Args:
        experiments: the settings of each run, by seed and line; the same lines for all seeds.
        title: what is said before the seed and the line.
        quick: whether these are small versions.
        out: where runs are.
        console: is told what is trained.
    """
    found: dict[str, dict[int, Records]] = {}
    # Seed by seed, so that lines can be compared before all are done.
    for seed, lines in experiments.items():
        for line, experiment in lines.items():
            console.print(f"{title}, seed {seed}: {line}")
            records = records_of(experiment, quick=quick, out=out, console=console)
            found.setdefault(line, {})[seed] = records
    return found


def spread(values: Sequence[float]) -> float:
    """The sample's standard deviation; 0 of a single value.

    >>> spread([1.0, 3.0, 5.0]), spread([1.0])
    (2.0, 0.0)
    """
    return statistics.stdev(values) if len(values) > 1 else 0.0


def line_figures(line: str, each: Mapping[int, Mapping[str, float]]) -> Figures:
    """What a line comes to: means of all figures over its seeds, the spread of its accuracies and each of them, and how
    many seeds there are. Names begin with the line.

    Args:
        line: its name.
        each: the figures of the run of each seed, one of them `accuracy`; the same ones for all.

    >>> line_figures("a", {0: {"accuracy": 0.25, "kept": 2}, 3: {"accuracy": 0.25, "kept": 4}})
    {'a.accuracy': 0.25, 'a.kept': 3, 'a.spread': 0.0, 'a.seeds': 2, 'a.accuracy.0': 0.25, 'a.accuracy.3': 0.25}
    """
    accuracies = {seed: figures["accuracy"] for seed, figures in each.items()}
    names = next(iter(each.values()))
    return {
        **{f"{line}.{name}": statistics.mean(figures[name] for figures in each.values()) for name in names},
        f"{line}.spread": spread([*accuracies.values()]),
        f"{line}.seeds": len(each),
        **{f"{line}.accuracy.{seed}": accuracy for seed, accuracy in accuracies.items()},
    }


def points_over(own: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Points of accuracy by which runs are better than others with the same seed.

    >>> points_over({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.5})
    [25.0, 0.0]
    """
    return [100 * (accuracy - other[seed]) for seed, accuracy in own.items()]
