"""Simulated trainings that several benchmarks make alike: their settings, their data, and what they leave behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.images import ARCHIVE, archive_there, converted
from hedgerow.config import Experiment
from hedgerow.server.progress import PlainObserver, TerminalObserver
from hedgerow.server.simulation import simulate
from hedgerow.telemetry import RoundRecord, read_records

__all__ = ["CIFAR10", "DIGITS", "FASHION", "FEDERATED", "QUICK", "Overrides", "Records", "data_sets", "records_of"]

DIGITS, FASHION, CIFAR10 = "digits", "fashion-mnist", "cifar10-jpeg"
_WORKERS = 2
"""As many on every machine, so that seconds can be compared; a quick version has one, which starts sooner."""

Overrides = Mapping[str, object]
Records = list[RoundRecord]

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
