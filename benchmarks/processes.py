"""Processes that a benchmark starts: each with a log, bounded in time, and all of them gone when the benchmark is."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from hedgerow.errors import RunError

__all__ = [
    "HEDGEROW",
    "ROOT",
    "Children",
    "answer",
    "family",
    "free_port",
    "memory_bytes",
    "processor_seconds",
    "wait_until",
]

ROOT = Path(__file__).parents[1]
HEDGEROW = (sys.executable, "-c", "from hedgerow.cli import main; main()")
"""The command, whether or not it is on the path."""

_MARK = "HEDGEROW_BENCHMARK"


class Children:
    """Processes that are gone when the block is left, and whatever they started too.

    Args:
        folder: where they run and log to; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # Flower's daemons leave their children behind in sessions of their own; all inherit this.
        self._mark = secrets.token_hex(8)
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str | Path],
        *,
        name: str,
        talks: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts one; it logs to `NAME.log` at its end. With `talks`, its standard input and output are pipes."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                env={**self._environment(), **(environment or {})},
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else log,
                stderr=log,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], *, kill: bool = False, seconds: float = 10.0) -> None:
        """Ends one with SIGTERM, or with SIGKILL when it does not hear or `kill` is given."""
        if not kill:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def log(self, name: str, *, characters: int = 2000) -> str:
        """The end of a process's log."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    def left(self) -> list[int]:
        """Processes that still live, whoever started them, this one's children included."""
        sign = f"{_MARK}={self._mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                # It may end while it is looked at, or be another user's.
                with contextlib.suppress(OSError):
                    if sign in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def _environment(self) -> dict[str, str]:
        path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(path),
            "FLWR_HOME": str(self.folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            # Sums come out the same only in the same order.
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
            _MARK: self._mark,
        }

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._started:
            if process.poll() is None:
                # A stopped one would not hear the other.
                process.send_signal(signal.SIGCONT)
                process.terminate()
        end = time.monotonic() + 5.0
        for process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            self.stop(process, kill=True)
        end = time.monotonic() + 5.0
        # Again, since one may have started another in between.
        while (left := self.left()) and time.monotonic() < end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def answer(process: subprocess.Popen[bytes], request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Sends a process that `talks` a line of JSON, and gives the line that it answers; None = only reads.

    Raises:
        RunError: it has ended.
    """
    assert process.stdin is not None
    output: IO[bytes] | None = process.stdout
    assert output is not None
    line = b""
    with contextlib.suppress(OSError):
        if request is not None:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        line = output.readline()
    if not line:
        raise RunError(f"process {process.pid} of the benchmark ended before it had answered; see its log")
    value: dict[str, Any] = json.loads(line)
    return value


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float, poll: float = 0.05) -> float:
    """Returns when the condition holds, with the seconds that it took; `what` is it in words.

    Raises:
        RunError: it does not hold in that time.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise RunError(f"waited {seconds:g} s in vain until {what}")
        time.sleep(poll)
    return time.monotonic() - began


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # It may end while it is looked at. The name in brackets may hold blanks.
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def memory_bytes(pid: int) -> tuple[int, int]:
    """Resident memory of a process in bytes: now, and at most so far."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    now, most = (1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return now, most


def processor_seconds(pid: int) -> float:
    """Processor time that a process has taken, in all its threads."""
    # The name in brackets may hold blanks.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
