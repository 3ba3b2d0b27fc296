"""What every grid has to do, on real worker processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from flwr.app import Message

from hedgerow.server.fleet import Reply, Request
from hedgerow.server.grids.fleet import GridFleet
from hedgerow.server.grids.local import FIRST_NODE, LocalGrid
from hedgerow.server.progress import Observer
from hedgerow.wire.states import StateStore

APP = "tests.contract.grid_apps:app"


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    with (
        StateStore(tmp_path / "states.sqlite") as states,
        LocalGrid(clients=5, client_app=APP, run_config={"suffix": "!"}, states=states, workers=2) as grid,
    ):
        yield grid


@pytest.fixture
def fleet(local: LocalGrid) -> GridFleet:
    return GridFleet(local)


def requests_for(payloads: dict[int, bytes]) -> list[Request]:
    return [Request(FIRST_NODE + client, payload) for client, payload in payloads.items()]


def never() -> bool:
    return False


def ask(fleet: GridFleet, payloads: dict[int, bytes], *, round: int) -> dict[int, Reply]:
    replies = list(fleet.exchange(requests_for(payloads), round=round, over=never))
    assert len(replies) == len(payloads), "one reply for each request"
    return {reply.node - FIRST_NODE: reply for reply in replies}


def test_each_client_replies_to_its_own_request(fleet: GridFleet) -> None:
    assert len(fleet.nodes()) == 5
    replies = ask(fleet, {k: f"hello {k}".encode() for k in range(5)}, round=1)
    assert {k: r.payload for k, r in replies.items()} == {k: f"hello {k}!".encode() for k in range(5)}
    assert {k: r.metrics["partition"] for k, r in replies.items()} == {k: k for k in range(5)}


def test_state_is_kept_between_rounds_whichever_worker_answers(fleet: GridFleet) -> None:
    fleet.nodes()
    ask(fleet, {0: b"a", 1: b"b"}, round=1)
    ask(fleet, {1: b"b"}, round=2)
    replies = ask(fleet, {0: b"a", 1: b"b", 2: b"c"}, round=3)
    assert {k: r.metrics["calls"] for k, r in replies.items()} == {0: 2, 1: 3, 2: 1}


def test_a_round_played_again_starts_from_the_same_state(fleet: GridFleet) -> None:
    fleet.nodes()
    ask(fleet, {0: b"a"}, round=1)
    first = ask(fleet, {0: b"a"}, round=2)[0]
    again = ask(fleet, {0: b"a"}, round=2)[0]
    assert first.metrics["calls"] == again.metrics["calls"] == 2


def test_a_client_that_raises_is_reported_and_the_others_reply(fleet: GridFleet) -> None:
    fleet.nodes()
    replies = ask(fleet, {0: b"fine", 1: b"raise", 2: b"bug", 3: b"fine"}, round=1)
    assert replies[1].error == "the loss became nan"
    assert replies[2].error == "KeyError: 'x'"
    assert (replies[1].kind, replies[2].kind) == ("device", "device")
    assert [replies[k].payload for k in (0, 3)] == [b"fine!", b"fine!"]
    assert fleet.name(FIRST_NODE + 1) == "client-0001"


def test_a_worker_that_dies_costs_one_reply(fleet: GridFleet) -> None:
    fleet.nodes()
    replies = ask(fleet, {0: b"die", 1: b"x", 2: b"y", 3: b"z"}, round=1)
    assert replies[0].error == "its worker process died with exit code 9"
    assert replies[0].kind == "lost"
    assert [replies[k].payload for k in (1, 2, 3)] == [b"x!", b"y!", b"z!"]


def test_workers_killed_while_idle_are_replaced(fleet: GridFleet) -> None:
    fleet.nodes()
    replies = ask(fleet, dict.fromkeys(range(4), b"x"), round=1)
    for pid in {int(r.metrics["pid"]) for r in replies.values()}:
        os.kill(pid, signal.SIGKILL)
    replies = ask(fleet, dict.fromkeys(range(4), b"x"), round=2)
    assert [k for k, r in replies.items() if r.payload == b"x!"], "new workers answer"
    replies = ask(fleet, dict.fromkeys(range(4), b"x"), round=3)
    assert all(r.payload == b"x!" for r in replies.values())


def test_bytes_are_those_of_the_whole_messages(fleet: GridFleet) -> None:
    fleet.nodes()
    small, large = ask(fleet, {0: b"", 1: b"a" * 10_000}, round=1).values()
    if small.bytes_down > large.bytes_down:
        small, large = large, small
    # A few bytes more for the larger numbers in the lengths.
    assert 10_000 <= large.bytes_down - small.bytes_down < 10_020
    assert 10_000 <= large.bytes_up - small.bytes_up < 10_020
    assert 0 < small.bytes_down < 400


def test_closing_ends_the_workers(tmp_path: Path) -> None:
    with StateStore(tmp_path / "states.sqlite") as states:
        grid = LocalGrid(clients=2, client_app=APP, run_config={"suffix": ""}, states=states, workers=2)
        fleet = GridFleet(grid)
        fleet.nodes()
        pids = {int(r.metrics["pid"]) for r in ask(fleet, {0: b"x", 1: b"x"}, round=1).values()}
        grid.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_round_that_is_over_abandons_what_is_queued_and_what_hangs(local: LocalGrid, fleet: GridFleet) -> None:
    fleet.nodes()
    before = {int(r.metrics["pid"]) for r in ask(fleet, {0: b"x", 1: b"x"}, round=1).values()}
    taken: list[Reply] = []
    # Two workers: one hangs, the other answers once, and is at the next that hangs, or has the last one queued.
    requests = requests_for({0: b"hang", 1: b"x", 2: b"hang", 3: b"y"})
    for reply in fleet.exchange(requests, round=2, over=lambda: len(taken) == 1):
        taken.append(reply)
    assert [(reply.node - FIRST_NODE, reply.payload) for reply in taken] == [(1, b"x!")]
    replies = ask(fleet, dict.fromkeys(range(5), b"z"), round=3)
    assert {k: r.payload for k, r in replies.items()} == dict.fromkeys(range(5), b"z!"), "nothing comes late"
    assert {int(r.metrics["pid"]) for r in replies.values()} != before, "who hung was replaced"
    assert local._sizes == {}
    assert local._inbox == {}


def test_a_round_that_is_over_before_it_begins_asks_nobody_in_the_end(fleet: GridFleet) -> None:
    fleet.nodes()
    assert list(fleet.exchange(requests_for({0: b"hang", 1: b"hang", 2: b"x"}), round=1, over=lambda: True)) == []
    assert ask(fleet, {0: b"x"}, round=1)[0].payload == b"x!"


def test_waiting_ends_when_the_round_is_over_although_nobody_answers(fleet: GridFleet) -> None:
    fleet.nodes()
    asked: list[None] = []

    def over() -> bool:
        asked.append(None)
        return len(asked) > 3

    assert list(fleet.exchange(requests_for({0: b"hang"}), round=1, over=over)) == []


class Recorded(LocalGrid):
    """Remembers the messages that are pushed, and names its nodes."""

    pushed: list[Message]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        self.pushed = list(messages)
        return super().push_messages(self.pushed)

    def name_of(self, node: int) -> str:
        return f"phone {node}"


def test_requests_of_one_payload_share_one_content_object(tmp_path: Path) -> None:
    with (
        StateStore(tmp_path / "states.sqlite") as states,
        Recorded(clients=5, client_app=APP, run_config={"suffix": "!"}, states=states, workers=1) as grid,
    ):
        known, new = b"".join([b"kn", b"own"]), b"".join([b"n", b"ew"])
        fleet = GridFleet(grid)
        replies = ask(fleet, {0: known, 1: new, 2: known, 3: new, 4: known}, round=1)
        assert {k: r.payload for k, r in replies.items()} == {k: b"new!" if k % 2 else b"known!" for k in range(5)}
        contents = [id(message.content) for message in grid.pushed]
        assert contents == [contents[0], contents[1]] * 2 + [contents[0]]
        assert contents[0] != contents[1]
        assert fleet.name(FIRST_NODE) == "phone 2"


def test_waiting_for_nodes_tells_what_changes_and_ends_with_enough(
    local: LocalGrid, fleet: GridFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[int, int]] = []

    class Listener(Observer):
        def waiting(self, *, attached: int, needed: int) -> None:
            heard.append((attached, needed))

    counts = iter([0, 0, 1, 1, 2, 1, 4])
    monkeypatch.setattr(local, "get_node_ids", lambda: range(next(counts)))
    monkeypatch.setattr(local, "wait", lambda seconds: None)
    assert list(fleet.wait_for(3, observer=Listener())) == [0, 1, 2, 3]
    assert heard == [(0, 3), (1, 3), (2, 3), (1, 3)]
    assert list(counts) == []


def test_nodes_that_are_there_are_not_waited_for(fleet: GridFleet) -> None:
    class Deaf(Observer):
        def waiting(self, *, attached: int, needed: int) -> None:
            raise AssertionError("nobody has to wait")

    assert len(fleet.wait_for(5, observer=Deaf())) == 5
