"""The configuration of an experiment: typed, frozen, complete.

An experiment is a value on orthogonal axes (data × partition × model × saliency × density rule × representation ×
training × aggregation). A recipe is a TOML file that sets some of them; see `hedgerow.config.load`.
"""

from __future__ import annotations

import hashlib
import json

import tomli_w
from pydantic import model_validator

from hedgerow.config.axes import Axes
from hedgerow.config.checks import check
from hedgerow.config.masks import AdjustmentSettings

__all__ = ["Experiment"]


class Experiment(Axes):
    """A value on each axis, of which all go together."""

    @model_validator(mode="after")
    def _goes_together(self) -> Experiment:
        check(self)
        return self

    def digest(self) -> str:
        """12 hexadecimal digits that name this experiment.

        Values equal to the defaults are left out, so a new field with a default never renames old runs.

        >>> Experiment().digest() == Experiment(recipe="mine").digest()
        True
        >>> Experiment().digest() == Experiment(seed=1).digest()
        False
        """
        identity = self.model_dump(mode="json", exclude_defaults=True, exclude={"recipe"})
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]

    def at(self, round: int) -> Experiment:
        """The settings of one round: those of `representation = "weights"` in the finish, else all as it is.

        They name no experiment: what travels has the digest of the whole.

        >>> experiment = Experiment.model_validate({"rounds": 5, "finish": {"rounds": 2}})
        >>> experiment.at(4).representation, experiment.at(3) is experiment
        ('weights', True)
        """
        if self.representation == "weights" or self.stretch(round).start == 1:
            return self
        first = self.rounds - self.finish_rounds + 1
        wire = {name: value for name in ("down", "up") if (value := getattr(self.finish, name)) is not None}
        changes = {
            "representation": "weights",
            "wire": self.wire.model_copy(update=wire),
            # Where it is over, nobody has to have memory for it.
            "adjustment": self.adjustment if self.adjustment.last(self.rounds) >= first else AdjustmentSettings(),
            "finish": self.finish.model_copy(update={"rounds": self.finish_rounds, "share": 0.0}),
        }
        return self.model_copy(update=changes)

    @property
    def stretches(self) -> tuple[Experiment, ...]:
        """The settings of all rounds: one, or with a finish those of the rounds before it and its own."""
        first, last = self.at(1), self.at(self.rounds)
        return (first,) if last is first else (first, last)

    @property
    def first_round(self) -> int:
        """The first round that has these settings; of those that `at` gives it may be another than 1."""
        return self.stretch(self.rounds).start if self.representation == "weights" else 1

    def toml(self) -> bytes:
        """All settings as an experiment file, but for those that are None; `load_experiment` reads it back."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True)).encode()
