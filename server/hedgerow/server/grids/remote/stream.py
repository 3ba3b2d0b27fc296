"""The service `Devices`: one stream a device, from Hello to Dismissal."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from hedgerow.identity import Peer, Revocations
from hedgerow.server.grids.remote.guard import peer_in
from hedgerow.server.grids.remote.registry import Registry, Request, Verdict, node_of
from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.units import clean_text
from hedgerow.v1 import fleet_pb2
from hedgerow.v1.fleet_pb2 import Abandon, Acknowledgement, Chunk, Dismissal, Frame, Heartbeat, Hello, Transfer, Welcome
from hedgerow.wire.transfers import PROTOCOL, Assembler, Received, TransferError, frames_of

__all__ = ["Devices", "Pace"]

_HELLO_SECONDS = 10.0
_LONGEST_NAME = 63
_MOST_HELD = 1000

Context: TypeAlias = "grpc.aio.ServicerContext[Frame, Frame | bytes]"

_VERDICTS: dict[Verdict, fleet_pb2.Verdict] = {
    "taken": fleet_pb2.VERDICT_TAKEN,
    "damaged": fleet_pb2.VERDICT_DAMAGED,
    "unwanted": fleet_pb2.VERDICT_UNWANTED,
}
_CAUSES = {
    "finished": fleet_pb2.CAUSE_FINISHED,
    "replaced": fleet_pb2.CAUSE_REPLACED,
    "evicted": fleet_pb2.CAUSE_EVICTED,
    "stopping": fleet_pb2.CAUSE_STOPPING,
    "silent": fleet_pb2.CAUSE_SILENT,
}


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
        self._streams: set[_Stream] = set()
        self._finished = False

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
        if self._finished:
            await context.write(Frame(welcome=welcome))
            await context.write(_dismissal("finished"))
            return
        stream = _Stream(name, peer, context, self._registry, self._reply_limit)
        stream.put(Frame(welcome=welcome))
        before = self._registry.attach(hello, name=name, address=context.peer(), link=stream)
        if isinstance(before, _Stream):
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

    async def finish(self) -> None:
        """The run is done: tells every device, and whoever comes from now on."""
        self._finished = True
        await self.dismiss_all("finished")

    async def dismiss_all(self, cause: str) -> None:
        """Tells every device why the coordinator goes, and waits a little until they know."""
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


class _Stream:
    """One device's stream, and its `Link` in the books."""

    def __init__(self, name: str, peer: Peer | None, context: Context, registry: Registry, reply_limit: int) -> None:
        self.name, self.peer, self.instance = name, peer, b""
        self.cause = "lost"
        self._context, self._registry = context, registry
        self._assembler = Assembler(limit=reply_limit)
        self._bytes_up = 0
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Frame | Request | None] = deque()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._dismissed = False

    # Link

    def send(self, request: Request) -> None:
        """See `Link`."""
        self._loop.call_soon_threadsafe(self.put, request)

    def abandon(self, id: str) -> None:
        """See `Link`."""
        self._loop.call_soon_threadsafe(self.put, Frame(abandon=Abandon(id=id)))

    # Within the loop

    def put(self, item: Frame | Request | None) -> None:
        """Queues a frame or a request; None ends the stream."""
        self._waiting.append(item)
        self._wake.set()

    def dismiss(self, cause: str, text: str = "") -> None:
        """Says why, and ends the stream after all that is queued before it was sent."""
        if self._dismissed:
            return
        self.cause, self._dismissed = cause, True
        self.put(_dismissal(cause, text))
        self.put(None)
        # A device that takes nothing any more must not keep the stream open.
        self._loop.call_later(2.0, self._cancel)

    def drop(self) -> None:
        """Ends a stream whose device is silent, without a word that it could not hear."""
        self.cause = "silent"
        self._cancel()

    async def serve(self) -> None:
        """Reads and writes until either ends."""
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._cancel()
            for task in self._tasks:
                # Whatever ended it, the device is gone; it comes back or is given up on.
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _write(self) -> None:
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            item = self._waiting.popleft()
            if item is None:
                return
            if isinstance(item, Request):
                for frame in _request_frames(item):
                    await self._context.write(frame)
            else:
                await self._context.write(item)

    async def _read(self) -> None:
        while True:
            frame: object = await self._context.read()
            if isinstance(frame, bytes):
                # What follows cannot be trusted to be in step; the device comes back over a new stream.
                error = TransferError("bytes came that are no frame", damage="not_a_frame", id="")
                self._registry.damaged(self.name, error)
                return
            if not isinstance(frame, Frame):
                return  # grpc.aio.EOF
            kind = frame.WhichOneof("kind")
            if kind == "heartbeat":
                beat = frame.heartbeat
                self._registry.heard(
                    self.name, resident_bytes=beat.resident_bytes, working_on=beat.working_on[:_LONGEST_NAME]
                )
                self.put(Frame(heartbeat=Heartbeat()))
                continue
            self._registry.heard(self.name)
            if kind == "transfer":
                self._take(frame.transfer, frame.ByteSize())
            elif kind == "chunk":
                self._take(frame.chunk, frame.ByteSize())
            elif kind == "acknowledgement":
                self._acknowledged(frame.acknowledgement)

    def _take(self, piece: Transfer | Chunk, size: int) -> None:
        assembler = self._assembler
        try:
            if isinstance(piece, Transfer):
                if (unfinished := assembler.unfinished()) is not None:
                    self._answer(unfinished.id, self._registry.damaged(self.name, unfinished), str(unfinished))
                self._bytes_up = size
                received: Received | None = assembler.begin(piece)
            else:
                self._bytes_up += size
                received = assembler.add(piece)
        except TransferError as error:
            self._answer(error.id, self._registry.damaged(self.name, error), str(error))
            return
        if received is not None:
            verdict = self._registry.receive(self.name, received, bytes_up=self._bytes_up)
            self._answer(received.transfer.id, verdict, "")

    def _answer(self, identifier: str, verdict: Verdict, reason: str) -> None:
        acknowledgement = Acknowledgement(id=identifier[:64], verdict=_VERDICTS[verdict], reason=reason)
        self.put(Frame(acknowledgement=acknowledgement))

    def _acknowledged(self, acknowledgement: Acknowledgement) -> None:
        if acknowledgement.verdict == fleet_pb2.VERDICT_DAMAGED:
            request = self._registry.again(self.name, acknowledgement.id)
            if request is not None:
                self.put(request)


def _dismissal(cause: str, text: str = "") -> Frame:
    return Frame(dismissal=Dismissal(cause=_CAUSES[cause], text=text))


def _request_frames(request: Request) -> Iterator[bytes]:
    if request.over:
        return
    request.transfer.attempt += 1
    for frame in frames_of(request.transfer, request.body):
        request.bytes_down += len(frame)
        yield frame
