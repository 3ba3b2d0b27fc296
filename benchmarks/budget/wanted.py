"""What environment variables pick of the benchmark: parts, data sets and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.budget.lines import FLEETS
from benchmarks.environment import DATA, ONLY, SEEDS, names, numbers
from benchmarks.trainings import CIFAR10, DIGITS, FASHION

__all__ = ["PARTS", "Wanted"]

PARTS = ("prediction", "reading", "limits", "fedmef", *FLEETS)
_QUICK_PARTS = [part for part in PARTS if part != "classes"]
"""The other fleet takes the same way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured.

    Attributes:
        parts: of `PARTS`.
        data: names of the data sets that `fedmef` trains on; fleets train on the first of them.
        seeds: of runs.
    """

    parts: Sequence[str]
    data: Sequence[str]
    seeds: Sequence[int]

    @classmethod
    def of(cls, *, quick: bool) -> Self:
        """That of the environment; a quick version reads only what to leave out.

        Raises:
            ConfigError: a variable lists what there is not.
        """
        allowed = (FASHION, CIFAR10)
        return cls(
            parts=names(ONLY, _QUICK_PARTS if quick else PARTS, allowed=PARTS),
            data=[DIGITS] if quick else names(DATA, allowed, allowed=allowed),
            seeds=[0] if quick else numbers(SEEDS, (0, 1, 2), read=int),
        )
