"""What environment variables pick of the benchmark: parts and lines, data sets, densities and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.environment import DATA, DENSITIES, ONLY, SEEDS, names, numbers
from benchmarks.selection.lines import LINES, QUICK_LINES, candidates
from benchmarks.trainings import CIFAR10, DIGITS, FASHION

__all__ = ["Wanted"]

_RUNS = "runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is measured.

    Attributes:
        exact: exactness of pooled statistics and of largest gradients.
        memory: bytes of the pass that finds what grows.
        lines: what is trained, in the order of `LINES`.
        pool: the static lines of which the devices' candidates are made.
        data: names of data sets; `digits` in the quick version.
        densities: kept fractions.
        seeds: of runs.
    """

    exact: bool
    memory: bool
    lines: Sequence[str]
    pool: Sequence[str]
    data: Sequence[str]
    densities: Sequence[float]
    seeds: Sequence[int]

    @classmethod
    def of(cls, *, quick: bool) -> Self:
        """That of the environment; a quick version reads only what to leave out.

        Raises:
            ConfigError: a variable lists what there is not.
        """
        runs = QUICK_LINES if quick else tuple(LINES)
        parts = names(ONLY, ("exact", "memory", _RUNS), allowed=("exact", "memory", _RUNS, *LINES))
        return cls(
            exact="exact" in parts,
            memory="memory" in parts,
            lines=[line for line in LINES if (_RUNS in parts and line in runs) or line in parts],
            pool=candidates(quick=quick),
            data=[DIGITS] if quick else names(DATA, (FASHION, CIFAR10), allowed=(FASHION, CIFAR10)),
            densities=[0.1] if quick else numbers(DENSITIES, (0.05, 0.01), read=float),
            seeds=[0] if quick else numbers(SEEDS, (0, 1, 2), read=int),
        )
