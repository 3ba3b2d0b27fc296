"""A device that speaks the wire and does no work, light enough for hundreds of them in one process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable

import grpc
from flwr.app import Message
from grpc import aio

from hedgerow.v1 import fleet_pb2
from hedgerow.v1.fleet_pb2 import Acknowledgement, Frame, Heartbeat, Hello, Transfer, Welcome
from hedgerow.wire.flower import content_of, decode_message, encode_message, identify_process
from hedgerow.wire.transfers import (
    ATTACH_METHOD,
    MAX_FRAME_BYTES,
    PROTOCOL,
    Assembler,
    Body,
    Received,
    encode_frame,
    frames_of,
)

__all__ = ["StubDevice", "reply_to"]

Call = aio.StreamStreamCall[Frame | bytes, Frame]


def reply_to(request: bytes, payload: bytes = b"ok") -> bytes:
    """A reply with this payload."""
    identify_process(node_id=7)
    return encode_message(Message(content_of(payload), reply_to=decode_message(request)))


class StubDevice:
    """One device.

    Args:
        address: the coordinator's.
        name: its own.
        answer: a reply's bytes for a request's; None = no reply.
        credentials: TLS; none when None.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        answer: Callable[[bytes], bytes | None] = reply_to,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address, self.name, self.answer, self.credentials = address, name, answer, credentials
        self.instance = hashlib.sha256(name.encode()).digest()[:16]
        self.requests: list[Received] = []
        self.acknowledgements: list[Acknowledgement] = []
        self.welcome: Welcome | None = None
        self.dismissal: int | None = None
        self.held: list[str] = []
        self.beats = True
        self.welcomed = asyncio.Event()
        self._out: asyncio.Queue[Frame | bytes | None] = asyncio.Queue()

    async def run(self) -> None:
        """Attaches, and answers until the stream ends."""
        options = [("grpc.max_receive_message_length", MAX_FRAME_BYTES)]
        channel = (
            aio.insecure_channel(self.address, options=options)
            if self.credentials is None
            else aio.secure_channel(self.address, self.credentials, options=options)
        )
        async with channel:
            attach = channel.stream_stream(
                ATTACH_METHOD, request_serializer=encode_frame, response_deserializer=Frame.FromString
            )
            assembler, call = Assembler(limit=1 << 30), attach()
            tasks = [asyncio.create_task(self._write(call))]
            hello = Hello(
                protocol=PROTOCOL,
                device=self.name,
                instance=self.instance,
                held=self.held,
                memory_bytes=1 << 30,
                cores=1,
            )
            self.put(Frame(hello=hello))
            try:
                async for frame in call:
                    kind = frame.WhichOneof("kind")
                    if kind == "welcome":
                        self.welcome = frame.welcome
                        tasks.append(asyncio.create_task(self._beat(frame.welcome.heartbeat_seconds)))
                        self.welcomed.set()
                    elif kind == "acknowledgement":
                        self.acknowledgements.append(frame.acknowledgement)
                    elif kind == "dismissal":
                        self.dismissal = frame.dismissal.cause
                    elif kind in ("transfer", "chunk"):
                        received = assembler.begin(frame.transfer) if kind == "transfer" else assembler.add(frame.chunk)
                        if received is not None:
                            self._received(received)
            finally:
                call.cancel()
                for task in tasks:
                    task.cancel()

    def put(self, frame: Frame | bytes | None) -> None:
        """Sends a frame, bad ones too; None closes this end."""
        self._out.put_nowait(frame)

    def reply(self, request: Received, body: bytes) -> None:
        """Sends a reply to a request."""
        transfer = Transfer(id=request.transfer.id, run=request.transfer.run, round=request.transfer.round, attempt=1)
        for frame in frames_of(transfer, Body(body)):
            self.put(frame)

    def acknowledge(self, request: Received) -> None:
        """Says that a request came intact."""
        self.put(Frame(acknowledgement=Acknowledgement(id=request.transfer.id, verdict=fleet_pb2.VERDICT_TAKEN)))

    def _received(self, received: Received) -> None:
        self.requests.append(received)
        self.acknowledge(received)
        body = self.answer(received.transfer.envelope + received.body)
        if body is not None:
            self.reply(received, body)

    async def _write(self, call: Call) -> None:
        # The stream's end is told by who reads.
        with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
            while (frame := await self._out.get()) is not None:
                await call.write(frame)
            await call.done_writing()

    async def _beat(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            if self.beats:
                self.put(Frame(heartbeat=Heartbeat(resident_bytes=1)))
