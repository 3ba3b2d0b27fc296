"""Typed configuration of experiments, recipes as data, and clear errors for both."""

from hedgerow.config.load import (
    DEFAULT_RECIPE,
    Recipe,
    load_experiment,
    parse_override,
    recipe_named,
    recipe_names,
)
from hedgerow.config.pool import PoolEntry
from hedgerow.config.schema import (
    AdjustmentSettings,
    AggregationSettings,
    DataSettings,
    EvaluationSettings,
    Experiment,
    FleetSettings,
    ModelSettings,
    PrivacySettings,
    PruningSettings,
    SelectionSettings,
    SignSettings,
    TrainingSettings,
    WeightSettings,
    WireSettings,
)

__all__ = [
    "DEFAULT_RECIPE",
    "AdjustmentSettings",
    "AggregationSettings",
    "DataSettings",
    "EvaluationSettings",
    "Experiment",
    "FleetSettings",
    "ModelSettings",
    "PoolEntry",
    "PrivacySettings",
    "PruningSettings",
    "Recipe",
    "SelectionSettings",
    "SignSettings",
    "TrainingSettings",
    "WeightSettings",
    "WireSettings",
    "load_experiment",
    "parse_override",
    "recipe_named",
    "recipe_names",
]
