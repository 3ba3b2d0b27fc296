"""The books of the gRPC grid: what counts, what counts once, what is nobody's."""

from __future__ import annotations

import hashlib

import pytest

from hedgerow.server.grids.remote.entries import Arrival, Request, node_of, request_id
from hedgerow.server.grids.remote.registry import Registry
from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.v1.fleet_pb2 import Hello, Transfer
from hedgerow.wire.transfers import Body, Received, TransferError


class Told(FleetObserver):
    def __init__(self) -> None:
        self.events: list[str] = []
        self.waiting: list[int] = []

    def attached(self, name: str, *, reconnect: bool) -> None:
        self.events.append(f"{name} {'again' if reconnect else 'attached'}")

    def detached(self, name: str, *, cause: str) -> None:
        self.events.append(f"{name} {cause}")

    def rejected(self, name: str, *, reason: str) -> None:
        self.events.append(f"{name} rejected {reason}")

    def late(self, name: str) -> None:
        self.events.append(f"{name} late")

    def queue(self, *, requests: int) -> None:
        self.waiting.append(requests)


class Line:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.abandoned: list[str] = []

    def send(self, request: Request) -> None:
        self.sent.append(request.id)

    def abandon(self, id: str) -> None:
        self.abandoned.append(id)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def registry(told: Told) -> Registry:
    return Registry(observer=told, grace=1000.0)


def request(name: str, *, round: int = 1) -> Request:
    body = Body(b"do this")
    identifier = request_id("run", str(round), "train", node_of(name), body)
    return Request(identifier, node_of(name), Transfer(id=identifier, round=round), body)


def reply(asked: Request, body: bytes = b"done") -> Received:
    return Received(Transfer(id=asked.id, size=len(body), sha256=hashlib.sha256(body).digest()), body)


def attach(registry: Registry, name: str, *held: str) -> Line:
    line = Line()
    registry.attach(Hello(held=held), name=name, address="here", link=line)
    return line


def test_the_same_request_has_the_same_name_and_any_other_another() -> None:
    body = Body(b"x")
    first = request_id("run", "1", "train", 5, body)
    assert first == request_id("run", "1", "train", 5, Body(b"x"))
    others = {
        request_id("run2", "1", "train", 5, body),
        request_id("run", "2", "train", 5, body),
        request_id("run", "1", "evaluate", 5, body),
        request_id("run", "1", "train", 6, body),
        request_id("run", "1", "train", 5, Body(b"y")),
    }
    assert len(others | {first}) == 6


def test_a_reply_counts_once_however_often_it_arrives(registry: Registry, told: Told) -> None:
    line, asked = attach(registry, "a"), request("a")
    registry.ask([asked])
    assert line.sent == [asked.id]
    assert registry.receive("a", reply(asked), bytes_up=4) == "taken"
    assert registry.receive("a", reply(asked, b"other"), bytes_up=5) == "unwanted"
    assert registry.take([asked.id]) == {asked.id: Arrival(b"done", "", "device", 0, 4)}
    assert registry.take([asked.id]) == {}
    assert told.events == ["a attached", "a rejected duplicate"]


def test_what_was_never_asked_is_not_taken(registry: Registry, told: Told) -> None:
    attach(registry, "a")
    attach(registry, "b")
    asked = request("b")
    registry.ask([asked])
    assert registry.receive("a", reply(asked), bytes_up=4) == "unwanted", "another device's reply"
    assert registry.take([asked.id]) == {}
    assert told.events[-1] == "a rejected unrequested"


def test_a_device_that_comes_back_is_sent_only_what_it_does_not_hold(registry: Registry) -> None:
    line = attach(registry, "a")
    first, second = request("a", round=1), request("a", round=2)
    registry.ask([first, second])
    registry.detach("a", line, cause="lost")
    assert attach(registry, "a", first.id).sent == [second.id]


def test_a_request_for_a_device_that_is_away_waits_for_it(registry: Registry) -> None:
    asked = request("a")
    registry.ask([asked])
    assert attach(registry, "a").sent == [asked.id]


def test_a_stream_that_was_replaced_takes_nothing_along_when_it_ends(registry: Registry, told: Told) -> None:
    old = attach(registry, "a")
    new = attach(registry, "a")
    registry.detach("a", old, cause="lost")
    assert registry.attached() == [node_of("a")]
    registry.detach("a", new, cause="lost")
    assert registry.attached() == []
    assert told.events == ["a attached", "a again", "a lost"]


def test_a_reply_after_the_round_is_late_and_not_taken(registry: Registry, told: Told) -> None:
    line, asked = attach(registry, "a"), request("a")
    registry.ask([asked])
    registry.abandon([asked.id])
    assert line.abandoned == [asked.id]
    assert registry.receive("a", reply(asked), bytes_up=4) == "unwanted"
    assert registry.take([asked.id]) == {}
    assert told.events[-1] == "a late"


def test_a_damaged_reply_is_asked_for_again_and_given_up_after_three(registry: Registry, told: Told) -> None:
    attach(registry, "a")
    asked = request("a")
    registry.ask([asked])
    damage = TransferError("the body does not match its digest", damage="wrong_digest", id=asked.id)
    assert [registry.damaged("a", damage) for _ in range(3)] == ["damaged", "damaged", "unwanted"]
    arrival = registry.take([asked.id])[asked.id]
    assert (arrival.failure, arrival.kind) == (
        "the reply came damaged: the body does not match its digest",
        "transfer",
    )
    assert told.events[-3:] == ["a rejected wrong_digest"] * 3


def test_a_reply_that_is_too_large_is_not_asked_for_again(registry: Registry) -> None:
    attach(registry, "a")
    asked = request("a")
    registry.ask([asked])
    assert registry.damaged("a", TransferError("much", damage="too_large", id=asked.id)) == "unwanted"
    assert "damaged: much" in registry.take([asked.id])[asked.id].failure


def test_a_request_that_came_damaged_is_sent_again_at_most_three_times(registry: Registry) -> None:
    attach(registry, "a")
    asked = request("a")
    registry.ask([asked])
    assert [registry.again("a", asked.id) for _ in range(3)] == [asked, asked, None]
    assert registry.take([asked.id])[asked.id].kind == "transfer"
    assert registry.again("a", "unknown") is None


def test_a_device_that_stays_away_is_given_up_on_after_its_grace(told: Told) -> None:
    registry = Registry(observer=told, grace=0.0)
    line, asked = attach(registry, "a"), request("a")
    registry.ask([asked])
    registry.give_up()
    assert registry.take([asked.id]) == {}, "it is there"
    registry.detach("a", line, cause="lost")
    registry.give_up()
    assert registry.take([asked.id])[asked.id].failure == "the device was lost and did not come back in 0 s"


def test_an_evicted_device_fails_what_it_was_asked_now_and_later(registry: Registry) -> None:
    attach(registry, "a")
    now, later = request("a", round=1), request("a", round=2)
    registry.ask([now])
    assert registry.evict("a")
    assert registry.is_evicted("a")
    registry.ask([later])
    assert all(a.failure == "the device was evicted" for a in registry.take([now.id, later.id]).values())
    assert not registry.evict("nobody")
    assert registry.evicted() == ["a"]


def test_requests_that_wait_are_counted(registry: Registry, told: Told) -> None:
    attach(registry, "a")
    first, second = request("a", round=1), request("a", round=2)
    registry.ask([first, second])
    registry.receive("a", reply(first), bytes_up=4)
    registry.give_up()
    registry.abandon([second.id])
    assert told.waiting == [2, 1, 0]


def test_the_view_tells_what_a_device_does(registry: Registry) -> None:
    line = attach(registry, "a")
    asked = request("a", round=7)
    registry.ask([asked])
    registry.heard("a", resident_bytes=123, working_on=asked.id)
    (view,) = registry.views()
    assert (view.name, view.attached, view.working_on_round, view.resident_bytes) == ("a", True, 7, 123)
    registry.detach("a", line, cause="lost")
    attach(registry, "a")
    (view,) = registry.views()
    assert (view.working_on_round, view.reconnects) == (0, 1)
