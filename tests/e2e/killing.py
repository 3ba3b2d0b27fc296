"""Small runs whose masks change, and processes of theirs that are killed on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from hedgerow.telemetry import read_records
from tests.e2e.command import only_run, start

__all__ = ["adjusting", "kill", "rounds", "wait_for"]


def adjusting(recipe: str) -> tuple[str, ...]:
    """Arguments of a run of seconds, of four rounds, whose mask changes in all but the last."""
    return (
        "simulate",
        f"--recipe={recipe}",
        "--model=lenet5",
        "--density=0.2",
        "--rounds=4",
        "--set=fleet.clients=3",
        "--set=fleet.cohort=3",
        "--set=training.epochs=1",
        "--set=training.steps=5",
        "--set=training.kernels=dense",
        "--set=adjustment.every=1",
        "--set=adjustment.until=3",
        "--set=wire.down=bf16",
        "--set=wire.up=uniform",
    )


def kill(*arguments: str, cwd: Path, reached: Callable[[Path], bool]) -> None:
    """Starts `hedgerow` in `cwd`, and kills it as soon as that is reached, which has to be before its end."""
    process = start(*arguments, cwd=cwd)
    wait_for(lambda: reached(cwd), process.poll)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, "it had not ended yet"


def rounds(cwd: Path) -> int:
    """The last round that is on disk; -1 where none is."""
    found = list(cwd.glob("runs/*/checkpoint.safetensors"))
    return read_records(only_run(cwd) / "metrics.jsonl")[-1].round if found else -1


def wait_for(reached: Callable[[], bool], ended: Callable[[], int | None]) -> None:
    """Until that is reached, by a process that must not end before it."""
    deadline = time.monotonic() + 120
    while not reached():
        assert ended() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
