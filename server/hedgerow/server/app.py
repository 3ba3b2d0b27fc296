"""The Flower ServerApp: our round loop on whatever `Grid` it is given.

The experiment comes as JSON in `run_config["experiment"]`, the folder for all runs as `run_config["out"]`.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from hedgerow.config import Experiment
from hedgerow.server.bench import Bench
from hedgerow.server.coordinator import coordinate
from hedgerow.server.grids.fleet import GridFleet
from hedgerow.server.progress import current_observer
from hedgerow.server.run_folder import RunFolder

__all__ = ["app"]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the experiment to its end."""
    experiment = Experiment.model_validate_json(str(context.run_config["experiment"]))
    bench = Bench.of(experiment)
    with RunFolder(Path(str(context.run_config["out"])), experiment) as folder:
        coordinate(experiment, bench=bench, fleet=GridFleet(grid), folder=folder, observer=current_observer())
