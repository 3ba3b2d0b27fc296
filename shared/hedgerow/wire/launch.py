"""Starting a worker process (`hedgerow.wire.worker`), from processes that themselves need neither torch nor Flower."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection

__all__ = ["QUIET_PROFILER", "launch_worker"]

QUIET_PROFILER = {"KINETO_LOG_LEVEL": "99"}
"""Environment in which torch's profiler prints nothing; it has to be there when torch is first imported."""


def launch_worker(app: str, *, run_config: bytes, threads: int = 1) -> tuple[subprocess.Popen[bytes], Connection]:
    """Starts a worker, which imports torch while it waits for its first message.

    Args:
        app: the ClientApp, as `package.module:attribute`.
        run_config: what it sees as `context.run_config`; JSON.
        threads: that it trains with.

    Returns:
        The process, in a session of its own, and this end of the socket to it. It ends when that is closed.
    """
    ours, theirs = socket.socketpair()
    descriptor = theirs.fileno()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "hedgerow.wire.worker", str(descriptor), app],
            pass_fds=[descriptor],
            env={**os.environ, **QUIET_PROFILER, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for this process, which then ends the worker and all that it has started.
            start_new_session=True,
        )
    connection = Connection(ours.detach())
    with contextlib.suppress(OSError):  # it died already, and whoever reads will see
        connection.send_bytes(run_config)
    return process, connection
