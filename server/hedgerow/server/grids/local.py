"""The local grid: many clients in a few worker processes of this machine, no network.

Every message is really encoded and decoded, so bytes are real. Clients are not bound to workers; what a client must
remember lies in a `StateStore` and travels to the worker with its message.
"""

from __future__ import annotations

import json
import subprocess
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self

from flwr.app import Message

from hedgerow.machine import cores
from hedgerow.server.grids.base import WaitingGrid
from hedgerow.wire.flower import (
    assign_message_id,
    decode_message,
    encode_message,
    error_reply,
    identify_process,
)
from hedgerow.wire.launch import launch_worker
from hedgerow.wire.states import StateStore

__all__ = ["FIRST_NODE", "LocalGrid"]

FIRST_NODE = 2
"""Node of partition 0; Flower keeps 1 for the SuperLink."""


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    message: Message | None = None
    """What it is working on."""


class LocalGrid(WaitingGrid):
    """Flower's `Grid` over worker processes.

    Args:
        clients: how many there are; client k is node FIRST_NODE + k.
        client_app: the ClientApp, as `package.module:attribute`.
        run_config: what every client sees as `context.run_config`.
        states: where the clients' states live.
        workers: processes; as many as cores when None.
    """

    def __init__(
        self,
        *,
        clients: int,
        client_app: str,
        run_config: Mapping[str, str],
        states: StateStore,
        workers: int | None = None,
    ) -> None:
        identify_process()
        self._clients, self._client_app, self._run_config = clients, client_app, json.dumps(dict(run_config)).encode()
        self._states = states
        self._queue: deque[Message] = deque()
        self._inbox: dict[str, Message] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._count = min(clients, workers if workers is not None else cores())
        self._workers: list[_Worker] = []

    def get_node_ids(self) -> Iterable[int]:
        """All simulated clients are always there."""
        return range(FIRST_NODE, FIRST_NODE + self._clients)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queues messages for the workers, who start with the first; the group of each is its round."""
        # Not before: what is measured on this machine until then is not to be disturbed by their start.
        self._workers = self._workers or [self._start() for _ in range(self._count)]
        identifiers = []
        for message in messages:
            identifiers.append(assign_message_id(message))
            self._queue.append(message)
        self._dispatch()
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived."""
        self.wait(0)
        return [self._inbox.pop(i) for i in list(message_ids) if i in self._inbox]

    def take_sizes(self, message_id: str) -> tuple[int, int]:
        """Bytes of a request and of its reply, as encoded; asked once."""
        return self._sizes.pop(message_id)

    def wait(self, seconds: float) -> None:
        """Takes in what workers have finished, waiting so long for the first."""
        busy = {w.connection.fileno(): w for w in self._workers if w.message is not None}
        # A worker that dies closes its end, which wakes this up too.
        for ready in wait([w.connection for w in busy.values()], seconds):
            assert isinstance(ready, Connection)
            self._collect(busy[ready.fileno()])
        self._dispatch()

    def abandon(self, message_ids: Iterable[str]) -> None:
        """Drops messages, wherever they are. A worker that is at one is replaced: nothing else ends what it does."""
        gone = set(message_ids)
        self._queue = deque(m for m in self._queue if m.metadata.message_id not in gone)
        for number, worker in enumerate(self._workers):
            if worker.message is not None and worker.message.metadata.message_id in gone:
                self._workers[number] = self._restarted(worker)
        for identifier in gone:
            self._inbox.pop(identifier, None)
            self._sizes.pop(identifier, None)
        self._dispatch()

    def close(self) -> None:
        """Ends all workers; what they were working on is lost."""
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.process.terminate()
            worker.process.wait()
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> _Worker:
        return _Worker(*launch_worker(self._client_app, run_config=self._run_config))

    def _dispatch(self) -> None:
        for number, worker in enumerate(self._workers):
            if not self._queue:
                return
            if worker.message is not None:
                continue
            if worker.process.poll() is not None:
                worker = self._workers[number] = self._restarted(worker)
            message = worker.message = self._queue.popleft()
            node, data = message.metadata.dst_node_id, encode_message(message)
            self._sizes[message.metadata.message_id] = (len(data), 0)
            node_config = {"partition-id": node - FIRST_NODE, "num-partitions": self._clients}
            state = self._states.read(node, before=int(message.metadata.group_id))
            try:
                for frame in (json.dumps(node_config).encode(), state, data):
                    worker.connection.send_bytes(frame)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it died meanwhile; `wait` sees the closed end

    def _collect(self, worker: _Worker) -> None:
        message = worker.message
        assert message is not None
        try:
            kind, first, second = (worker.connection.recv_bytes() for _ in range(3))
        except (EOFError, OSError):
            self._workers[self._workers.index(worker)] = self._restarted(worker)
            self._deliver(
                error_reply(
                    f"its worker process died with exit code {worker.process.returncode}", to=message, kind="lost"
                )
            )
            return
        worker.message = None
        if kind == b"error":
            self._deliver(error_reply(first.decode(), to=message))
            return
        down, _ = self._sizes[message.metadata.message_id]
        self._sizes[message.metadata.message_id] = (down, len(first))
        self._states.write(message.metadata.dst_node_id, second, round=int(message.metadata.group_id))
        self._deliver(decode_message(first))

    def _deliver(self, reply: Message) -> None:
        self._inbox[reply.metadata.reply_to_message_id] = reply

    def _restarted(self, worker: _Worker) -> _Worker:
        worker.connection.close()
        worker.process.terminate()
        worker.process.wait()
        return self._start()
