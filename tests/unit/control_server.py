"""A coordinator without a run: the service `Control` on a real socket, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
from grpc import aio

from hedgerow.server.control.board import StatusBoard
from hedgerow.server.control.service import ControlService
from hedgerow.server.grids.remote.view import DeviceView
from hedgerow.telemetry import Measured, RoundRecord

__all__ = ["PHONE", "ControlServer", "FakeFleet", "record"]

T = TypeVar("T")

PHONE = DeviceView(
    name="phone",
    node=7,
    attached=True,
    address="ipv4:10.0.0.2:1000",
    software="hedgerow 0.1.0",
    memory_bytes=4_000_000_000,
    cores=8,
    examples=1234,
    resident_bytes=310_000_000,
    working_on_round=4,
    seconds_since_heard=0.5,
    reconnects=2,
    replies=3,
    rejected=1,
    evicted=False,
)


def record(round: int, *, accuracy: float | None = 0.75, seconds: float = 2.0) -> RoundRecord:
    """A round's record with round numbers."""
    return RoundRecord(
        round=round,
        accuracy=accuracy,
        loss=None if accuracy is None else 0.5,
        density=0.1,
        layer_density={"a.weight": 0.1},
        kept=10,
        cohort=2,
        replies=2,
        examples=40,
        bytes_up=100,
        bytes_down=200,
        entropy_up=90.0,
        entropy_down=150.0,
        measured=Measured(
            seconds=seconds,
            evaluation_seconds=0.5,
            client_seconds=3.0,
            client_peak_bytes=1000,
            coordinator_peak_bytes=None,
        ),
    )


class FakeFleet:
    """Devices that only exist on paper."""

    def __init__(self, *devices: DeviceView) -> None:
        self._devices = {device.name: device for device in devices}

    def devices(self) -> Sequence[DeviceView]:
        return [device for _, device in sorted(self._devices.items())]

    def evict(self, name: str) -> bool:
        if name not in self._devices:
            return False
        self._devices[name] = replace(self._devices[name], attached=False, evicted=True)
        return True


class ControlServer:
    """Serves until it is stopped."""

    def __init__(
        self,
        board: StatusBoard,
        *,
        model: Path,
        fleet: FakeFleet | None = None,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[aio.ServerInterceptor] = (),
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.service = ControlService(board, model=model, fleet=fleet)
        self._interceptors = interceptors
        self.port = self._call(self._start(port, credentials))
        self.address = f"localhost:{self.port}"

    def stop(self, grace: float | None = 1.0) -> None:
        """Ends it; None = at once, as a kill would."""
        self._call(self._stop(grace))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _stop(self, grace: float | None) -> None:
        await self._server.stop(grace)
        # The calls that it cancelled end a little later.
        if calls := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(calls, timeout=10)

    async def _start(self, port: int, credentials: grpc.ServerCredentials | None) -> int:
        self._server = aio.server(interceptors=list(self._interceptors), options=[("grpc.so_reuseport", 0)])
        self.service.register(self._server)
        where = f"localhost:{port}"
        if credentials is None:
            port = self._server.add_insecure_port(where)
        else:
            port = self._server.add_secure_port(where, credentials)
        await self._server.start()
        return port
