"""The axes of an experiment, each with its own settings; what they ask of each other is in `hedgerow.config.checks`."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from hedgerow.config.fleet import BudgetSettings, DataSettings, FleetSettings
from hedgerow.config.masks import AdjustmentSettings, ExtrusionSettings, PruningSettings, SelectionSettings
from hedgerow.config.network import ModelSettings, SignSettings, SupermaskSettings, WeightSettings
from hedgerow.config.training import AggregationSettings, EvaluationSettings, FinishSettings, TrainingSettings
from hedgerow.config.values import Count, Settings
from hedgerow.config.wire import PrivacySettings, WireSettings

__all__ = ["Axes"]


class Axes(Settings):
    """Everything that decides a run's result."""

    recipe: str = "hidenseek"
    """The name of the preset that this came from; a label, not part of the identity."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    rounds: Count = 30
    representation: Literal["signs", "weights", "supermask"] = "signs"
    data: DataSettings = DataSettings()
    fleet: FleetSettings = FleetSettings()
    model: ModelSettings = ModelSettings()
    pruning: PruningSettings = PruningSettings()
    selection: SelectionSettings = SelectionSettings()
    adjustment: AdjustmentSettings = AdjustmentSettings()
    extrusion: ExtrusionSettings = ExtrusionSettings()
    signs: SignSettings = SignSettings()
    weights: WeightSettings = WeightSettings()
    supermask: SupermaskSettings = SupermaskSettings()
    finish: FinishSettings = FinishSettings()
    training: TrainingSettings = TrainingSettings()
    aggregation: AggregationSettings = AggregationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    wire: WireSettings = WireSettings()
    privacy: PrivacySettings = PrivacySettings()
    budget: BudgetSettings = BudgetSettings()

    @property
    def first_density(self) -> float:
        """The density of the mask before the first round."""
        start = self.adjustment.start_density
        return self.pruning.density if start is None else start

    @property
    def finish_rounds(self) -> int:
        """How many of the last rounds train in float after rounds of signs.

        >>> Axes(rounds=10, finish=FinishSettings(share=0.25)).finish_rounds
        2
        """
        if self.finish.rounds or self.representation == "weights":
            return self.finish.rounds
        return math.floor(self.finish.share * self.rounds)

    def stretch(self, round: int) -> range:
        """The rounds that train what round `round` does; later rounds than there are belong to the last of them.

        >>> axes = Axes(rounds=5, finish=FinishSettings(rounds=2))
        >>> axes.stretch(3), axes.stretch(4), Axes(rounds=5).stretch(4)
        (range(1, 4), range(4, 6), range(1, 6))
        """
        end = self.rounds - self.finish_rounds + 1
        if not self.finish_rounds or round < end:
            return range(1, end)
        return range(end, self.rounds + 1)
