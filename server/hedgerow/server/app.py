"""The Flower ServerApp: our round loop on whatever `Grid` it is given.

What `run_config` may hold, beside the experiment (`hedgerow.config.run_config`): `out`, the folder of all runs; `live`,
whether devices come and go (`hedgerow.server.coordinator`); `min-devices`, how many have to be there before a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from hedgerow.config import Experiment
from hedgerow.config.run_config import experiment_in
from hedgerow.errors import ConfigError
from hedgerow.server.bench import Bench
from hedgerow.server.coordinator import coordinate
from hedgerow.server.grids.fleet import GridFleet
from hedgerow.server.progress import current_observer
from hedgerow.server.run_folder import RunFolder

__all__ = ["app", "least_devices"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the experiment to its end."""
    settings = context.run_config
    experiment = experiment_in(settings)
    least = least_devices(settings, experiment)
    bench = Bench.of(experiment)
    with RunFolder(Path(str(settings.get("out") or "runs")), experiment) as folder:
        coordinate(
            experiment,
            bench=bench,
            fleet=GridFleet(grid),
            folder=folder,
            observer=current_observer(),
            live=settings.get("live") is True,
            least=least,
        )


def least_devices(run_config: Mapping[str, object], experiment: Experiment) -> int:
    """How many devices have to be there before a round is begun: `min-devices`, or as many as a cohort.

    Raises:
        ConfigError: it is not a whole number, or the quorum can never be reached.
    """
    least = run_config.get("min-devices", experiment.fleet.cohort)
    quorum = experiment.aggregation.min_replies
    if not isinstance(least, int) or isinstance(least, bool) or least < quorum:
        raise ConfigError(
            f"min-devices: found {least!r}; at least {quorum}, as many as aggregation.min_replies, are needed"
        )
    return least
