"""Requests come in, replies go out, and in between one worker trains, whether or not a connection stands."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hedgerow.client.joining.machine import resident_bytes
from hedgerow.client.joining.progress import Progress
from hedgerow.client.joining.store import DeviceFolder, Kept, RunStore
from hedgerow.client.joining.worker import Answer, Failed, Worker
from hedgerow.errors import HedgerowError
from hedgerow.units import clean_text
from hedgerow.v1.fleet_pb2 import (
    VERDICT_DAMAGED,
    VERDICT_TAKEN,
    VERDICT_UNWANTED,
    Acknowledgement,
    Transfer,
)
from hedgerow.wire.transfers import Body, Received

__all__ = ["Desk", "Outgoing"]

_ID = re.compile(r"[0-9a-f]{32}")
_MOST_WAITING = 4
_MOST_SENT = 3
_REASON_CHARACTERS = 2000
_DEVICE = 0
"""The node in the state store; there is only this one."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A reply on its way. `seconds` of work went into it; None where it was kept from before."""

    transfer: Transfer
    body: Body
    seconds: float | None


@dataclass(slots=True)
class _Reply:
    id: str
    round: int
    failure: str = ""
    kept: Kept | None = None
    seconds: float | None = None
    sent: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class _Run:
    name: str
    run_config: str
    node_config: Mapping[str, object]
    store: RunStore


class Desk:
    """What a device works on.

    Args:
        folder: where states and replies are kept.
        node_config: Flower's, for the client app; `client` is the coordinator's number of this device where it says
            none.
        start_worker: makes a worker for a run configuration, JSON.
        progress: is told.
    """

    def __init__(
        self,
        folder: DeviceFolder,
        *,
        node_config: Mapping[str, object],
        start_worker: Callable[[str], Worker],
        progress: Progress,
    ) -> None:
        self._folder, self._start_worker, self._progress = folder, start_worker, progress
        self._node_config = dict(node_config)
        self._run: _Run | None = None
        self._worker: Worker | None = None
        self._waiting: deque[Received] = deque()
        self._current: Transfer | None = None
        self._labour: asyncio.Task[None] | None = None
        self._abandoned = self._leaving = False
        self._replies: dict[str, _Reply] = {}
        self._unsent: deque[str] = deque()
        self._something_to_send = asyncio.Event()

    @property
    def working_on(self) -> str:
        """Identifier of the request that is worked on; empty when idle, and while abandoned work ends."""
        return "" if self._current is None or self._abandoned else self._current.id

    def resident_bytes(self) -> int:
        """Resident memory of this process and the worker's."""
        return resident_bytes(*([] if self._worker is None else [self._worker.pid]))

    def held(self) -> list[str]:
        """Requests that need not be sent again: waiting, worked on, or with a reply that has yet to arrive."""
        if self._run is None:
            return self._folder.unacknowledged()
        waiting = (received.transfer.id for received in self._waiting)
        return sorted({*waiting, *filter(None, [self.working_on]), *self._replies})

    async def enter(self, run: str, *, run_config: str, node: int, warm: bool = True) -> None:
        """Begins or goes on with a run, at the start of a connection; unacknowledged replies are sent again.

        Args:
            run: its name.
            run_config: Flower's, for the client app; JSON.
            node: the coordinator's number of this device.
            warm: start a worker before there is a request.

        Raises:
            RunError: the state folder cannot be used.
        """
        node_config = {"client": self._node_config.get("partition-id", node), **self._node_config}
        known = self._run
        if known is None or (known.name, known.run_config, known.node_config) != (run, run_config, node_config):
            await self._leave()
            self._run = _Run(run, run_config, node_config, self._folder.open_run(run))
            for kept in self._run.store.replies():
                if not kept.taken:
                    self._replies[kept.id] = _Reply(kept.id, kept.round, kept=kept)
            if warm:
                self._worker = self._start_worker(run_config)
        self._unsent.clear()
        for id in self._replies:
            self._send(id)

    async def finish(self) -> None:
        """Forgets the run, which is over."""
        run = self._run
        await self._leave()
        if run is not None:
            self._folder.forget(run.name)

    async def close(self) -> None:
        """Ends the worker; what it was working on is lost."""
        await self._leave()

    def take(self, received: Received) -> Acknowledgement:
        """Takes a request, and says what became of it; the same one is worked on once."""
        transfer, run = received.transfer, self._run
        if run is None or transfer.run != run.name:
            return Acknowledgement(id=transfer.id, verdict=VERDICT_UNWANTED, reason="it is of another run")
        if not _ID.fullmatch(transfer.id):
            return Acknowledgement(id=transfer.id[:64], verdict=VERDICT_DAMAGED, reason="its id is not a possible one")
        kept = run.store.find(transfer.id)
        if transfer.id in self._replies:
            self._send(transfer.id)
        elif kept is not None:
            self._replies[kept.id] = _Reply(kept.id, kept.round, kept=kept)
            self._send(kept.id)
        elif transfer.id != self.working_on and all(r.transfer.id != transfer.id for r in self._waiting):
            if len(self._waiting) >= _MOST_WAITING:
                return Acknowledgement(id=transfer.id, verdict=VERDICT_DAMAGED, reason="too many requests at once")
            self._waiting.append(received)
            self._begin()
        return Acknowledgement(id=transfer.id, verdict=VERDICT_TAKEN)

    def abandon(self, id: str) -> None:
        """Stops work on a request whose reply would come too late."""
        self._waiting = deque(r for r in self._waiting if r.transfer.id != id)
        reply = self._replies.get(id)
        if reply is not None:
            self._settle(reply, drop=False)
        elif id and id == self.working_on and not self._abandoned:
            self._abandoned = True
            if self._worker is not None:
                self._worker.kill()

    def acknowledged(self, acknowledgement: Acknowledgement) -> None:
        """Hears what became of a reply."""
        reply = self._replies.get(acknowledgement.id)
        if reply is None:
            return
        match acknowledgement.verdict:
            case verdict if verdict in (VERDICT_TAKEN, VERDICT_UNWANTED):
                # Kept for a while all the same: a coordinator that was started again may yet ask for it.
                self._settle(reply, drop=False)
            case _:
                reply.damaged += 1
                if reply.damaged < _MOST_SENT:
                    self._send(reply.id)
                else:
                    self._progress.refused(reply.round, reason=acknowledgement.reason or "no reason given")
                    self._settle(reply, drop=False)

    async def next_reply(self) -> Outgoing | Acknowledgement:
        """Waits for a reply to send, or for word that one was lost and its request has to be sent again."""
        while True:
            while not self._unsent:
                self._something_to_send.clear()
                await self._something_to_send.wait()
            reply, run = self._replies.get(self._unsent.popleft()), self._run
            if reply is None or run is None:
                continue
            data = b"" if reply.kept is None else await asyncio.to_thread(run.store.body, reply.kept)
            if self._replies.get(reply.id) is not reply:
                continue  # it was sent twice, and acknowledged while it was read for the second time
            if data is None:
                self._settle(reply, drop=True)
                return Acknowledgement(id=reply.id, verdict=VERDICT_DAMAGED, reason="its reply was lost on the device")
            reply.sent += 1
            transfer = Transfer(id=reply.id, run=run.name, round=reply.round, attempt=reply.sent, failure=reply.failure)
            return Outgoing(transfer, Body(data), reply.seconds)

    def _send(self, id: str) -> None:
        if id not in self._unsent:
            self._unsent.append(id)
        self._something_to_send.set()

    def _settle(self, reply: _Reply, *, drop: bool) -> None:
        del self._replies[reply.id]
        if reply.kept is not None and self._run is not None:
            settle = self._run.store.drop if drop else self._run.store.mark_taken
            settle(reply.kept)

    def _begin(self) -> None:
        if self._labour is None or self._labour.done():
            self._labour = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            received = self._waiting.popleft()
            self._current, self._abandoned = received.transfer, False
            run, began = self._run, time.monotonic()
            assert run is not None
            self._progress.training(received.transfer.round)
            try:
                result = await self._answer(received, run)
            except HedgerowError as error:
                result = Failed(str(error))
            except Exception as error:  # whatever it is, the device goes on, and its coordinator hears of it
                result = Failed(f"{type(error).__name__}: {error}")
            self._current = None
            round = received.transfer.round
            if self._leaving:
                return
            if self._abandoned:
                if isinstance(result, Kept):
                    # It was ready just then. Nobody waits for it, unless the request comes again.
                    run.store.mark_taken(result)
                self._progress.abandoned(round)
                continue
            seconds = time.monotonic() - began
            if isinstance(result, Failed):
                reason = clean_text(result.reason, _REASON_CHARACTERS) or "no reason given"
                self._progress.failed(round, reason=reason)
                reply = _Reply(received.transfer.id, round, failure=reason, seconds=seconds)
            else:
                reply = _Reply(received.transfer.id, round, kept=result, seconds=seconds)
            self._replies[reply.id] = reply
            self._send(reply.id)

    async def _answer(self, received: Received, run: _Run) -> Kept | Failed:
        transfer = received.transfer
        # Protobuf appends: envelope and content together are Flower's whole message.
        message = transfer.envelope + received.body
        state = run.store.states.read(_DEVICE, before=transfer.round)
        worker = self._worker
        if worker is None or not worker.alive:
            worker = await self._replace_worker(run)
        result = await asyncio.to_thread(worker.answer, message, state=state, node_config=run.node_config)
        if isinstance(result, Answer) and not self._abandoned:
            # The state first: with a reply on disk the round is not played again.
            run.store.states.write(_DEVICE, result.state, round=transfer.round)
            return await asyncio.to_thread(run.store.put, transfer.id, result.message, round=transfer.round)
        if not worker.alive and not self._leaving:
            await self._replace_worker(run)  # it gets ready while nobody waits
        return result if isinstance(result, Failed) else Failed("it was abandoned")

    async def _replace_worker(self, run: _Run) -> Worker:
        if self._worker is not None:
            await asyncio.to_thread(self._worker.close)
        self._worker = self._start_worker(run.run_config)
        return self._worker

    async def _leave(self) -> None:
        self._waiting.clear()
        self._replies.clear()
        self._unsent.clear()
        if self._labour is not None and not self._labour.done():
            self._abandoned = self._leaving = True
            if self._worker is not None:
                self._worker.kill()
            await self._labour
        self._leaving = False
        if self._worker is not None:
            await asyncio.to_thread(self._worker.close)
            self._worker = None
        if self._run is not None:
            self._run.store.close()
            self._run = None
