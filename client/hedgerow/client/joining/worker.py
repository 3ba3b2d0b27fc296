"""The worker process of a device, as the process that keeps the stream sees it (`hedgerow.wire.worker`)."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from hedgerow.wire.launch import launch_worker

__all__ = ["Answer", "Failed", "Worker", "WorkerProcess"]

CLIENT_APP = "hedgerow.client.app:app"
_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client app replied: a whole message, and its state after it."""

    message: bytes
    state: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no reply."""

    reason: str


class Worker(Protocol):
    """Answers one message at a time."""

    @property
    def pid(self) -> int:
        """Of its process."""

    @property
    def alive(self) -> bool:
        """Whether it can answer."""

    def answer(self, message: bytes, *, state: bytes, node_config: Mapping[str, object]) -> Answer | Failed:
        """Blocks until there is an answer, or the process is gone."""

    def kill(self) -> None:
        """Ends it at once, in any thread; `answer` then returns."""

    def close(self) -> None:
        """Ends it and waits for that; `answer` may not be running."""


class WorkerProcess:
    """A worker process. It imports torch while it waits for its first message.

    Args:
        run_config: Flower's, for the client app; JSON.
        app: the client app, as `package.module:attribute`.
        threads: that it trains with.
        tell: is given each line that the client logs while it answers, in the thread that waits for the answer.
    """

    def __init__(
        self, run_config: str, *, app: str = CLIENT_APP, threads: int = 1, tell: Callable[[str], object] | None = None
    ) -> None:
        self._tell = tell
        self._process, self._connection = launch_worker(
            app, run_config=run_config.encode(), threads=threads, notes=tell is not None
        )

    @property
    def pid(self) -> int:
        """See `Worker`."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """See `Worker`."""
        return self._process.poll() is None

    def answer(self, message: bytes, *, state: bytes, node_config: Mapping[str, object]) -> Answer | Failed:
        """See `Worker`."""
        try:
            for frame in (json.dumps(dict(node_config)).encode(), state, message):
                self._connection.send_bytes(frame)
            kind, first, second = self._frames()
            while kind == b"note":
                if self._tell is not None:
                    self._tell(first.decode(errors="replace"))
                kind, first, second = self._frames()
        except (EOFError, OSError):
            self.kill()
            code = self._process.wait()
            return Failed(f"its worker process died with exit code {code}")
        return Answer(first, second) if kind == b"ok" else Failed(first.decode(errors="replace"))

    def kill(self) -> None:
        """See `Worker`."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """See `Worker`."""
        self.kill()
        self._process.wait()
        self._connection.close()

    def _frames(self) -> tuple[bytes, bytes, bytes]:
        return self._receive(), self._receive(), self._receive()

    def _receive(self) -> bytes:
        # What the worker has started may hold its end of the socket open, so that is no proof that it lives.
        while not self._connection.poll(_POLL_SECONDS):
            if self._process.poll() is not None and not self._connection.poll():
                raise EOFError
        return self._connection.recv_bytes()
