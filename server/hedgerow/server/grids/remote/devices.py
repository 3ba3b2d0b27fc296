"""The service `Devices`: lets devices in, and sends them away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc

from hedgerow.identity import Peer, Revocations
from hedgerow.server.grids.remote.entries import node_of
from hedgerow.server.grids.remote.guard import peer_in
from hedgerow.server.grids.remote.registry import Registry
from hedgerow.server.grids.remote.stream import Context, Stream, dismissal
from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.units import clean_text
from hedgerow.v1.fleet_pb2 import Frame, Hello, Welcome
from hedgerow.wire.transfers import PROTOCOL

__all__ = ["Devices", "Pace"]

_HELLO_SECONDS = 10.0
_LONGEST_NAME = 63
_MOST_HELD = 1000


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a heartbeat is due, and after what silence a connection is taken for lost, in seconds."""

    heartbeat: float = 1.0
    silence: float = 5.0


class Devices:
    """The service.

    Args:
        registry: the books.
        observer: is told who is not let in.
        run: the run's name.
        run_config: Flower's, for the devices' ClientApp, as JSON.
        reply_limit: bytes of a reply, at most.
        pace: of the heartbeats.
        revocations: whose certificate is no longer good; None without TLS.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        observer: FleetObserver,
        run: str,
        run_config: str,
        reply_limit: int,
        pace: Pace,
        revocations: Revocations | None,
    ) -> None:
        self._registry, self._observer, self._revocations = registry, observer, revocations
        self._run, self._run_config, self._reply_limit, self._pace = run, run_config, reply_limit, pace
        self._streams: set[Stream] = set()
        self._closing: str | None = None

    async def attach(self, frames: AsyncIterator[Frame], context: Context) -> None:
        """Serves one device until either end has had enough."""
        peer = peer_in(context)
        hello = await self._greeting(context)
        name = await self._admitted(hello, peer, context)
        welcome = Welcome(
            protocol=PROTOCOL,
            node=node_of(name),
            run=self._run,
            run_config=self._run_config,
            heartbeat_seconds=self._pace.heartbeat,
            silence_seconds=self._pace.silence,
        )
        if self._closing is not None:
            await context.write(Frame(welcome=welcome))
            await context.write(dismissal(self._closing))
            return
        stream = Stream(name, peer, context, self._registry, self._reply_limit)
        stream.put(Frame(welcome=welcome))
        before = self._registry.attach(hello, name=name, address=context.peer(), link=stream)
        if isinstance(before, Stream):
            # The same process comes back over another connection, or a second one uses the same identity.
            before.dismiss("silent" if before.instance == hello.instance else "replaced")
        stream.instance = hello.instance
        self._streams.add(stream)
        try:
            await stream.serve()
        finally:
            self._streams.discard(stream)
            self._registry.detach(name, stream, cause=stream.cause)

    async def watch(self) -> None:
        """Ends silent and revoked streams, and gives up on devices that stay away; runs for ever."""
        while True:
            await asyncio.sleep(min(0.25, self._pace.heartbeat / 2))
            for stream in list(self._streams):
                if self._revocations is not None and stream.peer and self._revocations.is_revoked(stream.peer.serial):
                    stream.dismiss("evicted", "this identity was revoked")
                elif self._registry.silence(stream.name) > self._pace.silence:
                    stream.drop()
            self._registry.give_up()

    def evict(self, name: str) -> None:
        """Ends the stream of a device that was shut out."""
        for stream in self._streams:
            if stream.name == name:
                stream.dismiss("evicted", "an operator evicted this device")

    async def dismiss_all(self, cause: str) -> None:
        """Tells every device why the coordinator goes, and whoever comes from now on; waits until they know."""
        self._closing = cause
        for stream in list(self._streams):
            stream.dismiss(cause)
        for _ in range(100):
            if not self._streams:
                return
            await asyncio.sleep(0.02)

    async def _greeting(self, context: Context) -> Hello:
        first: object = None
        with contextlib.suppress(TimeoutError):
            first = await asyncio.wait_for(context.read(), _HELLO_SECONDS)
        if not isinstance(first, Frame) or first.WhichOneof("kind") != "hello":
            self._observer.refused(reason="hello")
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame has to be a Hello")
        assert isinstance(first, Frame)
        return first.hello

    async def _admitted(self, hello: Hello, peer: Peer | None, context: Context) -> str:
        name = peer.name if peer is not None else hello.device
        if hello.protocol != PROTOCOL:
            self._observer.refused(reason="protocol")
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this coordinator speaks version {PROTOCOL} of the protocol, and the device version {hello.protocol}; "
                "install the same version of hedgerow on both",
            )
        possible = 0 < len(name) <= _LONGEST_NAME and name == clean_text(name) and len(hello.instance) == 16
        if not possible or len(hello.held) > _MOST_HELD or hello.device not in ("", name):
            self._observer.refused(reason="hello")
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"the device calls itself {clean_text(hello.device)[:_LONGEST_NAME]!r}, and its identity says {name!r}"
                if peer is not None
                else "the device's name or instance is not a possible one",
            )
        if self._registry.is_evicted(name):
            self._observer.refused(reason="evicted")
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "an operator evicted this device")
        return name
