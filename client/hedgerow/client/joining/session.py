"""One connection to the coordinator: hello, welcome, then requests down, replies up and heartbeats both ways."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from hedgerow.client.joining.desk import Desk
from hedgerow.client.joining.progress import Progress
from hedgerow.v1.fleet_pb2 import (
    CAUSE_UNSPECIFIED,
    VERDICT_DAMAGED,
    Acknowledgement,
    Cause,
    Frame,
    Heartbeat,
    Hello,
    Welcome,
)
from hedgerow.wire.transfers import (
    ATTACH_METHOD,
    PROTOCOL,
    Assembler,
    Received,
    TransferError,
    encode_frame,
    frames_of,
)

__all__ = ["Ending", "attend"]

_WELCOME_SECONDS = 20.0
_LONGEST_SILENCE = 3600.0
_MOST_UNSENT = 1000
_NAME_CHARACTERS = 200

_Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes | Frame, bytes]"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a connection ended.

    Attributes:
        reason: for people.
        welcomed: whether the coordinator had let the device in.
        cause: why the coordinator dismissed it, if it did.
        code: gRPC's, where the call failed.
    """

    reason: str
    welcomed: bool = False
    cause: Cause = CAUSE_UNSPECIFIED
    code: grpc.StatusCode | None = None


class _ProtocolError(Exception):
    """The other end says what no coordinator says."""


async def attend(
    channel: grpc.aio.Channel,
    *,
    hello: Hello,
    desk: Desk,
    progress: Progress,
    limit: int,
    entered: Callable[[Welcome], bool],
) -> Ending:
    """Opens the stream and keeps it until it ends.

    Args:
        channel: to the coordinator; the caller closes it.
        hello: what is said first.
        desk: takes the requests and has the replies.
        progress: is told what was sent.
        limit: of a request's body, in bytes.
        entered: is told the welcome; whether a worker should be started before there is a request.

    Raises:
        RunError: the state folder cannot be used.
    """
    method: grpc.aio.StreamStreamMultiCallable[bytes | Frame, bytes] = channel.stream_stream(
        ATTACH_METHOD, request_serializer=encode_frame, response_deserializer=None
    )
    session = _Session(method(), desk=desk, progress=progress, limit=limit)
    try:
        return await session.keep(hello, entered=entered)
    except grpc.aio.AioRpcError as error:
        return Ending(error.details() or error.code().name, session.welcomed, code=error.code())
    except asyncio.InvalidStateError:
        # The call had ended before it was used.
        code = await session.call.code()
        return Ending(await session.call.details() or code.name, session.welcomed, code=code)
    except (_ProtocolError, DecodeError) as error:
        return Ending(f"the other end does not speak this protocol ({error})", session.welcomed)
    except TimeoutError:
        return Ending("nothing was heard from the coordinator", session.welcomed)
    finally:
        session.call.cancel()


class _Session:
    def __init__(self, call: _Call, *, desk: Desk, progress: Progress, limit: int) -> None:
        self.call, self.welcomed = call, False
        self._desk, self._progress = desk, progress
        self._frames: AsyncIterator[bytes] = aiter(call)
        self._assembler = Assembler(limit=limit)
        self._writing = asyncio.Lock()
        self._answers: asyncio.Queue[Frame] = asyncio.Queue(_MOST_UNSENT)

    async def keep(self, hello: Hello, *, entered: Callable[[Welcome], bool]) -> Ending:
        async with asyncio.timeout(_WELCOME_SECONDS):
            await self._write(Frame(hello=hello))
            first = await self._read()
        if first is None or first.WhichOneof("kind") == "dismissal":
            return self._dismissed(first)
        if first.WhichOneof("kind") != "welcome":
            raise _ProtocolError(f"{first.WhichOneof('kind')} came before the welcome")
        welcome = first.welcome
        _check(welcome)
        self.welcomed = True
        warm = entered(welcome)
        await self._desk.enter(welcome.run, run_config=welcome.run_config, node=welcome.node, warm=warm)
        silence = min(_LONGEST_SILENCE, welcome.silence_seconds)
        listening = asyncio.create_task(self._listen(silence=silence))
        speaking = {
            asyncio.create_task(self._answer()),
            asyncio.create_task(self._beat(every=min(silence, welcome.heartbeat_seconds))),
            asyncio.create_task(self._reply()),
        }
        try:
            waiting = {listening, *speaking}
            while not listening.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {listening}:
                    task.result()  # an error of ours must not pass unseen
            return listening.result()
        finally:
            for task in (listening, *speaking):
                task.cancel()
            await asyncio.gather(listening, *speaking, return_exceptions=True)

    async def _listen(self, *, silence: float) -> Ending:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(silence) as patience:
            while True:
                frame = await self._read()
                patience.reschedule(loop.time() + silence)
                if frame is None or frame.WhichOneof("kind") == "dismissal":
                    return self._dismissed(frame)
                self._hear(frame)

    def _hear(self, frame: Frame) -> None:
        match frame.WhichOneof("kind"):
            case "transfer":
                self._damaged(self._assembler.unfinished())
                self._assemble(lambda: self._assembler.begin(frame.transfer))
            case "chunk":
                self._assemble(lambda: self._assembler.add(frame.chunk))
            case "acknowledgement":
                self._desk.acknowledged(frame.acknowledgement)
            case "abandon":
                self._desk.abandon(frame.abandon.id)
            case "heartbeat":
                pass
            case kind:
                raise _ProtocolError(f"{kind or 'an unknown frame'} came in the midst of it")

    def _assemble(self, step: Callable[[], Received | None]) -> None:
        try:
            received = step()
        except TransferError as error:
            self._damaged(error)
            return
        if received is not None:
            self._say(Frame(acknowledgement=self._desk.take(received)))

    def _damaged(self, error: TransferError | None) -> None:
        if error is not None and error.id:
            reason = f"{error.damage}: {error}"
            self._say(Frame(acknowledgement=Acknowledgement(id=error.id[:64], verdict=VERDICT_DAMAGED, reason=reason)))

    def _dismissed(self, frame: Frame | None) -> Ending:
        if frame is None:
            return Ending("the coordinator closed the connection", self.welcomed)
        dismissal = frame.dismissal
        reason = dismissal.text or "the coordinator closed the connection"
        return Ending(reason, self.welcomed, cause=dismissal.cause)

    def _say(self, frame: Frame) -> None:
        # Not written here: who reads must never wait for who writes, or both ends could wait for each other.
        try:
            self._answers.put_nowait(frame)
        except asyncio.QueueFull:
            raise _ProtocolError("it sends more than it reads") from None

    async def _answer(self) -> None:
        while await self._write(await self._answers.get()):
            pass

    async def _beat(self, *, every: float) -> None:
        while True:
            if self._answers.empty():
                resident, working_on = self._desk.resident_bytes(), self._desk.working_on
                self._say(Frame(heartbeat=Heartbeat(resident_bytes=resident, working_on=working_on)))
            await asyncio.sleep(every)

    async def _reply(self) -> None:
        while True:
            reply = await self._desk.next_reply()
            if isinstance(reply, Acknowledgement):
                self._say(Frame(acknowledgement=reply))
                continue
            for frame in frames_of(reply.transfer, reply.body):
                if not await self._write(frame):
                    return
            if not reply.transfer.failure:
                self._progress.replied(reply.transfer.round, size=len(reply.body.data), seconds=reply.seconds)

    async def _write(self, frame: Frame | bytes) -> bool:
        async with self._writing:
            try:
                await self.call.write(frame)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # Why it ended, and what the coordinator said last, is for the one who reads.
                return False
        return True

    async def _read(self) -> Frame | None:
        data = await anext(self._frames, None)
        return None if data is None else Frame.FromString(data)


def _check(welcome: Welcome) -> None:
    if welcome.protocol != PROTOCOL:
        raise _ProtocolError(f"version {welcome.protocol}, here it is {PROTOCOL}")
    if not 0 < len(welcome.run) <= _NAME_CHARACTERS:
        raise _ProtocolError("the run has no possible name")
    times = (welcome.heartbeat_seconds, welcome.silence_seconds)
    if not all(math.isfinite(seconds) and seconds >= 0.01 for seconds in times):
        raise _ProtocolError(f"a heartbeat every {times[0]} s is not possible")
    try:
        config = json.loads(welcome.run_config)
    except ValueError:
        config = None
    if not isinstance(config, dict) or not all(isinstance(value, str | int | float) for value in config.values()):
        raise _ProtocolError("the run's configuration cannot be read")
