"""Processes side by side, and the folder that tells how runs stand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hedgerow.config import load_experiment
from hedgerow.errors import RunError
from hedgerow.server.comparing.folder import ComparisonFolder
from hedgerow.server.comparing.plan import Run
from hedgerow.server.comparing.scheduling import in_parallel
from tests.unit.control_server import record
from tests.waiting import until

RUN = Run(line="mine", seed=3, experiment=load_experiment(overrides=[("seed", 3), ("rounds", 2)]))


def shell(command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def test_all_run_in_order_and_each_ends_with_its_code() -> None:
    started: list[int] = []
    ended: dict[int, int] = {}

    def start(code: int) -> subprocess.Popen[bytes]:
        started.append(code)
        return shell(f"exit {code}")

    in_parallel([0, 3, 1, 2], jobs=2, start=start, ended=ended.__setitem__)
    assert started == [0, 3, 1, 2]
    assert ended == {0: 0, 3: 3, 1: 1, 2: 2}


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_never_more_than_asked_are_there_at_once(jobs: int) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    living: list[int] = []

    def start(task: int) -> subprocess.Popen[bytes]:
        living.append(sum(process.poll() is None for process in processes))
        processes.append(shell("sleep 0.05"))
        return processes[-1]

    in_parallel(range(6), jobs=jobs, start=start, ended=lambda task, code: None)
    assert len(processes) == 6
    assert max(living) < jobs


def test_a_signal_is_an_exit_code_below_zero() -> None:
    codes: list[int] = []
    in_parallel([0], jobs=1, start=lambda _: shell("kill -9 $$"), ended=lambda _, code: codes.append(code))
    assert codes == [-signal.SIGKILL]


def test_whatever_ends_the_block_ends_the_processes_too() -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def start(task: int) -> subprocess.Popen[bytes]:
        processes.append(shell("exec sleep 600"))
        return processes[-1]

    def pulse() -> None:
        if len(processes) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_parallel(range(5), jobs=2, start=start, ended=lambda task, code: None, pulse=pulse)
    assert [process.poll() for process in processes] == [-signal.SIGTERM] * 2


def test_a_run_ends_when_whoever_started_it_is_gone(tmp_path: Path) -> None:
    # A file that nobody writes into keeps the command waiting in the midst of its start.
    os.mkfifo(tmp_path / "experiment.toml")
    command = [sys.executable, "-m", "hedgerow.server.comparing.child", "experiment.toml", "out", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    time.sleep(0.2)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(60) == -signal.SIGTERM


def test_a_run_stands_where_its_files_say(tmp_path: Path) -> None:
    with ComparisonFolder(tmp_path / "some") as folder:
        assert folder.found(RUN).stage == "waiting"
        assert folder.rounds_done(RUN) == 0
        place = folder.run_folder(RUN)
        assert place == tmp_path / "some/runs/mine/seed-3" / RUN.experiment.digest()
        place.mkdir(parents=True)
        lines = [record(number).model_dump_json() + "\n" for number in range(3)]
        (place / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:50])
        assert folder.found(RUN).stage == "begun"
        assert [r.round for r in folder.found(RUN).records] == [0, 1]
        assert folder.rounds_done(RUN) == 1
        (place / "metrics.jsonl").write_text("".join(lines))
        assert folder.found(RUN).stage == "begun", "its model and report are not there"
        failed = folder.found(RUN, reason="no memory")
        assert (failed.stage, failed.reason, len(failed.records)) == ("failed", "no memory", 3)
        for name in ("model.safetensors", "report.html"):
            (place / name).touch()
        assert folder.found(RUN).stage == "done"
        assert folder.found(RUN, reason="it was killed after its last line").stage == "done"
        (place / "metrics.jsonl").write_text("{}\n")
        assert folder.found(RUN).stage == "waiting", "run again, it says what is wrong with the file"


def test_the_settings_that_a_run_is_given_are_its_own(tmp_path: Path) -> None:
    with ComparisonFolder(tmp_path) as folder:
        path = folder.write_settings(RUN)
    assert load_experiment(path) == RUN.experiment
    assert path.stem == RUN.experiment.digest()


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        ("round 1\nhedgerow: the data is missing; give it\n", 1, "the data is missing; give it"),
        ("some warning\n", 70, "it ended with exit code 70 after 'some warning'; see "),
        ("hedgerow: odd\nround 5\n", -9, "it was ended by signal 9 after 'round 5'; see "),
        ("", -15, "it was ended by signal 15; see "),
        ("hedgerow: \x1b[31mred\n", 1, "[31mred"),
    ],
)
def test_a_failure_is_what_the_run_said_last(log: str, code: int, reason: str, tmp_path: Path) -> None:
    with ComparisonFolder(tmp_path) as folder:
        folder.log(RUN).parent.mkdir(parents=True)
        folder.log(RUN).write_text("hedgerow: of the time before\n" + log)
        assert folder.failure(RUN, code=code, since=29).startswith(reason)


def test_a_folder_is_one_comparisons_and_stays_so_while_a_run_has_its_lock(tmp_path: Path) -> None:
    with ComparisonFolder(tmp_path) as folder:
        with pytest.raises(RunError, match="another process is at this comparison"):
            ComparisonFolder(tmp_path)
        child = subprocess.Popen(["sh", "-c", "read line"], stdin=subprocess.PIPE, pass_fds=[folder.lock])
    with pytest.raises(RunError, match="its runs are just ending"):
        ComparisonFolder(tmp_path)
    child.communicate(b"\n")

    def free() -> bool:
        ComparisonFolder(tmp_path).close()
        return True

    assert until(free)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        ComparisonFolder(tmp_path / "file" / "some")
