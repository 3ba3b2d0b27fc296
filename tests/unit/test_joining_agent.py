"""A device on a real socket, against a coordinator that a test leads; the worker is a stub."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hedgerow.client.joining.session import Ending
from hedgerow.client.joining.store import Kept, RunStore
from hedgerow.errors import ConnectionLostError, IdentityError
from hedgerow.v1.fleet_pb2 import (
    CAUSE_EVICTED,
    CAUSE_FINISHED,
    CAUSE_REPLACED,
    CAUSE_STOPPING,
    VERDICT_DAMAGED,
    VERDICT_TAKEN,
    VERDICT_UNWANTED,
    Abandon,
    Cause,
    Chunk,
    Frame,
    Heartbeat,
    Transfer,
)
from tests.device_thread import Running, StubWorker
from tests.fake_coordinator import FakeCoordinator, Stream
from tests.waiting import until

A, B, C = (letter * 32 for letter in "abc")
RUN = "run-1"


Join = Callable[..., Running]


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    StubWorker.made = []
    running: list[Running] = []

    def start(address: str, **options: Any) -> Running:
        running.append(Running(address, tmp_path / "state", **options))
        return running[-1]

    yield start
    for one in running:
        one.leave()


def asked() -> list[tuple[bytes, bytes, dict[str, object]]]:
    return [question for worker in StubWorker.made for question in worker.asked]


def ask(stream: Stream, id: str, body: bytes, *, round: int = 1) -> None:
    stream.request(id, run=RUN, round=round, body=body)


def replies(stream: Stream) -> dict[str, bytes]:
    return {received.transfer.id: received.body for received in stream.replies}


def verdicts(stream: Stream) -> list[tuple[str, int]]:
    return [(a.id, a.verdict) for a in stream.acknowledgements]


def test_a_device_says_what_it_is_and_answers(join: Join) -> None:
    with FakeCoordinator({"experiment": "{}"}) as coordinator:
        running = join(coordinator.address)
        stream = coordinator.device()
        hello = stream.hello
        assert (hello.protocol, hello.device, hello.memory_bytes, hello.examples) == (1, "pi", 10**9, 5)
        assert len(hello.instance) == 16
        assert hello.cores >= 1
        assert hello.software.startswith("hedgerow ")
        assert list(hello.held) == []
        stream.request(A, run=RUN, round=1, envelope=b"from ", body=b"me")
        reply = stream.reply()
        assert (reply.transfer.id, reply.transfer.run, reply.transfer.round, reply.transfer.attempt) == (A, RUN, 1, 1)
        assert reply.body == b"FROM ME"
        assert verdicts(stream) == [(A, VERDICT_TAKEN)]
        until(lambda: len(running.told.lines) == 3, what="three lines")
        assert running.told.lines == [f"joined {RUN}", "training 1", "replied 1 with 7, new"]
        assert StubWorker.made[0].run_config == '{"experiment": "{}"}'
        assert asked()[0][2] == {"data": "digits", "client": 77}
        assert stream.beats[0].resident_bytes > 10**6


def test_a_device_with_a_part_has_the_seed_of_that_part(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        join(coordinator.address, part=3)
        stream = coordinator.device()
        ask(stream, A, b"x")
        stream.reply()
        assert asked()[0][2] == {"partition-id": 3, "client": 3}


def test_a_large_request_and_its_large_reply_arrive_whole(join: Join) -> None:
    body = bytes(range(97, 123)) * 200_000
    with FakeCoordinator({}) as coordinator:
        join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, body)
        assert stream.reply().body == body.upper()


def test_several_requests_are_answered_in_order_and_each_state_follows_the_one_before(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        join(coordinator.address)
        stream = coordinator.device()
        for round, id in enumerate((A, B, C), start=1):
            ask(stream, id, b"slow %d" % round, round=round)
        until(lambda: len(stream.replies) == 3, what="three replies")
        assert [r.transfer.id for r in stream.replies] == [A, B, C]
        assert [state for _, state, _ in asked()] == [b"", b"|", b"||"]


def test_a_failure_travels_as_its_reason_and_the_next_request_is_answered(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        running = join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"raise")
        ask(stream, B, b"bug")
        ask(stream, C, b"fine")
        until(lambda: len(stream.replies) == 3, what="three replies")
        assert [r.transfer.failure for r in stream.replies] == ["the loss became nan", "KeyError: 'x'", ""]
        assert replies(stream) == {A: b"", B: b"", C: b"FINE"}
        assert "failed 1: the loss became nan" in running.told.lines


def test_the_same_request_is_worked_on_once(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"slow")
        stream.working_on(A)
        ask(stream, A, b"slow")
        stream.reply()
        ask(stream, A, b"slow")
        assert stream.reply(1).body == stream.reply(0).body
        assert stream.reply(1).transfer.attempt >= 1
        assert len(asked()) == 1
        assert verdicts(stream) == [(A, VERDICT_TAKEN)] * 3


def test_a_reply_that_was_kept_answers_the_same_request_after_a_restart(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        first = join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"x")
        stream.reply()
        until(lambda: any(first.state.glob("*/*.taken")), what="the acknowledgement on disk")
        first.leave()
        second = join(coordinator.address)
        stream = coordinator.device()
        assert list(stream.hello.held) == [], "it was acknowledged, so it is not sent by itself"
        ask(stream, A, b"x")
        assert stream.reply().body == b"X"
        assert len(asked()) == 1
        until(lambda: "replied 1 with 1, kept" in second.told.lines, what="the line")


def test_a_reply_without_acknowledgement_is_held_and_sent_again(join: Join) -> None:
    with FakeCoordinator({}, acknowledge=False) as coordinator:
        first = join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"x")
        stream.reply()
        first.leave()
        join(coordinator.address)
        stream = coordinator.device()
        assert list(stream.hello.held) == [A]
        assert stream.reply().body == b"X"
        assert len(asked()) == 1


def test_a_reply_that_is_acknowledged_while_it_is_read_to_be_sent_again_is_not_sent(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, again, go_on = RunStore.body, threading.Event(), threading.Event()
    read: list[str] = []

    def slow_body(store: RunStore, kept: Kept) -> bytes | None:
        read.append(kept.id)
        if read.count(A) == 2:
            again.set()
            assert go_on.wait(30)
        return body(store, kept)

    monkeypatch.setattr(RunStore, "body", slow_body)
    with FakeCoordinator({}, acknowledge=False) as coordinator:
        running = join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"x")
        stream.reply()
        ask(stream, A, b"x")
        assert again.wait(30)
        stream.acknowledge(A)
        until(lambda: any(running.state.glob("*/*.taken")), what="the acknowledgement on disk")
        go_on.set()
        ask(stream, B, b"y")
        assert stream.reply(1).transfer.id == B
        assert running.error is None


def test_a_round_played_again_starts_from_the_state_before_it(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        join(coordinator.address)
        stream = coordinator.device()
        for round, id in ((1, A), (2, B), (2, C)):
            ask(stream, id, b"x", round=round)
        until(lambda: len(stream.replies) == 3, what="three replies")
        assert [state for _, state, _ in asked()] == [b"", b"|", b"|"]


def test_work_goes_on_while_the_coordinator_is_away(join: Join) -> None:
    coordinator = FakeCoordinator({})
    running = join(coordinator.address)
    stream = coordinator.device()
    ask(stream, A, b"slow")
    stream.working_on(A)
    coordinator.stop()
    until(lambda: any(line.startswith("lost") for line in running.told.lines), what="the loss")
    with FakeCoordinator({}, port=coordinator.port) as again:
        stream = again.device()
        assert list(stream.hello.held) == [A]
        assert stream.reply().body == b"SLOW"
        assert len(asked()) == 1
        assert len(StubWorker.made) == 1


def test_a_coordinator_that_comes_back_with_another_run_ends_work_on_the_old_one(join: Join) -> None:
    coordinator = FakeCoordinator({})
    join(coordinator.address)
    stream = coordinator.device()
    ask(stream, A, b"hold")
    stream.working_on(A)
    coordinator.stop()
    with FakeCoordinator({"new": "1"}, run="run-2", port=coordinator.port) as again:
        stream = again.device()
        stream.request(B, run="run-2", round=1, body=b"x")
        assert stream.reply().transfer.id == B
        assert [w.run_config for w in StubWorker.made] == ["{}", '{"new": "1"}']
        assert not StubWorker.made[0].alive
        stream.request(C, run="run-1", round=1, body=b"x")
        until(lambda: (C, VERDICT_UNWANTED) in verdicts(stream), what="the verdict")


def test_an_abandoned_request_ends_the_worker_and_the_next_one_is_answered(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        running = join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"hold")
        ask(stream, B, b"x")
        stream.working_on(A)
        ask(stream, C, b"y")
        stream.abandon(B)
        stream.abandon(A)
        assert stream.reply().transfer.id == C
        assert running.told.lines[1:3] == ["training 1", "abandoned 1"]
        assert [w.alive for w in StubWorker.made] == [False, True]
        assert [message for message, _, _ in asked()] == [b"hold", b"y"]


def test_a_request_abandoned_when_its_reply_is_just_ready_is_not_held_and_can_be_asked_again(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, ready, go_on = RunStore.put, threading.Event(), threading.Event()

    def slow_put(store: RunStore, id: str, body: bytes, *, round: int) -> Kept:
        ready.set()
        assert go_on.wait(30)
        return put(store, id, body, round=round)

    monkeypatch.setattr(RunStore, "put", slow_put)
    with FakeCoordinator({}) as coordinator:
        running = join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"x")
        assert ready.wait(30)
        stream.abandon(A)
        until(lambda: StubWorker.made and not StubWorker.made[0].alive, what="the abandonment")
        go_on.set()
        until(lambda: "abandoned 1" in running.told.lines, what="the line")
        stream.dismiss(CAUSE_STOPPING)
        stream = coordinator.device()
        assert list(stream.hello.held) == []
        ask(stream, A, b"x")
        assert stream.reply().body == b"X"
        assert len(asked()) == 1


def test_a_worker_that_died_while_idle_is_replaced(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        join(coordinator.address)
        stream = coordinator.device()
        until(lambda: StubWorker.made, what="the worker")
        StubWorker.made[0].kill()
        ask(stream, A, b"x")
        assert stream.reply().body == b"X"


def test_a_worker_that_dies_at_work_costs_one_reply(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"hold")
        stream.working_on(A)
        StubWorker.made[0].kill()
        assert stream.reply().transfer.failure == "its worker process died with exit code -9"
        ask(stream, B, b"x")
        assert stream.reply(1).body == b"X"


def test_a_damaged_reply_is_sent_three_times_and_no_more(join: Join) -> None:
    with FakeCoordinator({}, acknowledge=False) as coordinator:
        running = join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"x")
        for number in range(3):
            assert stream.reply(number).transfer.attempt == number + 1
            stream.acknowledge(A, VERDICT_DAMAGED)
        until(lambda: "refused 1: as the test wants" in running.told.lines, what="the end of it")
        ask(stream, B, b"y")
        assert stream.reply(3).transfer.id == B


def test_an_unwanted_reply_is_not_sent_again_but_kept_for_a_coordinator_that_yet_asks(join: Join) -> None:
    with FakeCoordinator({}, acknowledge=False) as coordinator:
        running = join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"x")
        first = stream.reply()
        stream.acknowledge(A, VERDICT_UNWANTED)
        until(lambda: bool(list(running.state.glob("*/*.taken"))), what="it to be put aside")
        ask(stream, A, b"x")
        assert stream.reply(1).body == first.body
        assert running.told.lines.count("training 1") == 1


def test_damaged_requests_are_answered_as_damaged_and_the_stream_stays(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        join(coordinator.address, memory=2_000_000)
        stream = coordinator.device()
        digest = hashlib.sha256(b"12").digest()
        stream.send(Frame(transfer=Transfer(id=A, run=RUN, round=1, size=2, sha256=digest)))
        stream.send(Frame(chunk=Chunk(offset=0, data=b"1")))
        stream.send(Frame(transfer=Transfer(id=B, run=RUN, round=1, size=2, sha256=digest)))  # cuts the first short
        stream.send(Frame(chunk=Chunk(offset=0, data=b"99")))
        stream.send(Frame(transfer=Transfer(id=C, run=RUN, round=1, size=1_000_001, sha256=digest)))
        path = "../../etc/passwd".ljust(32)
        stream.send(Frame(transfer=Transfer(id=path, run=RUN, sha256=hashlib.sha256().digest())))
        ask(stream, A, b"fine")
        assert stream.reply().body == b"FINE"
        expected = [(A, "truncated"), (B, "wrong_digest"), (C, "too_large"), (path, "its id")]
        found = stream.acknowledgements[:-1]
        assert [a.verdict for a in found] == [VERDICT_DAMAGED] * 4
        assert [(a.id, a.reason.split(":")[0].removesuffix(" is not a possible one")) for a in found] == expected


@pytest.mark.parametrize(
    "frame", [b"\xff\xff\xff", Frame(heartbeat=Heartbeat(resident_bytes=3)), Frame(), Frame(abandon=Abandon(id=A))]
)
def test_odd_frames_do_not_end_the_device(frame: Frame | bytes, join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        running = join(coordinator.address)
        stream = coordinator.device()
        stream.send(frame)
        reading = isinstance(frame, Frame) and frame.WhichOneof("kind")
        if not reading:
            stream = coordinator.device()
            assert any("does not speak this protocol" in line for line in running.told.lines)
        ask(stream, B, b"x")
        assert stream.reply().body == b"X"


def test_silence_ends_the_connection_and_the_device_comes_back(join: Join) -> None:
    with FakeCoordinator({}, silence=0.3) as coordinator:
        coordinator.answers_beats = False
        running = join(coordinator.address)
        coordinator.device()
        coordinator.device()
        assert "lost: nothing was heard from the coordinator" in running.told.lines


@pytest.mark.parametrize(
    ("refuse", "kind", "saying"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, IdentityError, "does not let this device in"),
        (grpc.StatusCode.PERMISSION_DENIED, IdentityError, "does not let this device in"),
        (grpc.StatusCode.FAILED_PRECONDITION, ConnectionLostError, "refuses this device"),
        (CAUSE_REPLACED, ConnectionLostError, "another process has joined as this device"),
        (CAUSE_EVICTED, ConnectionLostError, "evicted this device"),
    ],
)
def test_a_refusal_ends_the_device_with_its_reason(
    refuse: grpc.StatusCode | Cause, kind: type[Exception], saying: str, join: Join
) -> None:
    with FakeCoordinator({}, refuse=refuse) as coordinator:
        running = join(coordinator.address)
        running.join()
        assert type(running.error) is kind
        assert saying in str(running.error)
        assert "(not you)" in str(running.error)


def test_other_endings_are_tried_again_with_growing_waits(join: Join) -> None:
    with FakeCoordinator({}, refuse=CAUSE_STOPPING) as coordinator:
        running = join(coordinator.address)
        for _ in range(5):
            coordinator.device()
        assert running.told.lines[0] == "lost: not you"
        for wait, expected in zip(running.backoff.waits, (0.5, 1, 2, 4), strict=False):
            assert 0.75 * expected <= wait <= 1.25 * expected


def test_a_connection_that_was_good_begins_the_waits_anew(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        running = join(coordinator.address)
        for _ in range(4):
            coordinator.device().dismiss(CAUSE_STOPPING)
        coordinator.device()
        assert all(wait < 0.7 for wait in running.backoff.waits)


def test_nobody_there_is_said_and_tried_for_ever(join: Join) -> None:
    gone = FakeCoordinator({})
    gone.stop()
    running = join(gone.address)
    until(lambda: len(running.told.lines) > 9, what="ten attempts")
    assert set(running.told.lines) == {"lost: nobody listens there"}
    assert 20 < max(running.backoff.waits) < 40


def test_a_finished_run_is_told_once_and_its_folder_is_empty(join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        running = join(coordinator.address)
        stream = coordinator.device()
        ask(stream, A, b"x")
        stream.reply()
        for _ in range(3):
            stream.dismiss(CAUSE_FINISHED)
            stream = coordinator.device()
        assert running.told.lines.count("finished, waits") == 1
        assert running.told.lines.count(f"joined {RUN}") == 1
        assert not list(running.state.glob("*/*.taken"))
        assert len(StubWorker.made) == 1, "no worker waits for a run that is over"


def test_a_cancellation_that_grpc_keeps_to_itself_ends_the_device(monkeypatch: pytest.MonkeyPatch, join: Join) -> None:
    connected = threading.Event()

    async def attend(*_: object, **__: object) -> Ending:
        connected.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return Ending("nobody listens there", code=grpc.StatusCode.UNAVAILABLE)

    monkeypatch.setattr("hedgerow.client.joining.agent.attend", attend)
    running = join("127.0.0.1:1")
    assert connected.wait(60)
    running.leave()
    assert running.told.lines == []


def test_with_once_the_device_ends_with_the_run(join: Join) -> None:
    with FakeCoordinator({}, refuse=CAUSE_FINISHED) as coordinator:
        running = join(coordinator.address, once=True)
        running.join()
        assert running.error is None
        assert running.told.lines == ["finished"]


def test_too_many_requests_at_once_are_sent_back(join: Join) -> None:
    ids = [f"{number:032x}" for number in range(7)]
    with FakeCoordinator({}) as coordinator:
        join(coordinator.address)
        stream = coordinator.device()
        ask(stream, ids[0], b"hold")
        stream.working_on(ids[0])
        for id in ids[1:]:
            ask(stream, id, b"x")
        until(lambda: len(stream.acknowledgements) == 7, what="seven verdicts")
        assert [a.verdict for a in stream.acknowledgements] == [VERDICT_TAKEN] * 5 + [VERDICT_DAMAGED] * 2
