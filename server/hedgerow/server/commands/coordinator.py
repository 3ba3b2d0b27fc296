"""`hedgerow coordinator`: start a coordinator that devices can reach."""

from __future__ import annotations

import os
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
from hedgerow.wire.addresses import parse_address

if TYPE_CHECKING:
    from hedgerow.config import Experiment
    from hedgerow.server.serving import Serving

__all__ = ["coordinator"]


def coordinator(
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
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where devices and operators connect; port 0 = any free one.")
    ] = "127.0.0.1:7070",
    enrolment: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="TLS with the identities of this folder; `hedgerow enrol` makes it."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Without TLS, let other machines connect: everybody who can may join.")
    ] = False,
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where /metrics and /healthz are; `off` = nowhere.")
    ] = "127.0.0.1:9464",
    min_devices: Annotated[
        int | None,
        typer.Option(min=1, help="Devices that have to be there for a round to start; a cohort's when absent."),
    ] = None,
    heartbeat: Annotated[float, typer.Option(min=0.05, help="Seconds between a device's signs of life.")] = 1.0,
    silence: Annotated[float, typer.Option(min=0.2, help="Seconds of silence after which a device is lost.")] = 5.0,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds that a round waits for a lost device to come back.")
    ] = 60.0,
    stay: Annotated[
        bool, typer.Option("--stay", help="Go on answering operators when the run is done, until stopped.")
    ] = False,
) -> None:
    """Trains one pruned network with the devices that join (`hedgerow join`).

    The same command again goes on where the run stopped, even in the midst of a round, or says that it is done.
    """
    # gRPC would write a line for every connection that TLS turns away, and anybody can make as many as he likes.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

    from hedgerow.server.grids.remote.devices import Pace
    from hedgerow.server.serving import Serving

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
    serving = Serving(
        parse_address(listen),
        enrolment=enrolment,
        insecure=insecure,
        http=None if http == "off" else parse_address(http),
        min_devices=min_devices,
        pace=Pace(heartbeat, max(silence, 2 * heartbeat)),
        grace=grace,
        stay=stay,
    )
    _run(chosen, serving, out=out)


def _run(experiment: Experiment, serving: Serving, *, out: Path) -> None:
    from rich.console import Console

    from hedgerow.server.control.lines import DeviceLines
    from hedgerow.server.progress import PlainObserver, TerminalObserver
    from hedgerow.server.serving import serve
    from hedgerow.server.summary import records_of, summary

    console = Console()
    shown = TerminalObserver(console) if console.is_terminal else PlainObserver(console)
    done_before = len(records_of(out, experiment)) > experiment.rounds
    devices = DeviceLines(console)
    path = serve(experiment, serving, out=out, observer=shown, fleet_observer=devices, tell=devices.line)
    typer.echo(summary(experiment, records_of(out, experiment), path, already_done=done_before))
