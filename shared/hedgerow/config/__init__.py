"""Typed configuration of experiments, recipes as data, and clear errors for both."""

from hedgerow.config.load import (
    DEFAULT_RECIPE,
    Recipe,
    load_experiment,
    parse_override,
    recipe_named,
    recipe_names,
)
from hedgerow.config.schema import (
    AggregationSettings,
    DataSettings,
    EvaluationSettings,
    Experiment,
    FleetSettings,
    ModelSettings,
    PruningSettings,
    SignSettings,
    TrainingSettings,
    WeightSettings,
)

__all__ = [
    "DEFAULT_RECIPE",
    "AggregationSettings",
    "DataSettings",
    "EvaluationSettings",
    "Experiment",
    "FleetSettings",
    "ModelSettings",
    "PruningSettings",
    "Recipe",
    "SignSettings",
    "TrainingSettings",
    "WeightSettings",
    "load_experiment",
    "parse_override",
    "recipe_named",
    "recipe_names",
]
