"""Processes side by side, as many at once as asked; none outlives the block that started it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["in_parallel"]

T = TypeVar("T")

_PAUSE = 0.1
_GRACE = 60.0
"""Seconds that a process has to end after SIGTERM: a run finishes what it writes."""


def in_parallel(
    tasks: Iterable[T],
    *,
    jobs: int,
    start: Callable[[T], subprocess.Popen[bytes]],
    ended: Callable[[T, int], None],
    pulse: Callable[[], None] = lambda: None,
) -> None:
    """Starts a process for each task, `jobs` at once, in order, and waits for all of them.

    However this is left, none of the processes is there any more: they get SIGTERM, and SIGKILL where that does not do,
    or when the user presses Ctrl-C once more.

    Args:
        tasks: what to do.
        jobs: at least 1.
        start: starts the process of a task.
        ended: is told the exit code of each, -N of signal N, after the next one was started.
        pulse: is called some times a second.
    """
    queue = deque(tasks)
    going: list[tuple[T, subprocess.Popen[bytes]]] = []
    try:
        while queue or going:
            over = [(task, process) for task, process in going if process.poll() is not None]
            going = [pair for pair in going if pair not in over]
            while queue and len(going) < jobs:
                going.append((queue[0], start(queue[0])))
                queue.popleft()
            for task, process in over:
                _forget(process)
                ended(task, process.returncode)
            pulse()
            if not over:
                time.sleep(_PAUSE)
    finally:
        _end([process for _, process in going])


def _end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    living = [process for process in processes if process.poll() is None]
    try:
        for process in living:
            process.terminate()
        deadline = time.monotonic() + _GRACE
        for process in living:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in living:
            if process.poll() is None:
                process.kill()
                process.wait()
            _forget(process)


def _forget(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
