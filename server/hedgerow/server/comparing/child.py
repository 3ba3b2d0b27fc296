"""One run of a comparison, as a process of its own: `python -m hedgerow.server.comparing.child FILE OUT WORKERS`.

It is `hedgerow simulate`, and ends like it at SIGTERM when whoever started it is gone: nobody would look after it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

__all__ = ["main"]


def main(file: str, out: str, workers: str) -> None:
    """Runs the experiment of a file to its end, or goes on with it. Standard input is a pipe that nothing is sent
    through: the kernel closes its other end however the process there dies.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from hedgerow.cli import main as command

    sys.argv = ["hedgerow", "simulate", file, "--out", out, "--workers", workers]
    command()


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(*sys.argv[1:])
