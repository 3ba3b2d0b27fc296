"""A coordinator that devices join: the ServerApp on the gRPC grid, with what operators see and Prometheus scrapes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import grpc
from flwr.app import Context, RecordDict

from hedgerow.config import Experiment
from hedgerow.data import DataFacts
from hedgerow.errors import ConfigError
from hedgerow.identity import Revocations, read_identity, server_credentials
from hedgerow.pruning import prunable_tensors
from hedgerow.server.app import app, least_devices
from hedgerow.server.bench import Bench, description
from hedgerow.server.control.board import StatusBoard
from hedgerow.server.control.observers import FleetMetricsObserver, ManyFleetObservers, RunMetricsObserver
from hedgerow.server.control.service import ControlService
from hedgerow.server.coordinator import is_done
from hedgerow.server.enrolment import Enrolment
from hedgerow.server.grids.remote.devices import Pace
from hedgerow.server.grids.remote.grid import RemoteGrid
from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.server.progress import ManyObservers, Observer, observing
from hedgerow.server.run_folder import RunFolder
from hedgerow.server.signals import terminable
from hedgerow.sparse import float_tensors
from hedgerow.telemetry.http import serve_http
from hedgerow.telemetry.prometheus import FleetMetrics, RunMetrics
from hedgerow.wire.addresses import Address, is_loopback

__all__ = ["Serving", "serve"]

_ENVELOPE = 1 << 16
"""Generous bound of a reply beside its values."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How a coordinator is reached.

    Attributes:
        listen: where devices and operators connect.
        enrolment: the folder with its identity and the list of revoked ones; no TLS when None.
        insecure: whether it may listen beyond this machine without TLS.
        http: where `/metrics` and `/healthz` are; nowhere when None.
        min_devices: that a round needs to start; as many as a cohort when None.
        pace: of the heartbeats.
        grace: seconds after which a device that was lost has failed its round.
        stay: whether it answers operators when the run is done, until it is stopped.
    """

    listen: Address
    _: KW_ONLY
    enrolment: Path | None = None
    insecure: bool = False
    http: Address | None = None
    min_devices: int | None = None
    pace: Pace = field(default_factory=Pace)
    grace: float = 60.0
    stay: bool = False


def serve(
    experiment: Experiment,
    serving: Serving,
    *,
    out: Path,
    observer: Observer | None = None,
    fleet_observer: FleetObserver | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Runs an experiment to its end with the devices that join, or goes on where it stopped.

    Args:
        experiment: what to run.
        serving: how it is reached.
        out: the folder of all runs.
        observer: is told how the run goes.
        fleet_observer: is told what happens to devices.
        tell: is given lines about where it listens.

    Returns:
        The run's folder.

    Raises:
        HedgerowError: what is wrong with the experiment or with `serving`, before anything is written; or what ended
            the run.
    """
    observer = Observer() if observer is None else observer
    credentials, revocations = _security(serving)
    devices = {} if serving.min_devices is None else {"min-devices": serving.min_devices}
    needed = least_devices(devices, experiment)
    bench = Bench.of(experiment)
    with RunFolder(out, experiment) as folder:
        path, model, run, done = folder.path, folder.model, folder.run_id, is_done(folder)
    if done and not serving.stay:
        return path
    board, metrics = StatusBoard(run=run, needed=needed), RunMetrics()
    fleet_metrics = FleetMetrics(metrics.registry, state=board.state)
    control = ControlService(board, model=model)
    configuration = experiment.model_dump_json()
    context = Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config={
            "experiment": configuration,
            "out": str(out),
            "live": True,
            **devices,
        },
    )
    with ExitStack() as stack:
        stack.enter_context(terminable())
        if serving.http is not None:
            http = serve_http(metrics.registry, port=serving.http.port, host=serving.http.host, health=board.health)
            stack.callback(http.stop)
            tell(f"metrics at http://{Address(http.host, http.port)}/metrics")
        grid = stack.enter_context(
            RemoteGrid(
                serving.listen,
                run=run,
                run_config=json.dumps({"experiment": configuration, "facts": _facts(bench)}),
                credentials=credentials,
                revocations=revocations,
                observer=ManyFleetObservers(
                    board, FleetMetricsObserver(fleet_metrics), fleet_observer or FleetObserver()
                ),
                services=[control.register],
                reply_limit=_reply_limit(bench),
                pace=serving.pace,
                grace=serving.grace,
                evicted=path / "evicted.txt",
            )
        )
        control.attend(grid)
        secured = "with TLS" if credentials is not None else "without TLS"
        tell(f"devices join at {grid.address} {secured}")
        try:
            if done:
                board.started(
                    folder=path,
                    description=description(experiment, bench),
                    rounds=experiment.rounds,
                    done=experiment.rounds,
                )
            else:
                with observing(ManyObservers(board, RunMetricsObserver(metrics), observer)):
                    app(grid, context)
        except BaseException as error:
            board.failed(error)
            raise
        board.finished()
        if serving.stay:
            grid.finish()
            tell("the run is done; operators are answered until this is stopped")
            _wait_to_be_stopped()
    return path


def _security(serving: Serving) -> tuple[grpc.ServerCredentials | None, Revocations | None]:
    if serving.enrolment is None:
        if not serving.insecure and not is_loopback(serving.listen.host):
            raise ConfigError(
                f"--listen {serving.listen}: without TLS only this machine may connect; make identities with "
                "`hedgerow enrol FOLDER` and give --enrolment FOLDER, or --insecure on a network that you trust"
            )
        return None, None
    folder = Enrolment(serving.enrolment)
    identity = read_identity(folder.coordinator, role="coordinator")
    return server_credentials(identity), Revocations(folder.revoked)


def _facts(bench: Bench) -> str:
    return DataFacts.of(bench.dataset).model_dump_json()


def _reply_limit(bench: Bench) -> int:
    weights = sum(w.numel() for w in prunable_tensors(bench.initial).values())
    floats = sum(t.numel() for t in float_tensors(bench.initial))
    return 4 * (weights + floats) + _ENVELOPE


def _wait_to_be_stopped() -> None:
    # SIGTERM and Ctrl-C are how this is meant to end.
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
