"""`hedgerow status`, `watch`, `evict` and `fetch` as their user runs them, against a coordinator's control service."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from hedgerow.artifact import artifact_bytes, load_artifact
from hedgerow.errors import RunError
from hedgerow.identity import server_credentials
from hedgerow.identity.issuing import issue, make_authority
from hedgerow.identity.reading import identity_bytes
from hedgerow.pruning import Mask
from hedgerow.server.control.board import StatusBoard
from tests.e2e.command import HEDGEROW
from tests.unit.control_server import PHONE, ControlServer, FakeFleet, record

ENVIRONMENT = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1", "TZ": "UTC"}


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*HEDGEROW, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def operator(*arguments: str | Path, cwd: Path, code: int = 0) -> tuple[str, str]:
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in out + err
    return out, err


def refused(*arguments: str | Path, cwd: Path, code: int, saying: str) -> None:
    out, err = operator(*arguments, cwd=cwd, code=code)
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("hedgerow: ")
    assert saying in err


@pytest.fixture
def board(tmp_path: Path) -> StatusBoard:
    board = StatusBoard(run="run-1")
    board.started(folder=tmp_path, description="hidenseek: conv4 on digits", rounds=10, done=0)
    board.attached("phone", reconnect=False)
    board.asked(round=1, clients=2)
    board.finished_round(record(1), rounds=10)
    board.asked(round=2, clients=2)
    board.replied()
    return board


@pytest.fixture
def server(board: StatusBoard, tmp_path: Path) -> Iterator[ControlServer]:
    with ControlServer(board, model=tmp_path / "run.safetensors", fleet=FakeFleet(PHONE)) as running:
        yield running


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Lines of stdout, up to one that holds `text`."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"it ended without {text!r}: {lines} {process.communicate()}")


@contextmanager
def watching(server: ControlServer, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    process = start("watch", server.address, cwd=cwd)
    # Whoever waits for a line in vain gets the end of the output instead.
    deadline = threading.Timer(60, process.kill)
    deadline.start()
    try:
        yield process
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()


def test_status_shows_the_run_and_a_row_for_each_device(server: ControlServer, tmp_path: Path) -> None:
    out, err = operator("status", server.address, cwd=tmp_path)
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "hidenseek: conv4 on digits"
    assert lines[1].startswith("  run       run-1, training, for ")
    assert lines[2] == "  rounds    1 of 10, the last took 2.00 s; 1 of 2 replies of the next are in"
    assert lines[3] == "  result    accuracy 75.00%, loss 0.500, 10 kept weights, density 0.1"
    assert lines[4] == "  bytes     up 100 B, down 200 B"
    assert lines[5] == "  devices   1 attached, 0 needed"
    (row,) = [line.split() for line in lines if line.startswith("phone")]
    assert row == ["phone", "works", "4", "310", "MB", "1,234", "0.50", "s", "2", "1"]


def test_status_as_json_holds_numbers_that_programs_can_use(server: ControlServer, tmp_path: Path) -> None:
    out, _ = operator("status", server.address, "--json", cwd=tmp_path)
    facts = json.loads(out)
    assert facts["state"] == "training"
    assert (facts["round"], facts["rounds"], facts["accuracy"], facts["bytes_up"]) == (1, 10, 0.75, 100)
    (device,) = facts["devices"]
    assert (device["name"], device["attached"], device["memory_bytes"]) == ("phone", True, 4_000_000_000)


def test_status_before_the_first_round(tmp_path: Path) -> None:
    with ControlServer(StatusBoard(), model=tmp_path / "m") as server:
        out, _ = operator("status", server.address, cwd=tmp_path)
        assert "the run is being prepared" in out
        assert "no mask yet" in out
        facts = json.loads(operator("status", server.address, "--json", cwd=tmp_path)[0])
        assert (facts["accuracy"], facts["loss"], facts["devices"]) == (None, None, [])


def test_evict_shuts_a_device_out(server: ControlServer, tmp_path: Path) -> None:
    out, _ = operator("evict", server.address, "phone", cwd=tmp_path)
    assert out == "evicted phone; it is refused for the rest of the run\n"
    assert json.loads(operator("status", server.address, "--json", cwd=tmp_path)[0])["devices"][0]["evicted"]
    refused("evict", server.address, "tablet", cwd=tmp_path, code=2, saying="no device called 'tablet' ever attached")


def test_watch_follows_to_the_end_and_through_a_restart(
    server: ControlServer, board: StatusBoard, tmp_path: Path
) -> None:
    with watching(server, tmp_path) as process:
        first = read_until(process, "training")
        assert first[-1][8:] == "  training, 1 of 10 rounds done\n"
        board.finished_round(record(2), rounds=10)
        read_until(process, "round 2/10 accuracy 75.00%")
        server.stop(grace=None)
        read_until(process, "lost the coordinator, trying again: ")
        again = StatusBoard(run="run-1")
        again.started(folder=tmp_path, description="hidenseek: conv4 on digits", rounds=10, done=2)
        with ControlServer(again, model=tmp_path / "m", port=server.port):
            read_until(process, "training, 2 of 10 rounds done")
            again.finished()
            read_until(process, "finished, 2 of 10 rounds done")
            assert process.wait(timeout=60) == 0


def test_watch_fails_when_the_run_does(server: ControlServer, board: StatusBoard, tmp_path: Path) -> None:
    with watching(server, tmp_path) as process:
        read_until(process, "training")
        board.failed(RunError("the disk is full"))
        out, err = process.communicate(timeout=60)
        assert "failed: the disk is full" in out
        assert err == "hedgerow: the run failed: the disk is full; its coordinator's output says more\n"
        assert process.returncode == 1


def test_watch_is_stopped_without_a_traceback(server: ControlServer, tmp_path: Path) -> None:
    with watching(server, tmp_path) as process:
        read_until(process, "training")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Traceback" not in err


def test_watch_draws_a_panel_on_a_terminal(server: ControlServer, board: StatusBoard, tmp_path: Path) -> None:
    main, side = pty.openpty()
    command = [*HEDGEROW, "watch", server.address]
    environment = {**ENVIRONMENT, "TERM": "xterm", "LINES": "40"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=side, stdout=side, stderr=side)
    os.close(side)
    try:
        shown = _read_terminal(main, until=lambda text: "training, 1 of 10 rounds done" in text and "1/10" in text)
        assert "hidenseek: conv4 on digits" in shown
        assert "━" in shown, "a progress bar"
        board.finished()
        _read_terminal(main, until=lambda text: "finished, 1 of 10 rounds done" in text)
        # What nobody reads would hold it up.
        _read_terminal(main, until=lambda text: process.poll() is not None)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)


def _read_terminal(terminal: int, *, until: Callable[[str], bool]) -> str:
    content, deadline = b"", time.monotonic() + 60
    while not until(content.decode(errors="replace")):
        assert time.monotonic() < deadline, content
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                content += os.read(terminal, 1 << 16)
            except OSError:  # the other end is closed
                time.sleep(0.01)
    return content.decode(errors="replace")


def model_file(path: Path) -> dict[str, torch.Tensor]:
    weights = {"a.weight": torch.tensor([[1.0, 0.0], [0.0, -2.0]]), "a.bias": torch.zeros(2)}
    mask = Mask({"a.weight": weights["a.weight"] != 0})
    path.write_bytes(artifact_bytes(weights, mask, metadata={}))
    return weights


def test_fetch_brings_the_model_of_a_finished_run(server: ControlServer, board: StatusBoard, tmp_path: Path) -> None:
    refused("fetch", server.address, cwd=tmp_path, code=1, saying="the run is training, 1 of 10 rounds are done")
    weights = model_file(tmp_path / "run.safetensors")
    board.finished()
    (tmp_path / "out").mkdir()
    out, _ = operator("fetch", server.address, "--out", "out/mine.safetensors", cwd=tmp_path)
    assert out.startswith("out/mine.safetensors: ")
    assert out.endswith(", 2 tensors\n")
    fetched = load_artifact(tmp_path / "out" / "mine.safetensors")
    assert all(torch.equal(fetched[name], weight) for name, weight in weights.items())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.safetensors"]
    refused("fetch", server.address, "--out", "out", cwd=tmp_path, code=1, saying="out is a folder")
    refused("fetch", server.address, "--out", "no/file", cwd=tmp_path, code=1, saying="no/file cannot be written")


def test_fetch_leaves_the_old_file_when_what_came_is_no_model(
    server: ControlServer, board: StatusBoard, tmp_path: Path
) -> None:
    (tmp_path / "run.safetensors").write_bytes(b"<html>no model</html>")
    board.finished()
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"the old one")
    refused("fetch", server.address, cwd=folder, code=1, saying="what it sent is no usable model (not a readable model")
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"the old one"


@pytest.mark.parametrize("command", [["status"], ["watch"], ["evict", "phone"], ["fetch"]])
def test_each_command_says_in_one_sentence_why_it_gets_no_answer(command: list[str], tmp_path: Path) -> None:
    with ControlServer(StatusBoard(), model=tmp_path / "m") as server:
        nobody = server.address
    name, *rest = command
    refused(name, nobody, *rest, cwd=tmp_path, code=4, saying="nobody listens there; start `hedgerow coordinator`")
    refused(name, "pi.local", *rest, cwd=tmp_path, code=3, saying="give --identity FILE.pem, which `hedgerow enrol")
    refused(name, "a:b:c", *rest, cwd=tmp_path, code=2, saying="expected HOST:PORT")
    absent = ["--identity", "absent.pem"]
    refused(name, nobody, *rest, *absent, cwd=tmp_path, code=3, saying="absent.pem: no such file")
    assert list(tmp_path.iterdir()) == []


def test_over_tls_an_operators_identity_is_let_in_and_a_devices_is_not(board: StatusBoard, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = make_authority(now=now)
    coordinator, _ = issue(authority, name="coordinator", role="coordinator", hosts=["localhost"], now=now)
    for role in ("operator", "device"):
        identity, _ = issue(authority, name="me", role="operator" if role == "operator" else "device", now=now)
        path = tmp_path / f"{role}.pem"
        path.touch(mode=0o600)
        path.write_bytes(identity_bytes(identity))
    with ControlServer(board, model=tmp_path / "m", credentials=server_credentials(coordinator)) as server:
        out, _ = operator("status", server.address, "--identity", "operator.pem", cwd=tmp_path)
        assert "hidenseek: conv4 on digits" in out
        device = ["--identity", "device.pem"]
        refused("status", server.address, *device, cwd=tmp_path, code=3, saying="but an operator's is needed here")
        refused("status", server.address, cwd=tmp_path, code=4, saying="a coordinator with TLS lets nobody in without")
