"""Playing a round again when devices were missing, as long as that can help."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from hedgerow.errors import TooFewRepliesError
from hedgerow.server.journal import Journal
from hedgerow.server.progress import Observer
from hedgerow.server.rounds import Round
from hedgerow.server.state import RoundState

__all__ = ["patiently"]

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_FRUITLESS = 5
"""Plays in which devices answered and still too few replies were usable: what they say will not change."""


def patiently(
    state: RoundState,
    play: Callable[[RoundState], Round],
    *,
    journal: Journal,
    observer: Observer,
    sleep: Callable[[float], None] = time.sleep,
) -> Round:
    """Plays a round until it has enough usable replies, with pauses that grow from 1 to 30 seconds.

    Args:
        state: where it starts, each time.
        play: plays the round once.
        journal: keeps the usable replies from one play to the next.
        observer: is told of each play that came to nothing.
        sleep: pauses so many seconds.

    Raises:
        TooFewRepliesError: in five plays devices did answer, but too few of them usably.
    """
    pause, fruitless = _FIRST_PAUSE, 0
    while True:
        try:
            return play(state)
        except TooFewRepliesError as error:
            fruitless += error.answered
            if fruitless == _FRUITLESS:
                raise
            observer.replaying(reason=str(error), seconds=pause)
            journal.retry(state.round + 1, keep=error.usable)
            # Who was not usable may have lost the mask, and is given it again.
            held = {node: version for node, version in state.held.items() if node in error.usable}
            state = dataclasses.replace(state, held=held)
        sleep(pause)
        pause = min(_LONGEST_PAUSE, 2 * pause)
