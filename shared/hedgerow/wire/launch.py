"""Starting a worker process (`hedgerow.wire.worker`), from processes that themselves need neither torch nor Flower."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

__all__ = ["HUGE_PAGES", "QUIET_PROFILER", "launch_worker"]

QUIET_PROFILER = {"KINETO_LOG_LEVEL": "99"}
"""Environment in which torch's profiler prints nothing; it has to be there when torch is first imported."""
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""Environment in which torch asks Linux for pages of 2 MiB for tensors of that size and larger; it is read at the first
allocation. A step of a ResNet-18 of which 1 % is kept takes 7 % less time."""


def launch_worker(
    app: str, *, run_config: bytes, threads: int = 1, notes: bool = False
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Starts a worker, which imports torch while it waits for its first message.

    Args:
        app: the ClientApp, as `package.module:attribute`.
        run_config: what it sees as `context.run_config`; JSON.
        threads: that it trains with.
        notes: whether it sends what it logs too.

    Returns:
        The process, in a session of its own, and this end of the socket to it. It ends when that is closed.
    """
    ours, theirs = socket.socketpair()
    descriptor = theirs.fileno()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "hedgerow.wire.worker", str(descriptor), app, *(["notes"] if notes else [])],
            pass_fds=[descriptor],
            env={**HUGE_PAGES, **os.environ, **QUIET_PROFILER, **_threads(threads)},
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for this process, which then ends the worker and all that it has started.
            start_new_session=True,
        )
    connection = Connection(ours.detach())
    with contextlib.suppress(OSError):  # it died already, and whoever reads will see
        connection.send_bytes(run_config)
    return process, connection


def _threads(count: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}
