"""Thousands of damaged replies against a grid and a fold: none may crash them, count twice, or change what is right.

At the level of frames each request is answered by the mutant of a true reply, and then by the true one: in the end
there is one outcome for each, the true reply or a failure with its reason. At the level of messages the mutant is whole
and its digest right, and what the fold makes of all of them has to be what it makes of the accepted ones alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import grpc
import numpy as np
from flwr.app import Message

from benchmarks.faults.mutants import mutant_frames, mutant_reply
from benchmarks.processes import wait_until
from benchmarks.stub_device import StubDevice
from hedgerow.codec import Header, encode_payload
from hedgerow.config import PrivacySettings, WireSettings
from hedgerow.exchange import Architecture, Exchange, Measures
from hedgerow.privacy import seeded_words
from hedgerow.representation import Values, Weights
from hedgerow.server.aggregation import FloatMean, Nested
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.fold import Fold
from hedgerow.server.grids.fleet import GridFleet
from hedgerow.server.grids.remote.entries import node_of
from hedgerow.server.grids.remote.grid import RemoteGrid
from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.server.reading import Reader
from hedgerow.v1 import fleet_pb2
from hedgerow.v1 import payload_pb2 as pb
from hedgerow.wire.addresses import Address
from hedgerow.wire.flower import content_of, decode_message, encode_message, identify_process, payload_in
from hedgerow.wire.transfers import Received

__all__ = ["fuzz_frames", "fuzz_messages", "valid_reply"]

_KEPT, _FLOATS, _DEVICES, _BATCH = 300, 40, 8, 100
_HEADER = Header(experiment=bytes(6), round=1, mask_digest=bytes(16))
_MEASURES = Measures(
    examples=20,
    loss=1.5,
    seconds=0.25,
    forward_bytes=1000.0,
    backward_bytes=900.0,
    update_bytes=800.0,
    native_share=0.5,
)
_EXCHANGE = Exchange(
    Architecture({"weight": (_KEPT,)}, {"mean": (_FLOATS // 2,), "variance": (_FLOATS // 2,)}, (False, True)),
    Weights(),
    Values(pb.KIND_FLOATS, WireSettings(), PrivacySettings()),
)
_VERSION = _EXCHANGE.version(
    1,
    _HEADER.mask_digest,
    kept=np.zeros(_KEPT, dtype=np.float32),
    floats=np.ones(_FLOATS, dtype=np.float32),
    layers=[_KEPT],
)
_SECONDS = 60.0


class _Counts(FleetObserver):
    def __init__(self) -> None:
        self.rejections: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def rejected(self, name: str, *, reason: str) -> None:
        self.rejections[reason] += 1

    def late(self, name: str) -> None:
        self.rejections["late"] += 1

    def detached(self, name: str, *, cause: str) -> None:
        self.ends[cause] += 1


class _FrameFuzzer(StubDevice):
    """Answers one request after the other, each with a mutant and then truly."""

    def __init__(self, address: str, name: str, *, dice: random.Random) -> None:
        super().__init__(address, name)
        self._dice = dice
        self._tried: set[str] = set()
        self._answered = asyncio.Event()
        self._requests: asyncio.Queue[Received] = asyncio.Queue()
        self.at_once = 0

    async def for_ever(self) -> None:
        """Attaches again whenever a mutant has ended the stream."""
        while True:
            self._out, self._requests = asyncio.Queue(), asyncio.Queue()
            work = asyncio.create_task(self._work())
            try:
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await self.run()
            finally:
                work.cancel()

    def _received(self, received: Received) -> None:
        self.acknowledge(received)
        self._requests.put_nowait(received)

    async def _work(self) -> None:
        while True:
            received = await self._requests.get()
            id, reply = received.transfer.id, _true_reply(received.transfer.envelope + received.body)
            if id not in self._tried:
                # Once for each: a mutant that ends the stream makes the coordinator ask again.
                self._tried.add(id)
                self.acknowledgements.clear()
                for frame in mutant_frames(id, received.transfer.round, reply, self._dice):
                    self.put(frame)
            self.reply(received, reply)
            await self._settled(id)

    async def _settled(self, id: str) -> None:
        over = (fleet_pb2.VERDICT_TAKEN, fleet_pb2.VERDICT_UNWANTED)
        while not any(a.id == id and a.verdict in over for a in self.acknowledgements):
            await asyncio.sleep(0)


def fuzz_frames(payloads: int, *, seed: int) -> dict[str, float]:
    """Figures of mutants at the level of frames, `fuzz.frames.…`.

    Raises:
        AssertionError: something was lost, counted twice or taken though it was wrong.
    """
    counts, dice = _Counts(), random.Random(seed)
    truth = payload_in(decode_message(valid_reply()).content)
    outcomes: Counter[str] = Counter()
    ended = 0
    with RemoteGrid(Address("127.0.0.1", 0), run="fuzz", run_config="{}", observer=counts, reply_limit=1 << 20) as grid:
        fuzzer = _FrameFuzzer(str(grid.address), "fuzzer", dice=dice)
        with _spinning(fuzzer.for_ever):
            wait_until(lambda: bool(list(grid.get_node_ids())), "the fuzzer has attached", seconds=_SECONDS)
            for at in range(0, payloads, _BATCH):
                rounds = range(at, min(at + _BATCH, payloads))
                content = content_of(b"x")
                messages = [Message(content, node_of("fuzzer"), "train", group_id=str(k + 1)) for k in rounds]
                asked = dict.fromkeys(grid.push_messages(messages), 0)
                end = time.monotonic() + _SECONDS
                while not all(asked.values()):
                    assert time.monotonic() < end, "a request has no outcome"
                    replies = list(grid.pull_messages(list(asked)))
                    for reply in replies:
                        asked[reply.metadata.reply_to_message_id] += 1
                        outcomes[_outcome(reply, truth)] += 1
                    if not replies:
                        grid.wait(0.05)
                assert set(asked.values()) == {1}, "a request has more than one outcome"
                assert not list(grid.pull_messages(list(asked))), "a request has one outcome more"
            ended = counts.ends["lost"]
    assert outcomes["wrong"] == 0, f"{outcomes['wrong']} replies were taken that are not the true one"
    assert sum(outcomes.values()) == payloads, "a request has no outcome"
    # Whatever else ends a stream would be an error in reading what came.
    assert ended <= counts.rejections["not_a_frame"], (
        f"{ended} streams ended, more than there were frames that are none"
    )
    return {
        "fuzz.frames.payloads": payloads,
        "fuzz.frames.true": outcomes["true"],
        "fuzz.frames.failed": outcomes["failed"],
        "fuzz.frames.streams_ended": ended,
        **{f"fuzz.frames.rejected.{reason}": count for reason, count in sorted(counts.rejections.items())},
    }


def fuzz_messages(payloads: int, *, seed: int) -> dict[str, float]:
    """Figures of mutants at the level of messages, `fuzz.messages.…`.

    Raises:
        AssertionError: a rejected one changed something, or one is neither accepted nor rejected.
    """
    identify_process()
    dice, lock = random.Random(seed), threading.Lock()

    def answer(request: bytes) -> bytes:
        with lock:
            return mutant_reply(_true_reply(request), dice)

    fold, taken = _new_fold(), list[Reply]()
    with RemoteGrid(Address("127.0.0.1", 0), run="fuzz", run_config="{}") as grid:
        devices = [StubDevice(str(grid.address), f"fuzzer-{k}", answer=answer) for k in range(_DEVICES)]
        with _spinning(*(device.run for device in devices)):
            wait_until(
                lambda: len(list(grid.get_node_ids())) == _DEVICES, "all fuzzers have attached", seconds=_SECONDS
            )
            fleet = GridFleet(grid)
            nodes, number = fleet.nodes(), 0
            while len(fold.answered) < payloads:
                number += 1
                wanted = [Request(node, b"x") for node in nodes[: payloads - len(fold.answered)]]
                for reply in fleet.exchange(wanted, round=number, over=lambda: False):
                    # Each as if it were another client's, since a second one of the same is refused anyway.
                    reply = dataclasses.replace(reply, node=len(fold.answered))
                    fold.take(reply, name=str(reply.node))
                    if reply.node in fold.clients:
                        taken.append(reply)
    accepted = _new_fold()
    for reply in taken:
        accepted.take(reply, name=str(reply.node))
    assert len(fold.answered) == payloads == len(taken) + len(fold.failures), "one is neither accepted nor rejected"
    same = np.array_equal(fold.kept.mean(), accepted.kept.mean()) and np.array_equal(
        fold.floats.mean(), accepted.floats.mean()
    )
    assert same, "a rejected reply changed the sums"
    kinds = Counter(failure.kind for failure in fold.failures)
    return {
        "fuzz.messages.payloads": payloads,
        "fuzz.messages.accepted": len(taken),
        **{f"fuzz.messages.rejected.{kind}": count for kind, count in sorted(kinds.items())},
    }


def valid_reply() -> bytes:
    """A reply's message to a request for round 1."""
    identify_process()
    return _true_reply(encode_message(Message(content_of(b"x"), node_of("fuzzer"), "train", group_id="1")))


def _new_fold() -> Fold:
    return Fold(
        {0: Reader(_HEADER, _VERSION, [_KEPT], _EXCHANGE)},
        kept=Nested([FloatMean(_KEPT)], places=[None], count=_KEPT),
        floats=Nested([FloatMean(_FLOATS)], places=[None], count=_FLOATS),
    )


def _true_reply(request: bytes) -> bytes:
    values = np.linspace(0.1, 1, _KEPT + _FLOATS, dtype=np.float32)
    generator = np.random.Generator(np.random.PCG64(0))
    said = _EXCHANGE.reply(
        values[:_KEPT],
        values[_KEPT:],
        version=_VERSION,
        layers=[_KEPT],
        memory=(None, None),
        generator=generator,
        draw=seeded_words(generator),
    )
    payload = encode_payload(_HEADER.of_reply(), [*(one.section for one in said), _MEASURES.section()])
    identify_process(node_id=7)
    return encode_message(Message(content_of(payload), reply_to=decode_message(request)))


def _outcome(reply: Message, truth: bytes) -> str:
    if reply.has_error():
        return "failed"
    return "true" if payload_in(reply.content) == truth else "wrong"


@contextlib.contextmanager
def _spinning(*functions: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Runs coroutines in a thread with a loop of its own as long as the block lasts."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def end() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    for function in functions:
        asyncio.run_coroutine_threadsafe(function(), loop)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
