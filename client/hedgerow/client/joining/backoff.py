"""How long to wait before the next attempt."""

from __future__ import annotations

from random import Random

__all__ = ["Backoff"]

_FIRST, _LONGEST, _JITTER = 0.5, 30.0, 0.25


class Backoff:
    """Half a second, then twice as long each time, 30 s at most; a quarter more or less, so that a fleet spreads.

    >>> backoff = Backoff(Random(0))
    >>> [round(backoff.next()) for _ in range(4)]
    [1, 1, 2, 4]
    """

    def __init__(self, random: Random) -> None:
        self._random, self._attempts = random, 0

    def next(self) -> float:
        """Seconds to wait now."""
        seconds = min(_LONGEST, _FIRST * 2.0 ** min(self._attempts, 10))
        self._attempts += 1
        return seconds * self._random.uniform(1 - _JITTER, 1 + _JITTER)

    def reset(self) -> None:
        """Begins anew, after a connection that was good."""
        self._attempts = 0
