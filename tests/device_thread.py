"""A device at work in a thread of a test; its worker is a stub."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc

from hedgerow.client.joining.agent import Device, serve
from hedgerow.client.joining.backoff import Backoff
from hedgerow.client.joining.desk import Desk
from hedgerow.client.joining.progress import Progress
from hedgerow.client.joining.store import DeviceFolder
from hedgerow.client.joining.worker import Answer, Failed
from tests.waiting import PATIENCE

__all__ = ["Running", "StubWorker"]


class StubWorker:
    """Answers in upper case and counts in its state; `hold` does not answer until it is killed."""

    made: list[StubWorker]

    def __init__(self, run_config: str) -> None:
        self.run_config, self.alive, self.pid = run_config, True, 0
        self.asked: list[tuple[bytes, bytes, dict[str, object]]] = []
        self._killed = threading.Event()
        StubWorker.made.append(self)

    def answer(self, message: bytes, *, state: bytes, node_config: Mapping[str, object]) -> Answer | Failed:
        self.asked.append((message, state, dict(node_config)))
        if b"hold" in message:
            assert self._killed.wait(PATIENCE)
        if b"slow" in message:
            self._killed.wait(0.3)
        if b"raise" in message:
            return Failed("the loss became nan")
        if b"bug" in message:
            raise KeyError("x")
        if self._killed.is_set():
            return Failed("its worker process died with exit code -9")
        return Answer(message.upper(), state + b"|")

    def kill(self) -> None:
        self.alive = False
        self._killed.set()

    def close(self) -> None:
        self.kill()


class Impatient(Backoff):
    """Hardly waits, and remembers how long it should have."""

    def __init__(self) -> None:
        super().__init__(Random(0))
        self.waits: list[float] = []

    def next(self) -> float:
        self.waits.append(super().next())
        return 0.01


@dataclass
class Told(Progress):
    """What the user would have been told."""

    lines: list[str] = field(default_factory=list)

    def joined(self, *, run: str) -> None:
        self.lines.append(f"joined {run}")

    def training(self, round: int) -> None:
        self.lines.append(f"training {round}")

    def replied(self, round: int, *, size: int, seconds: float | None) -> None:
        self.lines.append(f"replied {round} with {size}, {'kept' if seconds is None else 'new'}")

    def failed(self, round: int, *, reason: str) -> None:
        self.lines.append(f"failed {round}: {reason}")

    def abandoned(self, round: int) -> None:
        self.lines.append(f"abandoned {round}")

    def refused(self, round: int, *, reason: str) -> None:
        self.lines.append(f"refused {round}: {reason}")

    def lost(self, reason: str, *, seconds: float) -> None:
        self.lines.append(f"lost: {reason}")

    def hint(self, text: str) -> None:
        self.lines.append(f"hint: {text}")

    def finished(self, *, waits: bool) -> None:
        self.lines.append("finished, waits" if waits else "finished")


class Running:
    """A device at work in a thread of its own, as its process would be; `leave` is a kill as far as its folder goes."""

    def __init__(
        self,
        address: str,
        state: Path,
        *,
        once: bool = False,
        memory: int = 10**9,
        part: int | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.told, self.backoff = Told(), Impatient()
        self.error: BaseException | None = None
        self.state, self._part = state, part
        self._device = Device(
            name="pi", address=address, credentials=credentials, memory_bytes=memory, examples=5, once=once
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        loop, task = self._loop, self._task
        if loop is not None and task is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        self.join()

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.error = error

    async def _serve(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        node_config: dict[str, object] = {"data": "digits"} if self._part is None else {"partition-id": self._part}
        with DeviceFolder(self.state) as folder:
            desk = Desk(folder, node_config=node_config, start_worker=StubWorker, progress=self.told)
            try:
                await serve(self._device, desk=desk, progress=self.told, backoff=self.backoff)
            finally:
                await desk.close()
