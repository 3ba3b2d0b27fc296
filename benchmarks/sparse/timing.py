"""Two training steps timed in turns, so that whatever slows the machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Pair", "in_turns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Processor seconds of two steps, medians of all turns.

    Attributes:
        first: of the one.
        second: of the other.
        ratio: how many times faster the second is: the quotient of the medians.
        spread: half the distance between the quartiles of the turns' own ratios, as a fraction of their median.
    """

    first: float
    second: float
    ratio: float
    spread: float


def in_turns(first: Callable[[], object], second: Callable[[], object], *, turns: int) -> Pair:
    """Times both `turns` times, one after the other, after one call of each that does not count."""
    first()
    second()
    times = [(_seconds(first), _seconds(second)) for _ in range(turns)]
    one, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [a / b for a, b in times]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Pair(first=one, second=other, ratio=one / other, spread=(high - low) / 2 / middle)


def _seconds(step: Callable[[], object]) -> float:
    # Not the wall clock: somebody else may have the core meanwhile.
    began = time.process_time()
    step()
    return time.process_time() - began
