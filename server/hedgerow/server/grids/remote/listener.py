"""The gRPC server of a coordinator, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hedgerow.errors import RunError
from hedgerow.v1.fleet_pb2 import DESCRIPTOR
from hedgerow.wire.addresses import Address
from hedgerow.wire.transfers import MAX_FRAME_BYTES, decode_frame, encode_frame

__all__ = ["Listener", "Register", "register_devices"]

T = TypeVar("T")

Register = Callable[[aio.Server], None]
"""Adds a service to a server that has not started."""


class Listener:
    """Listens from the moment it is made until it is closed.

    Args:
        address: where; port 0 takes a free one.
        credentials: TLS; none when None.
        interceptors: see every call first.
        services: what is served, besides health and reflection.
        background: a coroutine that runs as long as it listens.

    Raises:
        RunError: the address cannot be listened on.
    """

    def __init__(
        self,
        address: Address,
        *,
        credentials: grpc.ServerCredentials | None,
        interceptors: Sequence[aio.ServerInterceptor],
        services: Sequence[Register],
        background: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._interceptors, self._services, self._background = interceptors, services, background
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._spin, name="hedgerow-listener", daemon=True)
        self._thread.start()
        try:
            port = self.call(self._start(address, credentials))
        except BaseException:
            self._stop_loop()
            raise
        self.address = Address(address.host, port)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the loop, from another thread, and gives what it gives.

        Raises:
            RunError: the thread has ended.
        """
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        while not future.done():
            with contextlib.suppress(TimeoutError):
                return future.result(1.0)
            if not self._thread.is_alive():
                raise RunError("the coordinator's listener has ended; start the same command again")
        return future.result()

    def close(self) -> None:
        """Ends all calls, and the thread."""
        if self._thread.is_alive():
            self.call(self._stop())
            self._stop_loop()

    def _spin(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def _stop_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    async def _start(self, address: Address, credentials: grpc.ServerCredentials | None) -> int:
        self._server = aio.server(
            interceptors=list(self._interceptors),
            options=[
                ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
                # Two coordinators on one port would each get half of the devices.
                ("grpc.so_reuseport", 0),
            ],
        )
        for register in self._services:
            register(self._server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        own = [service.full_name for service in DESCRIPTOR.services_by_name.values()]
        names = [*own, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server)
        try:
            if credentials is None:
                port = self._server.add_insecure_port(str(address))
            else:
                port = self._server.add_secure_port(str(address), credentials)
        except RuntimeError:
            port = 0
        if not port:
            raise RunError(f"{address} cannot be listened on; it is in use, or not an address of this machine")
        await self._server.start()
        for name in ("", *own):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._task = asyncio.create_task(self._background())
        return port

    async def _stop(self) -> None:
        self._task.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace=0.2)
        # The calls that it cancelled end a little later, and a loop that stops under them complains.
        if calls := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(calls, timeout=5)


def register_devices(attach: Callable[..., Coroutine[Any, Any, None]]) -> Register:
    """Registers the service `Devices`, whose frames may be encoded already."""

    def register(server: aio.Server) -> None:
        handler = grpc.stream_stream_rpc_method_handler(
            attach, request_deserializer=decode_frame, response_serializer=encode_frame
        )
        generic = grpc.method_handlers_generic_handler("hedgerow.v1.Devices", {"Attach": handler})
        server.add_generic_rpc_handlers((generic,))

    return register
