"""The experiment in Flower's `run_config`, where both apps find it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from pydantic import ValidationError

from hedgerow.config.experiment import Experiment
from hedgerow.config.load import load_experiment, parse_override
from hedgerow.errors import ConfigError

__all__ = ["experiment_in"]


def experiment_in(run_config: Mapping[str, object]) -> Experiment:
    """The experiment that a run configuration names.

    Args:
        run_config: `experiment`, the whole of it as JSON; or `recipe`, a recipe's name, and `set`, changed settings
            such as `"rounds=5 data.name=digits"`, for people who start it with `flwr run`.

    Raises:
        ConfigError: a key or a value is wrong.

    >>> experiment_in({"recipe": "fedavg", "set": "rounds=5"}).rounds
    5
    """
    whole = run_config.get("experiment")
    if not whole:
        recipe = run_config.get("recipe")
        overrides = [parse_override(text) for text in shlex.split(str(run_config.get("set") or ""))]
        return load_experiment(recipe=str(recipe) if recipe else None, overrides=overrides)
    try:
        return Experiment.model_validate_json(str(whole))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "experiment"
        raise ConfigError(f"{where}: {first['msg']}; both ends need the same version of hedgerow") from None
