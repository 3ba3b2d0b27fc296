"""One operator's view of what happens: a short queue from the run's threads into the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable

from hedgerow.v1.fleet_pb2 import Event, Status

__all__ = ["Watcher"]


class Watcher:
    """Events for one reader. `tell` and `end` are called with the board's lock held, by any thread.

    A reader that is too slow loses the oldest events, and is told how many. Progress needs no event of its own: the
    reader gets the newest state when it has read all events.

    Args:
        lock: the board's.
        status: gives a copy of the status; called with the lock held.
        size: events that wait at most.
        beat: an event comes at least so often, in seconds, so that the reader knows that the way is open.
    """

    def __init__(self, *, lock: threading.Lock, status: Callable[[], Status], size: int, beat: float) -> None:
        self._lock, self._status, self._beat = lock, status, beat
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._events: deque[Event] = deque(maxlen=size)
        self._lost = 0
        self._moved = self._woken = self._ended = False

    def tell(self, text: str) -> None:
        """Something happened; without a text the status alone has moved on."""
        if text:
            self._lost += len(self._events) == self._events.maxlen
            self._events.append(Event(time=time.time(), text=text, status=self._status()))
        else:
            self._moved = True
        self._wake_reader()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._wake_reader()

    async def events(self) -> AsyncIterator[Event]:
        """The events as they happen, until the end."""
        while True:
            self._wake.clear()
            event, ended = self._next()
            if event is not None:
                yield event
            elif ended:
                return
            else:
                try:
                    await asyncio.wait_for(self._wake.wait(), self._beat)
                except TimeoutError:
                    with self._lock:
                        self._moved = True

    def _next(self) -> tuple[Event | None, bool]:
        with self._lock:
            self._woken = False
            if self._lost:
                text, self._lost = f"{self._lost} earlier events are left out", 0
                return Event(time=time.time(), text=text, status=self._status()), False
            if self._events:
                return self._events.popleft(), False
            if self._moved and not self._ended:
                self._moved = False
                return Event(time=time.time(), status=self._status()), False
            return None, self._ended

    def _wake_reader(self) -> None:
        # One wake-up is enough, however much happens until the loop comes to it.
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
                self._loop.call_soon_threadsafe(self._wake.set)
