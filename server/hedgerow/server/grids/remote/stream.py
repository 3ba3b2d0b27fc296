"""One device's stream, from Welcome to Dismissal."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from typing import TypeAlias

import grpc

from hedgerow.identity import Peer
from hedgerow.server.grids.remote.entries import Request
from hedgerow.server.grids.remote.registry import Registry, Verdict
from hedgerow.v1 import fleet_pb2
from hedgerow.v1.fleet_pb2 import Abandon, Acknowledgement, Chunk, Dismissal, Frame, Heartbeat, Transfer
from hedgerow.wire.transfers import Assembler, Received, TransferError, frames_of

__all__ = ["Context", "Stream", "dismissal"]

_LONGEST_ID = 64
_MOST_WAITING = 1000
"""Frames and requests that a device has yet to read."""

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


class Stream:
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
        self._loop.call_soon_threadsafe(self._forget, id)

    # Within the loop

    def put(self, item: Frame | Request | None) -> None:
        """Queues a frame or a request; None ends the stream."""
        self._waiting.append(item)
        self._wake.set()
        if len(self._waiting) > _MOST_WAITING:
            self.drop()  # it sends, and does not read

    def dismiss(self, cause: str, text: str = "") -> None:
        """Says why, and ends the stream after all that is queued before it was sent."""
        if self._dismissed:
            return
        self.cause, self._dismissed = cause, True
        self.put(dismissal(cause, text))
        self.put(None)
        # A device that takes nothing any more must not keep the stream open.
        self._loop.call_later(2.0, self._cancel)

    def drop(self) -> None:
        """Ends a stream whose device is silent, without a word that it could not hear."""
        self.cause = "silent"
        self._cancel()

    def _forget(self, id: str) -> None:
        # A device that does not read must not keep the bodies of rounds that are over.
        self._waiting = deque(i for i in self._waiting if not (isinstance(i, Request) and i.over))
        self.put(Frame(abandon=Abandon(id=id)))

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
                    if item.over:
                        break  # the device sees by the next transfer that this one was cut short
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
                    self.name, resident_bytes=beat.resident_bytes, working_on=beat.working_on[:_LONGEST_ID]
                )
                if not self._waiting:
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
        acknowledgement = Acknowledgement(id=identifier[:_LONGEST_ID], verdict=_VERDICTS[verdict], reason=reason)
        self.put(Frame(acknowledgement=acknowledgement))

    def _acknowledged(self, acknowledgement: Acknowledgement) -> None:
        if acknowledgement.verdict == fleet_pb2.VERDICT_DAMAGED:
            request = self._registry.again(self.name, acknowledgement.id)
            if request is not None:
                self.put(request)


def dismissal(cause: str, text: str = "") -> Frame:
    """The last frame of a stream."""
    return Frame(dismissal=Dismissal(cause=_CAUSES[cause], text=text))


def _request_frames(request: Request) -> Iterator[bytes]:
    if request.over:
        return
    request.transfer.attempt += 1
    for frame in frames_of(request.transfer, request.body):
        request.bytes_down += len(frame)
        yield frame
