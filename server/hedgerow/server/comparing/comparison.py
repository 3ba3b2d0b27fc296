"""`compare`: runs what a plan has and nobody ran yet, and writes what it comes to."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hedgerow.errors import InterruptedRunError
from hedgerow.server.comparing.estimating import remaining_seconds
from hedgerow.server.comparing.folder import ComparisonFolder, Found
from hedgerow.server.comparing.plan import Plan, Run
from hedgerow.server.comparing.scheduling import in_parallel
from hedgerow.server.comparing.telling import Teller
from hedgerow.server.signals import terminable

__all__ = ["compare"]

Write = Callable[[list[Found]], None]
_WRITE_SECONDS = 5.0
"""Runs of seconds end faster than a page is drawn; it is not drawn more often than that."""


def compare(plan: Plan, path: Path, *, jobs: int, workers: int, teller: Teller, write: Write) -> list[Found]:
    """Runs what is not done yet, and gives how all runs stand. A run that fails does not keep others from running.

    Args:
        plan: what to run.
        path: the comparison's folder.
        jobs: runs at once.
        workers: processes in which each run trains its clients.
        teller: is told how it goes.
        write: writes what is there so far; called before the first run, after runs, and at the end.

    Raises:
        RunError: the folder cannot be used.
        InterruptedRunError: the user pressed Ctrl-C, or it was sent SIGTERM; nothing that was done is lost.
    """
    with terminable(), ComparisonFolder(path) as folder:
        reasons: dict[Run, str] = {}
        lengths: dict[Run, int] = {}
        written = time.monotonic()

        def stand() -> list[Found]:
            return [folder.found(run, reason=reasons.get(run)) for run in plan.runs]

        def start(run: Run) -> subprocess.Popen[bytes]:
            process, lengths[run] = _start(run, folder, workers=workers)
            return process

        def ended(run: Run, code: int) -> None:
            nonlocal written
            if code != 0:
                reasons[run] = folder.failure(run, code=code, since=lengths[run])
            now = stand()
            teller.ended(run, now, remaining=remaining_seconds(now, jobs=jobs))
            if time.monotonic() > written + _WRITE_SECONDS:
                write(now)
                written = time.monotonic()

        found = stand()
        waiting = [one.run for one in found if one.stage != "done"]
        try:
            teller.started(found, jobs=jobs, remaining=remaining_seconds(found, jobs=jobs))
            write(found)
            rounds = functools.partial(_rounds, plan, folder)
            in_parallel(waiting, jobs=jobs, start=start, ended=ended, pulse=lambda: teller.pulse(rounds))
        except KeyboardInterrupt:
            found = stand()
            write(found)
            done = sum(one.stage == "done" for one in found)
            raise InterruptedRunError(
                f"stopped; {done} of {len(found)} runs are done in {path}, and the same command goes on from there"
            ) from None
        finally:
            teller.close()
        found = stand()
        write(found)
        return found


def _rounds(plan: Plan, folder: ComparisonFolder) -> int:
    return sum(folder.rounds_done(run) for run in plan.runs)


def _start(run: Run, folder: ComparisonFolder, *, workers: int) -> tuple[subprocess.Popen[bytes], int]:
    settings = folder.write_settings(run)
    command = [sys.executable, "-m", "hedgerow.server.comparing.child", str(settings), str(folder.place(run))]
    with folder.log(run).open("ab") as log:
        length = log.tell()
        process = subprocess.Popen(
            [*command, str(workers)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[folder.lock],
            # One thread each, where the user does not say otherwise: the cores are for other runs, and sums come out
            # the same however many there are.
            env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            # Ctrl-C is for this process, which then ends its runs.
            start_new_session=True,
        )
        return process, length
