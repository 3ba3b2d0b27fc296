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

    def toml(self) -> bytes:
        """All settings as an experiment file, but for those that are None; `load_experiment` reads it back."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True)).encode()
