"""How the clients of a simulation compute each layer: measured once, before there are any, and kept with the run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hedgerow.assembly import network_of
from hedgerow.config import Experiment
from hedgerow.errors import ConfigError
from hedgerow.files import write_atomically
from hedgerow.native.library import status
from hedgerow.server.bench import Bench
from hedgerow.server.progress import Observer
from hedgerow.server.run_folder import RunFolder
from hedgerow.server.state import RoundState

__all__ = ["choose_for_clients", "read_paths", "require_kernels"]


def require_kernels(experiment: Experiment) -> None:
    """Makes sure that clients on this machine can compute as the settings say.

    Raises:
        ConfigError: they ask for native kernels, and there are none.
    """
    if experiment.training.kernels == "native" and not status().available:
        raise ConfigError(
            f"training.kernels is native, but there are no native kernels here: {status().reason}; "
            "`hedgerow doctor` says more, and auto does without"
        )


def choose_for_clients(
    experiment: Experiment, *, bench: Bench, state: RoundState, folder: RunFolder, observer: Observer
) -> None:
    """Makes the choice of paths that each client of this machine then finds in the cache, and writes it down.

    With a finish in float there are two, for its rounds and for those before; that of the next round is written down.
    Nothing is chosen, and nothing written, where `training.kernels` says which it shall be, or no round is left.

    Raises:
        RunError: the file cannot be written.
    """
    if experiment.training.kernels != "auto" or state.round == experiment.rounds:
        return
    with _threads(1):  # as many as a worker has
        choices = [
            network_of(settings, bench.initial, state.mask, input_shape=bench.dataset.input_shape).choice
            for settings in experiment.stretches
            if state.round < experiment.stretch(settings.first_round)[-1]
        ]
    choice = choices[0]
    if choice is not None:
        write_atomically(folder.paths, json.dumps(choice.as_record(), indent=1).encode())
        observer.chosen(choice.lines())


def read_paths(path: Path) -> Mapping[str, Any] | None:
    """What `choose_for_clients` wrote; None where it did not, or where nobody can read it any more."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
