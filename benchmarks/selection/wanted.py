"""What environment variables pick of the benchmark: parts and lines, data sets, densities and seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from benchmarks.selection.lines import LINES, QUICK_LINES, candidates
from hedgerow.errors import ConfigError

__all__ = ["CIFAR10", "FASHION", "Wanted"]

FASHION, CIFAR10 = "fashion-mnist", "cifar10-jpeg"
_ONLY, _DATA = "HEDGEROW_BENCH_ONLY", "HEDGEROW_BENCH_DATA"
_DENSITIES, _SEEDS = "HEDGEROW_BENCH_DENSITIES", "HEDGEROW_BENCH_SEEDS"
_RUNS = "runs"

T = TypeVar("T")


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
        parts = _names(_ONLY, ("exact", "memory", _RUNS), allowed=("exact", "memory", _RUNS, *LINES))
        return cls(
            exact="exact" in parts,
            memory="memory" in parts,
            lines=[line for line in LINES if (_RUNS in parts and line in runs) or line in parts],
            pool=candidates(quick=quick),
            data=["digits"] if quick else _names(_DATA, (FASHION, CIFAR10), allowed=(FASHION, CIFAR10)),
            densities=[0.1] if quick else _numbers(_DENSITIES, (0.05, 0.01), read=float),
            seeds=[0] if quick else _numbers(_SEEDS, (0, 1, 2), read=int),
        )


def _listed(variable: str) -> list[str]:
    return [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]


def _names(variable: str, default: Sequence[str], *, allowed: Sequence[str]) -> Sequence[str]:
    for name in (found := _listed(variable)):
        if name not in allowed:
            raise ConfigError(f"{variable}: there is no {name!r}; there are {', '.join(allowed)}")
    return found or default


def _numbers(variable: str, default: Sequence[T], *, read: Callable[[str], T]) -> Sequence[T]:
    try:
        return [read(part) for part in _listed(variable)] or default
    except ValueError:
        raise ConfigError(
            f"{variable}: expected numbers with commas between them, found {os.environ[variable]!r}"
        ) from None
