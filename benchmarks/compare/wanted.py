"""What environment variables pick of the benchmark: lines, data sets, seeds and rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.compare.lines import ABLATIONS, ADDITIONS, LINES, OURS, QUICK_LINES, RECIPES, rounds_of
from benchmarks.environment import DATA, ONLY, ROUNDS, SEEDS, names, numbers
from benchmarks.trainings import CIFAR10, DIGITS, FASHION
from hedgerow.errors import ConfigError

__all__ = ["Wanted"]

_PARTS = ("recipes", "ablations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured.

    Attributes:
        lines: what is trained, in the order of `LINES`.
        data: names of data sets; `digits` in the quick version.
        seeds: of runs.
        rounds: of each run.
    """

    lines: Sequence[str]
    data: Sequence[str]
    seeds: Sequence[int]
    rounds: int

    @classmethod
    def of(cls, *, quick: bool) -> Self:
        """That of the environment; a quick version reads lines only.

        Raises:
            ConfigError: a variable lists what there is not.
        """
        asked = names(ONLY, QUICK_LINES if quick else _PARTS, allowed=(*_PARTS, *LINES))
        lines = {name for name in asked if name in LINES}
        lines |= {*RECIPES} if "recipes" in asked else set()
        # An ablation is compared with the whole.
        lines |= {OURS, *ABLATIONS, *ADDITIONS} if "ablations" in asked else set()
        return cls(
            lines=[line for line in LINES if line in lines],
            data=[DIGITS] if quick else names(DATA, (FASHION, CIFAR10), allowed=(FASHION, CIFAR10)),
            seeds=[0] if quick else numbers(SEEDS, (0, 1, 2), read=int),
            rounds=rounds_of(None if quick else _rounds(), quick=quick),
        )


def _rounds() -> int | None:
    found = numbers(ROUNDS, (), read=int)
    if len(found) > 1 or any(number < 1 for number in found):
        raise ConfigError(f"{ROUNDS}: expected one number of rounds, at least 1, found {', '.join(map(str, found))}")
    return found[0] if found else None
