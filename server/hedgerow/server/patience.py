"""Playing again what too few devices took part in, as long as that can help."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from hedgerow.errors import TooFewRepliesError
from hedgerow.server.progress import Observer

__all__ = ["patiently"]

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_FRUITLESS = 5
"""Plays in which devices answered and still too few replies were usable: what they say will not change."""

Played = TypeVar("Played")


def patiently(
    play: Callable[[], Played],
    *,
    again: Callable[[TooFewRepliesError], None],
    observer: Observer,
    sleep: Callable[[float], None] = time.sleep,
) -> Played:
    """Plays until there are enough usable replies, with pauses that grow from 1 to 30 seconds.

    Args:
        play: plays once.
        again: is told what came to nothing, before it is played again.
        observer: is told of each play that came to nothing.
        sleep: pauses so many seconds.

    Raises:
        TooFewRepliesError: in five plays devices did answer, but too few of them usably.
    """
    pause, fruitless = _FIRST_PAUSE, 0
    while True:
        try:
            return play()
        except TooFewRepliesError as error:
            fruitless += error.answered
            if fruitless == _FRUITLESS:
                raise
            observer.replaying(reason=str(error), seconds=pause)
            again(error)
        sleep(pause)
        pause = min(_LONGEST_PAUSE, 2 * pause)
