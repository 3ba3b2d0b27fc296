"""The options by which `simulate` and `coordinator` name an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from hedgerow.config import Experiment
from hedgerow.config.load import load_experiment, parse_override

__all__ = [
    "Data",
    "DataPath",
    "Density",
    "ExperimentFile",
    "Model",
    "Out",
    "Recipe",
    "Rounds",
    "Seed",
    "Settings",
    "chosen_experiment",
]

ExperimentFile: TypeAlias = Annotated[
    Path | None, typer.Argument(metavar="[EXPERIMENT.toml]", help="Settings; the recipe's own where absent.")
]
Recipe: TypeAlias = Annotated[
    str | None, typer.Option(help="Preset to start from, `hedgerow` when absent; see `hedgerow recipes`.")
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: --set pruning.density=0.1; repeatable."),
]
Model: TypeAlias = Annotated[
    str | None, typer.Option(help="A built-in model's name, or your own package.module:function.")
]
Data: TypeAlias = Annotated[str | None, typer.Option(help="A data set's name, or your own package.module:function.")]
DataPath: TypeAlias = Annotated[Path | None, typer.Option(help="File or folder of the data set.")]
Density: TypeAlias = Annotated[float | None, typer.Option(help="Kept fraction of the weights, above 0 and at most 1.")]
Rounds: TypeAlias = Annotated[int | None, typer.Option(help="Number of rounds.")]
Seed: TypeAlias = Annotated[int | None, typer.Option(help="Decides everything random.")]
Out: TypeAlias = Annotated[Path, typer.Option(help="Folder of all runs.")]


def chosen_experiment(
    experiment: Path | None,
    *,
    recipe: str | None,
    settings: list[str] | None,
    model: str | None,
    data: str | None,
    data_path: Path | None,
    density: float | None,
    rounds: int | None,
    seed: int | None,
) -> Experiment:
    """The experiment that the options name; an option wins over `--set`, which wins over the file.

    Raises:
        ConfigError: names the key, what was found and what is allowed.
    """
    overrides = [parse_override(text) for text in settings or []]
    shortcuts = {
        "model.name": model,
        "data.name": data,
        "data.path": None if data_path is None else str(data_path),
        "pruning.density": density,
        "rounds": rounds,
        "seed": seed,
    }
    overrides += [(key, value) for key, value in shortcuts.items() if value is not None]
    return load_experiment(experiment, recipe=recipe, overrides=overrides)
