"""What the board knows of a run, and what its watchers get to see."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InterruptedRunError, RunError
from hedgerow.server.control.board import StatusBoard
from hedgerow.server.control.observers import FleetMetricsObserver, ManyFleetObservers, RunMetricsObserver
from hedgerow.server.control.watcher import Watcher
from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.telemetry import CandidateRecord, Failure, PlanRecord, SelectionRecord
from hedgerow.telemetry.prometheus import FleetMetrics, RunMetrics
from hedgerow.v1 import fleet_pb2 as pb
from tests.unit.control_server import record


def started(board: StatusBoard, folder: Path, *, done: int = 0) -> None:
    board.started(folder=folder, description="conv4 on digits", rounds=10, done=done)


def texts(events: list[pb.Event]) -> list[str]:
    return [event.text for event in events if event.text]


async def collect(watcher: Watcher) -> list[pb.Event]:
    return [event async for event in watcher.events()]


def in_loop(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())


def test_the_status_follows_a_run_from_its_start_to_its_end(tmp_path: Path) -> None:
    board = StatusBoard(run="run-1")
    assert board.state() == "waiting"
    started(board, tmp_path)
    assert (board.status().run, board.status().description, board.status().rounds) == ("run-1", "conv4 on digits", 10)
    assert board.state() == "pruning"
    board.waiting(attached=0, needed=2)
    assert (board.state(), board.status().devices_needed) == ("waiting", 2)
    board.attached("a", reconnect=False)
    board.attached("b", reconnect=False)
    board.asked(round=1, clients=2)
    board.replied()
    now = board.status()
    assert (board.state(), now.round, now.asked, now.replied, now.devices_attached) == ("training", 0, 2, 1, 2)
    assert not now.HasField("accuracy")
    board.finished_round(record(1), rounds=10)
    board.finished_round(record(2, accuracy=None, seconds=3.0), rounds=10)
    now = board.status()
    assert (now.round, now.asked, now.replied, now.round_seconds) == (2, 0, 0, 3.0)
    assert (now.accuracy, now.loss) == (0.75, 0.5), "of the last round that was evaluated"
    assert (now.bytes_up, now.bytes_down, now.kept, now.density) == (200, 400, 10, 0.1)
    assert now.uptime_seconds > 0
    board.finished()
    assert board.state() == "finished"
    board.waiting(attached=0, needed=2)
    board.failed(RunError("too late"))
    assert board.state() == "finished", "the end is the end"


def test_a_run_that_goes_on_shows_what_an_earlier_process_reached(tmp_path: Path) -> None:
    lines = [record(n, accuracy=accuracy).model_dump_json() + "\n" for n, accuracy in ((3, 0.5), (4, None), (5, 0.9))]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    board, metrics = StatusBoard(), RunMetrics()
    started(board, tmp_path, done=4)
    now = board.status()
    assert (board.state(), now.run, now.round, now.kept, now.accuracy) == ("training", tmp_path.name, 4, 10, 0.5)
    assert now.bytes_up == 0, "since this coordinator started"
    RunMetricsObserver(metrics).started(folder=tmp_path, description="", rounds=10, done=4)
    assert metrics.registry.get_sample_value("hedgerow_round") == 4
    assert metrics.registry.get_sample_value("hedgerow_accuracy_ratio") == 0.5
    assert metrics.registry.get_sample_value("hedgerow_rounds_total") == 0


@pytest.mark.parametrize("content", [None, b"", b"{}\n", b"\xff\xfe\n", b"[]\n"])
def test_records_that_cannot_be_read_are_left_to_those_who_need_them(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    board = StatusBoard()
    started(board, tmp_path, done=4)
    RunMetricsObserver(RunMetrics()).started(folder=tmp_path, description="", rounds=10, done=4)
    assert board.status().round == 4


def test_health_is_bad_only_when_the_run_failed() -> None:
    board = StatusBoard()
    board.attached("a", reconnect=False)
    facts = {"state": "waiting", "round": 0, "rounds": 0, "devices_attached": 1, "devices_needed": 0}
    assert (board.health().failure, board.health().facts) == (None, facts)
    board.failed(RunError("the disk\x1b[31m is full"))
    assert board.health().failure == "the disk [31m is full"
    assert board.health().facts["state"] == "failed"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InterruptedRunError("stopped"), SystemExit(1)])
def test_a_run_that_was_only_stopped_has_not_failed(error: BaseException, tmp_path: Path) -> None:
    board = StatusBoard()
    started(board, tmp_path, done=1)
    board.failed(error)
    assert board.health().failure is None
    assert board.state() == "training"


def test_an_error_without_words_is_named_by_its_kind() -> None:
    board = StatusBoard()
    board.failed(ZeroDivisionError())
    assert board.health().failure == "ZeroDivisionError"


def test_a_device_whose_stream_was_replaced_is_still_attached() -> None:
    metrics = RunMetrics()
    board = StatusBoard()
    both = ManyFleetObservers(board, FleetMetricsObserver(FleetMetrics(metrics.registry)))
    both.attached("phone", reconnect=False)
    both.attached("tablet", reconnect=False)
    both.attached("phone", reconnect=True)
    both.detached("phone", cause="replaced")
    both.queue(requests=5)
    value = metrics.registry.get_sample_value
    assert board.status().devices_attached == value("hedgerow_devices_attached") == 2
    both.detached("tablet", cause="silent")
    assert board.status().devices_attached == value("hedgerow_devices_attached") == 1
    both.rejected("phone", reason="wrong_digest")
    both.late("phone")
    both.refused(reason="revoked")
    assert value("hedgerow_rejected_replies_total", {"reason": "wrong_digest"}) == 1
    assert value("hedgerow_rejected_replies_total", {"reason": "late"}) == 1
    assert value("hedgerow_refused_connections_total", {"reason": "revoked"}) == 1
    assert value("hedgerow_device_detached_total", {"cause": "replaced"}) == 1
    assert value("hedgerow_device_reconnects_total") == 1
    assert value("hedgerow_requests_outstanding") == 5


def test_nothing_that_observers_are_told_is_lost_on_the_way_to_several() -> None:
    told = {name for name in vars(FleetObserver) if not name.startswith("_")}
    assert told == {name for name in vars(ManyFleetObservers) if not name.startswith("_")}


def test_a_watcher_sees_the_state_now_and_then_all_that_happens(tmp_path: Path) -> None:
    board = StatusBoard()
    started(board, tmp_path)

    def run() -> None:
        board.pruning(1, 100)
        board.pruning(2, 100)
        board.selecting("statistics", 3)
        board.waiting(attached=0, needed=1)
        board.attached("phone", reconnect=False)
        board.waiting(attached=1, needed=1)
        board.asked(round=1, clients=1)
        board.rejected("phone", reason="wrong_digest")
        board.late("phone")
        board.refused(reason="identity")
        board.detached("phone", cause="silent")
        board.attached("phone", reconnect=True)
        board.replied()
        board.replaying(reason="0 of 1 clients gave a usable reply", seconds=2.0)
        failure = Failure(client="tablet\x1b", reason="the camera\nis broken")
        board.finished_round(record(1).model_copy(update={"failures": (failure,)}), rounds=10)
        board.failed(RunError("no power"))

    async def work() -> None:
        with board.subscribe() as watcher:
            thread = threading.Thread(target=run)
            thread.start()
            events = await collect(watcher)
            thread.join()
        assert texts(events) == [
            "pruning, 0 of 10 rounds done",
            "makes the initial mask in 100 steps",
            "asks 3 devices for statistics of the candidates",
            "waits for devices: 0 of 1 are attached",
            "phone attached",
            "a reply of phone was thrown away: wrong_digest",
            "a reply of phone came too late",
            "somebody was not let in: identity",
            "phone left: silent",
            "phone came back",
            "plays the round again in 2 s: 0 of 1 clients gave a usable reply",
            "round 1: tablet failed: the camera is broken",
            "round  1/10  accuracy 75.00%  up 100 B  down 200 B  client peak 1.0 kB  2.0 s",
            "failed: no power",
        ]
        assert events[-1].status.state == pb.STATE_FAILED
        assert events[-1].status.round == 1
        times = [event.time for event in events]
        assert times[0] > 1.7e9

    in_loop(work)


def test_the_selection_is_followed_step_by_step(tmp_path: Path) -> None:
    board = StatusBoard()
    started(board, tmp_path)
    candidate = CandidateRecord(name="random/erk", loss=2.25, kept=10, layer_density={})
    failure = Failure(client="tablet\x1b", reason="the camera\nis broken")
    selection = SelectionRecord(
        candidates=(candidate,), winner=0, replies=(2, 1), failures=(failure,), bytes_up=1000, bytes_down=7000
    )

    async def work() -> None:
        with board.subscribe() as watcher:
            board.selecting("statistics", 2)
            board.replied()
            assert (board.state(), board.status().asked, board.status().replied) == ("pruning", 2, 1)
            board.selecting("losses", 2)
            assert (board.status().asked, board.status().replied) == (2, 0)
            board.finished_round(record(0).model_copy(update={"selection": selection}), rounds=10)
            assert (board.status().bytes_up, board.status().bytes_down) == (1100, 7200)
            board.finished()
            assert texts(await collect(watcher))[1:5] == [
                "asks 2 devices for statistics of the candidates",
                "asks 2 devices for losses of the candidates",
                "selection: tablet failed: the camera is broken",
                "selection   1 candidate, random/erk wins with loss 2.250 (mean 2.250; 2 and 1 devices)",
            ]

    in_loop(work)


def test_what_devices_say_of_their_memory_is_told(tmp_path: Path) -> None:
    board = StatusBoard()
    started(board, tmp_path)
    failure = Failure(client="tablet\x1b", reason="the camera\nis broken")
    plans = PlanRecord(
        levels={0: 1, 2: 3}, refused=1, least_bytes=9_000_000, failures=(failure,), bytes_up=1000, bytes_down=7000
    )
    assert board.levels() == {}

    async def work() -> None:
        with board.subscribe() as watcher:
            board.planning(clients=6)
            board.planned({5: 0, 6: None})
            board.planned({5: 1})
            assert board.levels() == {5: 1, 6: None}
            board.finished_round(record(1).model_copy(update={"plans": plans}), rounds=10)
            assert (board.status().bytes_up, board.status().bytes_down) == (1100, 7200)
            board.finished()
            assert texts(await collect(watcher))[1:4] == [
                "asks 6 devices how much memory they have",
                "memory: tablet failed: the camera is broken",
                "memory      enough for level 0: 1 device, for level 2: 3 devices; "
                "too little: 1 device, 9.0 MB would do",
            ]

    in_loop(work)


def test_a_watcher_of_a_run_that_is_over_sees_how_it_ended_and_leaves(tmp_path: Path) -> None:
    board = StatusBoard()
    started(board, tmp_path)
    board.finished()

    async def work() -> None:
        with board.subscribe() as watcher:
            assert texts(await collect(watcher)) == ["finished, 0 of 10 rounds done"]

    in_loop(work)


def test_a_slow_watcher_loses_the_oldest_and_is_told_how_many() -> None:
    board = StatusBoard()

    async def work() -> None:
        with board.subscribe(size=3) as slow, board.subscribe(size=100) as quick:
            for number in range(10):
                board.note(f"event {number}")
            board.finished()
            assert texts(await collect(slow)) == ["9 earlier events are left out", "event 8", "event 9", "finished"]
            assert len(texts(await collect(quick))) == 12

    in_loop(work)


def test_progress_pushes_no_event_out() -> None:
    board = StatusBoard()

    async def work() -> None:
        with board.subscribe(size=2) as watcher:
            board.note("important")
            board.asked(round=1, clients=1000)
            for _ in range(1000):
                board.replied()
            stream = watcher.events()
            events = [await anext(stream) for _ in range(3)]
            assert texts(events) == ["waiting", "important"]
            assert (events[2].text, events[2].status.replied) == ("", 1000)

    in_loop(work)


def test_the_state_comes_again_and_again_though_nothing_happens() -> None:
    board = StatusBoard()

    async def work() -> None:
        with board.subscribe(beat=0.01) as watcher:
            stream = watcher.events()
            events = [await anext(stream) for _ in range(4)]
            assert [event.text for event in events] == ["waiting", "", "", ""]

    in_loop(work)


def test_a_watcher_whose_loop_is_gone_stops_nobody() -> None:
    board = StatusBoard()

    async def work() -> None:
        # Never left: its reader's loop ends with it inside.
        stack.enter_context(board.subscribe())

    stack = contextlib.ExitStack()
    in_loop(work)
    board.note("nobody hears this")
    board.finished()
    assert board.state() == "finished"


@given(st.integers(1, 8), st.lists(st.integers(0, 5), max_size=12))
def test_what_is_read_and_what_is_left_out_are_all_that_was_told(size: int, bursts: list[int]) -> None:
    board = StatusBoard()

    async def work() -> None:
        told, read, left_out = ["waiting"], [], 0
        with board.subscribe(size=size) as watcher:
            stream = watcher.events()
            for burst in bursts:
                for _ in range(burst):
                    told.append(f"event {len(told)}")
                    board.note(told[-1])
                    board.replied()
                event = await anext(stream) if burst else None
                if event is not None and event.text.endswith("left out"):
                    left_out += int(event.text.split()[0])
                elif event is not None and event.text:
                    read.append(event.text)
            board.finished()
            told.append("finished")
            async for event in stream:
                if event.text.endswith("left out"):
                    left_out += int(event.text.split()[0])
                elif event.text:
                    read.append(event.text)
        assert len(read) + left_out == len(told)
        assert read == [text for text in told if text in set(read)], "in order"
        assert read[-1] == "finished"

    in_loop(work)
