"""Following a run to its end, through restarts of its coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from hedgerow.errors import ConnectionLostError
from hedgerow.server.control.client import ControlClient
from hedgerow.v1.fleet_pb2 import STATE_FAILED, STATE_FINISHED, Event

__all__ = ["Screen", "follow"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class Screen(Protocol):
    """What shows it."""

    def show(self, event: Event) -> None:
        """An event came."""

    def lost(self, reason: str) -> None:
        """The coordinator went away."""


async def follow(connect: Callable[[], AbstractAsyncContextManager[ControlClient]], *, screen: Screen) -> Event:
    """Shows what happens until the run is over, and gives the event that says so.

    A coordinator that was there once is waited for, for ever.

    Raises:
        ConnectionLostError: there was none to begin with.
        IdentityError: not let in.
    """
    known, pause = False, _FIRST_PAUSE
    while True:
        last: Event | None = None
        reason = "it stopped"
        try:
            async with connect() as client:
                async for event in client.watch():
                    known, pause = True, _FIRST_PAUSE
                    screen.show(event)
                    if event.status.state in (STATE_FINISHED, STATE_FAILED):
                        last = event
        except ConnectionLostError as error:
            if not known:
                raise
            reason = str(error)
        if last is not None:
            return last
        if pause == _FIRST_PAUSE:
            screen.lost(reason)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
