"""Stub devices for tests, and what a coordinator was told of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from benchmarks.stub_device import StubDevice

from hedgerow.server.grids.remote.view import FleetObserver

__all__ = ["Crowd", "Told"]


class Told(FleetObserver):
    def __init__(self) -> None:
        self.rejections: list[str] = []
        self.ends: list[str] = []
        self.refusals: list[str] = []
        self.lates = 0

    def detached(self, name: str, *, cause: str) -> None:
        self.ends.append(cause)

    def refused(self, *, reason: str) -> None:
        self.refusals.append(reason)

    def rejected(self, name: str, *, reason: str) -> None:
        self.rejections.append(reason)

    def late(self, name: str) -> None:
        self.lates += 1


class Crowd:
    """Stub devices in a thread with a loop of their own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def start(self, device: StubDevice) -> asyncio.Future[None]:
        async def attach() -> asyncio.Future[None]:
            task = asyncio.create_task(device.run())
            await asyncio.wait({task, asyncio.create_task(device.welcomed.wait())}, return_when="FIRST_COMPLETED")
            return task

        return asyncio.run_coroutine_threadsafe(attach(), self.loop).result(10)

    def call(self, function: Callable[[], None]) -> None:
        async def run() -> None:
            function()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def end(self, task: asyncio.Future[None]) -> None:
        self.loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
