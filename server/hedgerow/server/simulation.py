"""Many clients on this machine: the ServerApp and the ClientApp on the local grid."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context, RecordDict

from hedgerow.assembly import parts_of
from hedgerow.config import Experiment
from hedgerow.server.app import app
from hedgerow.server.bench import Bench
from hedgerow.server.budgets import require_memory
from hedgerow.server.coordinator import is_done, prepare, resumable
from hedgerow.server.grids.fleet import GridFleet
from hedgerow.server.grids.local import LocalGrid
from hedgerow.server.paths import choose_for_clients, require_kernels
from hedgerow.server.progress import ManyObservers, Observer, observing
from hedgerow.server.run_folder import RunFolder
from hedgerow.server.signals import terminable
from hedgerow.wire.states import StateStore

__all__ = ["CLIENT_APP", "simulate"]

CLIENT_APP = "hedgerow.client.app:app"
"""By name, because the server's code never imports the client's."""


def simulate(
    experiment: Experiment,
    *,
    out: Path,
    workers: int | None = None,
    observer: Observer | None = None,
    client_app: str = CLIENT_APP,
) -> Path:
    """Runs an experiment to its end, or goes on where it stopped; a finished one is left as it is.

    Args:
        experiment: what to run.
        out: the folder of all runs.
        workers: worker processes; as many as cores when None.
        observer: is told how it goes.
        client_app: the ClientApp to run, as `package.module:attribute`.

    Returns:
        The run's folder.

    Raises:
        HedgerowError: what is wrong with the experiment, before anything is written; or what ended the run.
    """
    # Data, model and partition are tried first: a mistake in them must not leave a folder behind.
    require_kernels(experiment)
    bench = Bench.of(experiment)
    parts_of(experiment, bench.dataset)
    require_memory(experiment, bench=bench)
    with RunFolder(out, experiment) as folder:
        path, clients = folder.path, folder.clients
        if is_done(folder):
            return path
    told = Observer() if observer is None else observer
    configuration = experiment.model_dump_json()
    context = Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config={"experiment": configuration, "out": str(out)},
    )
    with (
        terminable(),
        observing(told),
        StateStore(clients) as states,
        LocalGrid(
            clients=experiment.fleet.clients,
            client_app=client_app,
            run_config={"experiment": configuration},
            states=states,
            workers=workers,
        ) as grid,
    ):
        with RunFolder(out, experiment) as folder:
            state = prepare(experiment, bench=bench, fleet=GridFleet(grid), folder=folder, observer=told)
            with resumable(folder):
                # Before workers train: they would measure too, each at the cost of the others.
                choose_for_clients(experiment, bench=bench, state=state, folder=folder, observer=told)
        with observing(_Started(told)):
            app(grid, context)
    # Nobody reads the clients' states after the last round.
    for leftover in path.glob(clients.name + "*"):
        leftover.unlink()
    return path


class _Started(ManyObservers):
    """Passes everything on, but that the run starts and what ends with it: both are its maker's to say."""

    def started(self, *, folder: Path, description: str, rounds: int, done: int) -> None:
        """Was said."""

    def close(self) -> None:
        """Will be said."""
