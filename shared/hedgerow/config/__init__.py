"""Typed configuration of experiments, recipes as data, and clear errors for both."""

from hedgerow.config.experiment import Experiment
from hedgerow.config.fleet import BudgetSettings, DataSettings, DeviceClass, FleetSettings
from hedgerow.config.load import (
    DEFAULT_RECIPE,
    Recipe,
    load_experiment,
    parse_override,
    recipe_named,
    recipe_names,
)
from hedgerow.config.masks import AdjustmentSettings, ExtrusionSettings, PruningSettings, SelectionSettings
from hedgerow.config.network import ModelSettings, SignSettings, SupermaskSettings, WeightSettings
from hedgerow.config.pool import PoolEntry
from hedgerow.config.training import AggregationSettings, EvaluationSettings, FinishSettings, TrainingSettings
from hedgerow.config.wire import PrivacySettings, WireSettings

__all__ = [
    "DEFAULT_RECIPE",
    "AdjustmentSettings",
    "AggregationSettings",
    "BudgetSettings",
    "DataSettings",
    "DeviceClass",
    "EvaluationSettings",
    "Experiment",
    "ExtrusionSettings",
    "FinishSettings",
    "FleetSettings",
    "ModelSettings",
    "PoolEntry",
    "PrivacySettings",
    "PruningSettings",
    "Recipe",
    "SelectionSettings",
    "SignSettings",
    "SupermaskSettings",
    "TrainingSettings",
    "WeightSettings",
    "WireSettings",
    "load_experiment",
    "parse_override",
    "recipe_named",
    "recipe_names",
]
