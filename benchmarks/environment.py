"""What environment variables pick of a benchmark."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from hedgerow.errors import ConfigError

__all__ = ["DATA", "DENSITIES", "ONLY", "ROUNDS", "SEEDS", "names", "numbers"]

ONLY, DATA = "HEDGEROW_BENCH_ONLY", "HEDGEROW_BENCH_DATA"
DENSITIES, SEEDS = "HEDGEROW_BENCH_DENSITIES", "HEDGEROW_BENCH_SEEDS"
ROUNDS = "HEDGEROW_BENCH_ROUNDS"

T = TypeVar("T")


def names(variable: str, default: Sequence[str], *, allowed: Sequence[str]) -> Sequence[str]:
    """What a variable lists, with commas between; the default where it is empty.

    Raises:
        ConfigError: it lists what is not allowed.
    """
    for name in (found := _listed(variable)):
        if name not in allowed:
            raise ConfigError(f"{variable}: there is no {name!r}; there are {', '.join(allowed)}")
    return found or default


def numbers(variable: str, default: Sequence[T], *, read: Callable[[str], T]) -> Sequence[T]:
    """The same of numbers.

    Raises:
        ConfigError: it lists something else.
    """
    try:
        return [read(part) for part in _listed(variable)] or default
    except ValueError:
        raise ConfigError(
            f"{variable}: expected numbers with commas between them, found {os.environ[variable]!r}"
        ) from None


def _listed(variable: str) -> list[str]:
    return [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]
