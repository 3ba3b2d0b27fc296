"""`hedgerow simulate`: many clients on this machine, no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hedgerow.server.commands.options import (
    Data,
    DataPath,
    Density,
    ExperimentFile,
    Model,
    Out,
    Recipe,
    Rounds,
    Seed,
    Settings,
    chosen_experiment,
)

if TYPE_CHECKING:
    from hedgerow.config import Experiment
    from hedgerow.server.progress import Observer

__all__ = ["simulate"]


def simulate(
    experiment: ExperimentFile = None,
    recipe: Recipe = None,
    settings: Settings = None,
    model: Model = None,
    data: Data = None,
    data_path: DataPath = None,
    density: Density = None,
    rounds: Rounds = None,
    seed: Seed = None,
    out: Out = Path("runs"),
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; as many as cores when absent.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve Prometheus metrics on this loopback port while it runs.")
    ] = None,
) -> None:
    """Trains one pruned network across many clients on this machine.

    The same command again goes on where the run stopped, or says that it is done.
    """
    chosen = chosen_experiment(
        experiment,
        recipe=recipe,
        settings=settings,
        model=model,
        data=data,
        data_path=data_path,
        density=density,
        rounds=rounds,
        seed=seed,
    )
    _run(chosen, out=out, workers=workers, metrics_port=metrics_port)


def _run(experiment: Experiment, *, out: Path, workers: int | None, metrics_port: int | None) -> None:
    # torch and flwr take seconds to import; `--help` and a mistaken key must not wait for them.
    from hedgerow.server.simulation import simulate as run
    from hedgerow.server.summary import records_of, summary

    observer = _observer(metrics_port)
    done_before = len(records_of(out, experiment)) > experiment.rounds
    path = run(experiment, out=out, workers=workers, observer=observer)
    typer.echo(summary(experiment, records_of(out, experiment), path, already_done=done_before))


def _observer(metrics_port: int | None) -> Observer:
    from rich.console import Console

    from hedgerow.server.progress import ManyObservers, MetricsObserver, PlainObserver, TerminalObserver

    console = Console()
    shown = TerminalObserver(console) if console.is_terminal else PlainObserver(console)
    return shown if metrics_port is None else ManyObservers(shown, MetricsObserver(port=metrics_port))
