"""A device that trains as it should and then replies as it should not.

`python -m benchmarks.faults.saboteur ADDRESS IDENTITY PART/PARTS PLAN`, the plan being JSON: for each round a list of
what to do. It prints what it does. After what a coordinator can see on arrival (`FRAMES`) it sends the true reply; what
it can only see later (`REPLIES`) stands for the true reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import struct
import sys
from dataclasses import replace
from pathlib import Path

import grpc

from benchmarks.stub_device import StubDevice
from hedgerow.client.joining.worker import Answer, WorkerProcess
from hedgerow.codec import decode_payload, encode_payload
from hedgerow.identity import channel_credentials, read_identity
from hedgerow.v1 import fleet_pb2
from hedgerow.v1 import payload_pb2 as pb
from hedgerow.v1.fleet_pb2 import Chunk, Frame, Transfer
from hedgerow.wire.flower import content_of, decode_message, encode_message, payload_in
from hedgerow.wire.transfers import Body, Received

__all__ = ["FRAMES", "REPLIES", "damaged_frames", "false_reply"]

FRAMES = ("reordered", "truncated", "over-long", "wrong digest", "bad header", "stray chunk", "unrequested")
"""What is wrong with the frames."""
REPLIES = ("NaN", "random bytes", "random payload", "another round", "impossible counts", "announced too large")
"""What is wrong with the reply."""


class Saboteur(StubDevice):
    """Does to round N what the Nth entry of `plan` says."""

    def __init__(self, address: str, identity: Path, *, part: tuple[int, int], plan: list[list[str]]) -> None:
        found = read_identity(identity, role="device")
        super().__init__(address, found.name, credentials=channel_credentials(found))
        self._part, self._plan = part, plan
        self._worker: WorkerProcess | None = None
        self._states: dict[int, bytes] = {0: b""}
        self._replies: dict[str, bytes] = {}
        self._work: set[asyncio.Task[None]] = set()

    async def until_finished(self) -> None:
        """Attaches, again and again, until the run is over."""
        while self.dismissal != fleet_pb2.CAUSE_FINISHED:
            self._out = asyncio.Queue()
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self.run()
            await asyncio.sleep(0.3)
        if self._worker is not None:
            self._worker.close()

    def _received(self, received: Received) -> None:
        self.requests.append(received)
        self.acknowledge(received)
        task = asyncio.create_task(self._serve(received))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _serve(self, received: Received) -> None:
        transfer = received.transfer
        if transfer.id not in self._replies:
            self._replies[transfer.id] = await asyncio.to_thread(self._train, received)
            for what in self._plan[transfer.round - 1]:
                print(f"round {transfer.round}: {what}", flush=True)
                if not await self._do(what, received):
                    return
        self.reply(received, self._replies[transfer.id])

    async def _do(self, what: str, received: Received) -> bool:
        """Does it, and says whether the reply is still to be sent."""
        id, round = received.transfer.id, received.transfer.round
        reply = self._replies[id]
        if what == "no frame":
            # This stream is over then, and the request comes again over the next one.
            self.put(os.urandom(64))
        elif what == "failure":
            self.put(Frame(transfer=Transfer(id=id, round=round, failure="sabotage", sha256=Body(b"").sha256)))
        elif what == "announced too large":
            self.put(Frame(transfer=Transfer(id=id, round=round, size=1 << 40, sha256=bytes(32))))
        elif what == "duplicate":
            for _ in range(3):
                self.reply(received, reply)
        elif what in REPLIES:
            self._replies[id] = false_reply(what, reply)
            return True
        else:
            before = len(self.acknowledgements)
            for frame in damaged_frames(what, id, round, reply):
                self.put(frame)
            # What is cut off is only seen when the next one begins.
            if what != "truncated":
                await self._acknowledged(before)
            return True
        return False

    async def _acknowledged(self, before: int) -> None:
        async with asyncio.timeout(10):
            while len(self.acknowledgements) == before:
                await asyncio.sleep(0.01)

    def _train(self, received: Received) -> bytes:
        assert self.welcome is not None
        if self._worker is None:
            self._worker = WorkerProcess(self.welcome.run_config)
        number = received.transfer.round
        # A round that is played again starts from the state before it.
        state = self._states[max(known for known in self._states if known < number)]
        part, parts = self._part
        node = {"client": part, "data": "digits", "partition-id": part, "num-partitions": parts}
        answer = self._worker.answer(received.transfer.envelope + received.body, state=state, node_config=node)
        assert isinstance(answer, Answer), answer
        self._states[number] = answer.state
        return answer.message


def damaged_frames(what: str, id: str, round: int, body: bytes) -> list[Frame]:
    """A reply of at least two bytes as frames, with one of `FRAMES` wrong."""
    half = len(body) // 2
    first, second = _chunk(0, body[:half]), _chunk(half, body[half:])
    match what:
        case "reordered":
            return [_head(id, round, body), second, first]
        case "truncated":
            return [_head(id, round, body), first]
        case "over-long":
            return [_head(id, round, body), first, _chunk(half, body[half:] + b"x")]
        case "wrong digest":
            return [_head(id, round, body), _chunk(0, bytes([body[0] ^ 1]) + body[1:half]), second]
        case "bad header":
            return [Frame(transfer=Transfer(id=id, round=round, size=len(body), sha256=b"short"))]
        case "stray chunk":
            return [first]
        case "unrequested":
            return [_head("f" * 32, round, body), first, second]
    raise AssertionError(what)


def false_reply(what: str, reply: bytes) -> bytes:
    """A reply with one of `REPLIES` wrong; it is whole, and its digest will be right."""
    if what == "random bytes":
        return os.urandom(len(reply))
    message = decode_message(reply)
    payload = payload_in(message.content)
    match what:
        case "random payload":
            payload = os.urandom(len(payload))
        case "NaN":
            payload = _with_examples(payload, math.nan)
        case "another round":
            header, sections = decode_payload(payload, limit=len(payload))
            payload = encode_payload(replace(header, round=header.round + 1), sections.values())
        case "impossible counts":
            payload = _with_examples(payload, -1.0)
    message.content = content_of(payload)
    return encode_message(message)


def _head(id: str, round: int, body: bytes) -> Frame:
    digest = Body(body).sha256
    return Frame(transfer=Transfer(id=id, round=round, attempt=1, size=len(body), sha256=digest))


def _chunk(offset: int, data: bytes) -> Frame:
    return Frame(chunk=Chunk(offset=offset, data=data))


def _with_examples(payload: bytes, value: float) -> bytes:
    # The first of the counts. Quantised changes cannot be what is not a number.
    parsed = pb.Payload.FromString(payload)
    for section in parsed.sections:
        if section.kind == pb.KIND_COUNTS:
            section.data = struct.pack("<f", value) + section.data[4:]
    return parsed.SerializeToString()


def _main(address: str, identity: str, part: str, plan: str) -> None:
    k, _, of = part.partition("/")
    saboteur = Saboteur(address, Path(identity), part=(int(k), int(of)), plan=json.loads(plan))
    asyncio.run(saboteur.until_finished())


if __name__ == "__main__":
    _main(*sys.argv[1:])
