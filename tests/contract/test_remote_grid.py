"""The gRPC grid on real sockets, with devices that behave and devices that do not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benchmarks.stub_device import StubDevice, reply_to
from flwr.app import Message

from hedgerow.errors import RunError
from hedgerow.server.control.observers import ManyFleetObservers
from hedgerow.server.grids.remote.devices import Pace
from hedgerow.server.grids.remote.entries import node_of
from hedgerow.server.grids.remote.grid import RemoteGrid
from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.v1 import fleet_pb2
from hedgerow.v1.fleet_pb2 import Acknowledgement, Chunk, Frame, Hello, Transfer
from hedgerow.wire.addresses import Address
from hedgerow.wire.flower import content_of, payload_in
from hedgerow.wire.transfers import Body, Received, frames_of
from tests.contract.crowd import Crowd, Told
from tests.waiting import until


@pytest.fixture
def grid(told: Told) -> Iterator[RemoteGrid]:
    with RemoteGrid(
        Address("127.0.0.1", 0),
        run="run-1",
        run_config='{"a": 1}',
        observer=told,
        reply_limit=10_000,
        pace=Pace(heartbeat=0.2, silence=1.5),
        grace=0.5,
    ) as grid:
        yield grid


def device(grid: RemoteGrid, name: str, answer: Callable[[bytes], bytes | None] = reply_to) -> StubDevice:
    return StubDevice(str(grid.address), name, answer=answer)


def message(name: str, *, round: int = 1, payload: bytes = b"x") -> Message:
    return Message(content_of(payload), dst_node_id=node_of(name), message_type="train", group_id=str(round))


def pulled(grid: RemoteGrid, identifier: str) -> Message:
    replies: list[Message] = []

    def arrived() -> bool:
        replies.extend(grid.pull_messages([identifier]))
        return bool(replies)

    until(arrived)
    return replies[0]


def reason_of(reply: Message) -> str:
    assert reply.has_error()
    return reply.error.reason or ""


def silent(request: bytes) -> None:
    return None


def asked(grid: RemoteGrid, crowd: Crowd) -> tuple[StubDevice, Received, str]:
    """A device that holds a request and has not replied."""
    stub = device(grid, "a", silent)
    crowd.start(stub)
    (identifier,) = grid.push_messages([message("a")])
    until(lambda: bool(stub.requests))
    return stub, stub.requests[0], identifier


def test_each_device_replies_to_its_own_request(grid: RemoteGrid, crowd: Crowd) -> None:
    names = [f"d{k}" for k in range(5)]
    for name in names:
        crowd.start(device(grid, name, functools.partial(reply_to, payload=name.encode())))
    until(lambda: len(list(grid.get_node_ids())) == 5)
    replies = grid.send_and_receive([message(name) for name in names], timeout=10)
    assert {r.metadata.src_node_id: payload_in(r.content).decode() for r in replies} == {node_of(n): n for n in names}
    assert sorted(view.name for view in grid.devices()) == names


def test_a_request_is_whole_whatever_its_size(grid: RemoteGrid, crowd: Crowd) -> None:
    stub = device(grid, "a")
    crowd.start(stub)
    content = content_of(bytes(3_000_000))
    (reply,) = grid.send_and_receive(
        [Message(content, dst_node_id=node_of("a"), message_type="train", group_id="1")], timeout=20
    )
    assert payload_in(reply.content) == b"ok"
    down, up = grid.take_sizes(reply.metadata.reply_to_message_id)
    assert 3_000_000 < down < 3_002_000
    assert 0 < up < 1000
    assert grid.take_sizes(reply.metadata.reply_to_message_id) == (0, 0)


def test_a_device_that_comes_back_is_not_asked_again_for_what_it_holds(grid: RemoteGrid, crowd: Crowd) -> None:
    stub, request, identifier = asked(grid, crowd)
    again = device(grid, "a", silent)
    again.held = [identifier]
    crowd.start(again)
    until(lambda: stub.dismissal is not None)
    crowd.call(lambda: again.reply(request, reply_to(request.transfer.envelope + request.body, b"late but whole")))
    assert payload_in(pulled(grid, identifier).content) == b"late but whole"
    assert again.requests == []


def test_a_request_is_sent_again_to_a_device_that_lost_it(grid: RemoteGrid, crowd: Crowd) -> None:
    stub, _, identifier = asked(grid, crowd)
    task = device(grid, "a")
    crowd.start(task)
    pulled(grid, identifier)
    assert task.requests[0].transfer.attempt == 2
    assert stub.dismissal == fleet_pb2.CAUSE_SILENT, "the same process over another connection"


def test_a_second_process_with_the_same_identity_ends_the_first(grid: RemoteGrid, crowd: Crowd) -> None:
    first, second = device(grid, "a"), device(grid, "a")
    second.instance = bytes(16)
    crowd.start(first)
    crowd.start(second)
    until(lambda: first.dismissal == fleet_pb2.CAUSE_REPLACED)
    assert list(grid.get_node_ids()) == [node_of("a")]


def test_a_device_that_is_gone_fails_after_its_grace(grid: RemoteGrid, crowd: Crowd, told: Told) -> None:
    stub = device(grid, "a", silent)
    task = crowd.start(stub)
    (identifier,) = grid.push_messages([message("a")])
    until(lambda: bool(stub.requests))
    crowd.end(task)
    until(lambda: told.ends == ["lost"])
    reply = pulled(grid, identifier)
    assert reason_of(reply) == "the device was lost and did not come back in 0.5 s"


def test_a_silent_device_is_taken_for_lost(grid: RemoteGrid, crowd: Crowd, told: Told) -> None:
    stub = device(grid, "a")
    stub.beats = False
    crowd.start(stub)
    until(lambda: told.ends == ["silent"])
    assert list(grid.get_node_ids()) == []


def test_an_evicted_device_is_told_and_not_let_in_again(grid: RemoteGrid, crowd: Crowd, told: Told) -> None:
    stub = device(grid, "a")
    crowd.start(stub)
    assert grid.evict("a")
    assert not grid.evict("b")
    until(lambda: stub.dismissal == fleet_pb2.CAUSE_EVICTED)
    again = device(grid, "a")
    crowd.start(again)
    until(lambda: told.refusals == ["evicted"])
    assert not again.welcomed.is_set()


def test_an_evicted_device_stays_out_when_the_coordinator_starts_again(
    crowd: Crowd, told: Told, tmp_path: Path
) -> None:
    for attached in (True, False):
        with RemoteGrid(
            Address("127.0.0.1", 0), run="r", run_config="{}", observer=told, evicted=tmp_path / "evicted.txt"
        ) as grid:
            stub = device(grid, "a")
            crowd.start(stub)
            assert stub.welcomed.is_set() is attached
            assert grid.evict("a")
    assert told.refusals == ["evicted"]


def test_an_observer_that_raises_harms_no_stream(crowd: Crowd) -> None:
    class Broken(FleetObserver):
        def attached(self, name: str, *, reconnect: bool) -> None:
            raise SystemExit(1)

    with RemoteGrid(Address("127.0.0.1", 0), run="r", run_config="{}", observer=ManyFleetObservers(Broken())) as grid:
        crowd.start(device(grid, "a"))
        (reply,) = grid.send_and_receive([message("a")], timeout=10)
    assert payload_in(reply.content) == b"ok"


def test_a_request_whose_reply_the_device_lost_is_sent_again(grid: RemoteGrid, crowd: Crowd) -> None:
    stub, _, identifier = asked(grid, crowd)
    lost = Acknowledgement(id=identifier, verdict=fleet_pb2.VERDICT_DAMAGED, reason="its reply was lost on the device")
    crowd.call(lambda: stub.put(Frame(acknowledgement=lost)))
    until(lambda: len(stub.requests) == 2)
    assert stub.requests[1].transfer.attempt == 2


def test_an_abandoned_request_is_taken_back_and_its_reply_is_late(grid: RemoteGrid, crowd: Crowd, told: Told) -> None:
    stub, request, identifier = asked(grid, crowd)
    grid.abandon([identifier])
    crowd.call(lambda: stub.reply(request, reply_to(request.transfer.envelope + request.body)))
    until(lambda: bool(stub.acknowledgements))
    assert told.lates == 1
    assert [a.verdict for a in stub.acknowledgements] == [fleet_pb2.VERDICT_UNWANTED]
    assert list(grid.pull_messages([identifier])) == []


def put_all(stub: StubDevice, frames: list[Frame | bytes]) -> None:
    for frame in frames:
        stub.put(frame)


def damaged(request: Received, how: str) -> list[Frame | bytes]:
    body = bytes(range(250)) * 20
    good = list(frames_of(Transfer(id=request.transfer.id, round=1), Body(body)))
    head, whole = Frame.FromString(good[0]).transfer, Frame.FromString(good[1]).chunk
    half, rest = Chunk(offset=0, data=whole.data[:2500]), Chunk(offset=2500, data=whole.data[2500:])
    if how == "out_of_order":
        return [good[0], Frame(chunk=rest), Frame(chunk=half)]
    if how == "truncated":
        return [good[0], Frame(chunk=half), good[0], Frame(chunk=half), good[0], Frame(chunk=half), good[0]]
    if how == "too_long":
        return [good[0], Frame(chunk=Chunk(data=whole.data + b"x"))]
    if how == "wrong_digest":
        return [good[0], Frame(chunk=Chunk(data=bytes(len(whole.data))))]
    assert how == "too_large"
    huge = Transfer()
    huge.CopyFrom(head)
    huge.size = 1 << 40
    return [Frame(transfer=huge)]


@pytest.mark.parametrize("how", ["out_of_order", "too_long", "wrong_digest"])
def test_a_damaged_reply_is_counted_asked_for_again_and_then_taken(
    grid: RemoteGrid, crowd: Crowd, told: Told, how: str
) -> None:
    stub, request, identifier = asked(grid, crowd)
    crowd.call(lambda: put_all(stub, damaged(request, how)))
    until(lambda: bool(stub.acknowledgements))
    assert stub.acknowledgements[0].verdict == fleet_pb2.VERDICT_DAMAGED
    assert told.rejections == [how]
    crowd.call(lambda: stub.reply(request, reply_to(request.transfer.envelope + request.body, b"whole")))
    reply = pulled(grid, identifier)
    assert payload_in(reply.content) == b"whole"


@pytest.mark.parametrize("how", ["truncated", "too_large"])
def test_a_reply_that_never_comes_whole_fails_its_request_and_nothing_else(
    grid: RemoteGrid, crowd: Crowd, told: Told, how: str
) -> None:
    stub, request, identifier = asked(grid, crowd)
    crowd.call(lambda: put_all(stub, damaged(request, how)))
    reply = pulled(grid, identifier)
    assert "the reply came damaged" in reason_of(reply)
    assert set(told.rejections) == {how}
    (following,) = grid.push_messages([message("a", round=2)])
    until(lambda: len(stub.requests) == 2)
    assert stub.requests[1].transfer.id == following


@pytest.mark.parametrize("body", [b"", b"\xff" * 100, reply_to.__name__.encode()])
def test_a_reply_that_is_no_message_is_an_error_reply(grid: RemoteGrid, crowd: Crowd, body: bytes) -> None:
    crowd.start(device(grid, "a", lambda request: body))
    (reply,) = grid.send_and_receive([message("a")], timeout=10)
    assert reply.has_error()


def test_a_reply_that_answers_another_request_is_an_error_reply(grid: RemoteGrid, crowd: Crowd) -> None:
    kept: list[bytes] = []

    def first_one(request: bytes) -> bytes:
        kept.append(request)
        return reply_to(kept[0])

    crowd.start(device(grid, "a", first_one))
    assert not next(iter(grid.send_and_receive([message("a")], timeout=10))).has_error()
    (reply,) = grid.send_and_receive([message("a", round=2)], timeout=10)
    assert reason_of(reply) == "the reply answers another request"


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (Frame(hello=Hello(protocol=2, device="a", instance=bytes(16))), "protocol"),
        (Frame(hello=Hello(protocol=1, device="", instance=bytes(16))), "hello"),
        (Frame(hello=Hello(protocol=1, device="a" * 64, instance=bytes(16))), "hello"),
        (Frame(hello=Hello(protocol=1, device="a\x1b[2J", instance=bytes(16))), "hello"),
        (Frame(hello=Hello(protocol=1, device="a", instance=b"short")), "hello"),
        (Frame(chunk=Chunk(data=b"x")), "hello"),
        (Frame(), "hello"),
    ],
)
def test_whoever_does_not_say_who_it_is_is_not_let_in(
    grid: RemoteGrid, crowd: Crowd, told: Told, first: Frame, reason: str
) -> None:
    stub = device(grid, "a")
    stub.put(first)
    crowd.start(stub)
    until(lambda: told.refusals == [reason])
    assert list(grid.get_node_ids()) == []


def test_bytes_that_are_no_frame_end_that_stream_and_no_other(grid: RemoteGrid, crowd: Crowd, told: Told) -> None:
    good, bad = device(grid, "good"), device(grid, "bad")
    crowd.start(good)
    crowd.start(bad)
    crowd.call(lambda: bad.put(b"\xff\xff\xff\xff"))
    until(lambda: len(told.ends) == 1)
    (reply,) = grid.send_and_receive([message("good")], timeout=10)
    assert payload_in(reply.content) == b"ok"


def test_devices_are_told_that_the_run_is_done(told: Told, crowd: Crowd) -> None:
    with RemoteGrid(Address("127.0.0.1", 0), run="r", run_config="{}", observer=told) as grid:
        stub = device(grid, "a")
        crowd.start(stub)
    assert told.ends == ["finished"]
    until(lambda: stub.dismissal == fleet_pb2.CAUSE_FINISHED)


def test_who_comes_after_the_end_is_told_so(grid: RemoteGrid, crowd: Crowd) -> None:
    grid.finish()
    stub = device(grid, "a")
    crowd.start(stub)
    until(lambda: stub.dismissal == fleet_pb2.CAUSE_FINISHED)


def test_a_port_that_is_in_use_is_one_sentence(grid: RemoteGrid) -> None:
    with pytest.raises(RunError, match="cannot be listened on; it is in use"):
        RemoteGrid(grid.address, run="r", run_config="{}")
