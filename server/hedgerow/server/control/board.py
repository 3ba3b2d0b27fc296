"""How the run stands, told by the threads that know it, for whoever asks."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from hedgerow.errors import InterruptedRunError
from hedgerow.server.control.watcher import Watcher
from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.server.progress import Observer, plans_text, round_text, selection_text
from hedgerow.telemetry import RoundRecord, read_records
from hedgerow.telemetry.http import Health
from hedgerow.units import clean_text
from hedgerow.v1 import fleet_pb2
from hedgerow.v1.fleet_pb2 import Status

__all__ = ["StatusBoard", "state_text"]

_EVENTS = 256
_BEAT_SECONDS = 2.0
_NAME = 100


class StatusBoard(Observer, FleetObserver):
    """The status of one run, kept up to date as an observer of the run and of its devices. Safe from any thread.

    Args:
        run: the run's name; that of its folder when empty.
        needed: devices that have to be there for a round to start.
    """

    def __init__(self, *, run: str = "", needed: int = 0) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._status = Status(run=run, state=fleet_pb2.STATE_WAITING, devices_needed=needed)
        self._attached: set[str] = set()
        self._watchers: set[Watcher] = set()
        self._failure: str | None = None
        self._levels: dict[int, int | None] = {}

    # What is read

    def status(self) -> Status:
        """As it is now; the caller's own copy."""
        with self._lock:
            return self._copy()

    def state(self) -> str:
        """One of `hedgerow.telemetry.prometheus.RUN_STATES`."""
        with self._lock:
            return state_text(self._status.state)

    def levels(self) -> Mapping[int, int | None]:
        """Which part of the network each node trains; None where it has too little memory. Only of those that said."""
        with self._lock:
            return dict(self._levels)

    def health(self) -> Health:
        """For `/healthz`."""
        with self._lock:
            now = self._copy()
            return Health(
                failure=self._failure,
                facts={
                    "state": state_text(now.state),
                    "round": now.round,
                    "rounds": now.rounds,
                    "devices_attached": now.devices_attached,
                    "devices_needed": now.devices_needed,
                },
            )

    @contextlib.contextmanager
    def subscribe(self, *, size: int = _EVENTS, beat: float = _BEAT_SECONDS) -> Iterator[Watcher]:
        """A watcher for the running event loop: the state now, then what happens, until the run ends.

        Args:
            size: events that wait for a slow reader, at most; the oldest give way.
            beat: without events the status comes so often, in seconds.
        """
        watcher = Watcher(lock=self._lock, status=self._copy, size=size, beat=beat)
        with self._lock:
            watcher.tell(self._situation())
            if self._is_over():
                watcher.end()
            self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                self._watchers.discard(watcher)

    # What ends it

    def finished(self) -> None:
        """The run is done and its model on disk; watchers get to know it and leave."""
        self._end(fleet_pb2.STATE_FINISHED, failure=None)

    def failed(self, error: BaseException) -> None:
        """The run ended with an error. One that was only stopped goes on later, so watchers wait for it."""
        if isinstance(error, KeyboardInterrupt | SystemExit | InterruptedRunError):
            self.note("the coordinator is being stopped")
            return
        self._end(fleet_pb2.STATE_FAILED, failure=clean_text(str(error)) or type(error).__name__)

    # The run

    def started(self, *, folder: Path, description: str, rounds: int, done: int) -> None:
        """Takes in the experiment, and the last round of an earlier process."""
        known = _records(folder / "metrics.jsonl", done=done) if done else []
        with self._changed(
            f"goes on after round {done} of {rounds}" if done else f"starts: {clean_text(description)}"
        ) as status:
            status.run = status.run or folder.name
            status.description, status.rounds, status.round = clean_text(description), rounds, done
            self._enter(fleet_pb2.STATE_TRAINING if done else fleet_pb2.STATE_PRUNING)
            for record in known:
                _show(status, record)

    def pruning(self, step: int, steps: int) -> None:
        """The initial mask is being made."""
        with self._changed(f"makes the initial mask in {steps} steps" if step == 1 else ""):
            self._enter(fleet_pb2.STATE_PRUNING)

    def selecting(self, step: str, clients: int) -> None:
        """The requests of a step of the selection among masks went out."""
        with self._changed(f"asks {clients} devices for {step} of the candidates") as status:
            self._enter(fleet_pb2.STATE_PRUNING)
            status.asked, status.replied = clients, 0

    def planning(self, *, clients: int) -> None:
        """Devices were asked which part of the network they have memory for."""
        with self._changed(f"asks {clients} devices how much memory they have") as status:
            status.asked, status.replied = clients, 0

    def planned(self, levels: Mapping[int, int | None]) -> None:
        """They said so."""
        with self._lock:
            self._levels.update(levels)

    def waiting(self, *, attached: int, needed: int) -> None:
        """Too few devices are there to go on."""
        with self._changed() as status:
            if status.state != fleet_pb2.STATE_WAITING or status.devices_needed != needed:
                self._publish(f"waits for devices: {attached} of {needed} are attached")
            status.devices_needed = needed
            self._enter(fleet_pb2.STATE_WAITING)

    def replaying(self, *, reason: str, seconds: float) -> None:
        """A round is played again."""
        with self._changed(f"plays the round again in {seconds:.3g} s: {clean_text(reason)}") as status:
            status.asked = status.replied = 0

    def asked(self, *, round: int, clients: int) -> None:
        """The requests of a round went out."""
        with self._changed() as status:
            self._enter(fleet_pb2.STATE_TRAINING)
            status.asked, status.replied = clients, 0

    def replied(self) -> None:
        """One client replied, or failed."""
        with self._changed() as status:
            status.replied += 1

    def finished_round(self, record: RoundRecord, *, rounds: int) -> None:
        """A round is done."""
        with self._changed() as status:
            status.rounds = rounds
            status.asked = status.replied = 0
            status.bytes_up += record.all_bytes_up
            status.bytes_down += record.all_bytes_down
            _show(status, record)
            if record.selection is not None:
                for failure in record.selection.failures:
                    self._publish(f"selection: {_name(failure.client)} failed: {clean_text(failure.reason)}")
                self._publish(selection_text(record.selection))
            if record.plans is not None:
                for failure in record.plans.failures:
                    self._publish(f"memory: {_name(failure.client)} failed: {clean_text(failure.reason)}")
                self._publish(plans_text(record.plans))
            for failure in record.failures:
                self._publish(f"round {record.round}: {_name(failure.client)} failed: {clean_text(failure.reason)}")
            self._publish(round_text(record, rounds=rounds))

    # The devices

    def attached(self, name: str, *, reconnect: bool) -> None:
        """A device attached."""
        with self._changed(f"{_name(name)} {'came back' if reconnect else 'attached'}"):
            self._attached.add(name)

    def detached(self, name: str, *, cause: str) -> None:
        """A device's stream ended."""
        with self._changed(f"{_name(name)} left: {_name(cause)}"):
            if cause != "replaced":
                self._attached.discard(name)

    def refused(self, *, reason: str) -> None:
        """Somebody was not let in."""
        self.note(f"somebody was not let in: {_name(reason)}")

    def rejected(self, name: str, *, reason: str) -> None:
        """A reply was thrown away."""
        self.note(f"a reply of {_name(name)} was thrown away: {_name(reason)}")

    def late(self, name: str) -> None:
        """A reply came after its round was over."""
        self.note(f"a reply of {_name(name)} came too late")

    def note(self, text: str) -> None:
        """Tells the watchers something that changes no status."""
        with self._changed(text):
            pass

    # Inside, with the lock held

    @contextlib.contextmanager
    def _changed(self, text: str = "") -> Iterator[Status]:
        with self._lock:
            yield self._status
            self._publish(text)

    def _publish(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.tell(text)

    def _enter(self, state: fleet_pb2.State) -> None:
        if not self._is_over():
            self._status.state = state

    def _is_over(self) -> bool:
        return self._status.state in (fleet_pb2.STATE_FINISHED, fleet_pb2.STATE_FAILED)

    def _end(self, state: fleet_pb2.State, *, failure: str | None) -> None:
        with self._lock:
            if self._is_over():
                return
            self._status.state, self._failure = state, failure
            self._status.asked = self._status.replied = 0
            self._publish(self._situation())
            for watcher in self._watchers:
                watcher.end()

    def _copy(self) -> Status:
        copy = Status()
        copy.CopyFrom(self._status)
        copy.devices_attached = len(self._attached)
        copy.uptime_seconds = time.monotonic() - self._began
        return copy

    def _situation(self) -> str:
        if self._failure is not None:
            return f"failed: {self._failure}"
        status = self._status
        progress = f", {status.round} of {status.rounds} rounds done" if status.rounds else ""
        return f"{state_text(status.state)}{progress}"


def state_text(state: fleet_pb2.State) -> str:
    """A state in one word.

    >>> state_text(fleet_pb2.STATE_TRAINING)
    'training'
    """
    name = fleet_pb2.State.Name(state) if state in fleet_pb2.State.values() else "STATE_UNSPECIFIED"
    return name.removeprefix("STATE_").lower()


def _show(status: Status, record: RoundRecord) -> None:
    status.round, status.round_seconds = record.round, record.measured.seconds
    status.density, status.kept = record.density, record.kept
    if record.accuracy is not None:
        status.accuracy = record.accuracy
    if record.loss is not None and math.isfinite(record.loss):
        status.loss = record.loss


def _records(path: Path, *, done: int) -> list[RoundRecord]:
    try:
        return [record for record in read_records(path) if record.round <= done]
    except (OSError, ValueError):
        return []  # whoever goes on with the run will say what is wrong with it


def _name(text: str) -> str:
    return clean_text(text, limit=_NAME)
