"""From what happens to a run and its devices into metrics, and into several observers at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.server.progress import Observer
from hedgerow.telemetry import RoundRecord, read_records
from hedgerow.telemetry.prometheus import FleetMetrics, RunMetrics

_LOG = logging.getLogger(__name__)

__all__ = ["FleetMetricsObserver", "ManyFleetObservers", "RunMetricsObserver"]


class RunMetricsObserver(Observer):
    """Feeds the metrics of a run that somebody else serves."""

    def __init__(self, metrics: RunMetrics) -> None:
        self._metrics = metrics

    def started(self, *, folder: Path, description: str, rounds: int, done: int) -> None:
        """Shows the rounds of an earlier process, which are not counted again."""
        try:
            earlier = [record for record in read_records(folder / "metrics.jsonl") if record.round <= done]
        except (OSError, ValueError):
            return  # the first start; or whoever goes on with the run will say what is wrong
        for record in earlier:
            self._metrics.restore(record)

    def finished_round(self, record: RoundRecord, *, rounds: int) -> None:
        """Takes in a round."""
        self._metrics.observe(record)


class FleetMetricsObserver(FleetObserver):
    """Feeds the metrics of the devices."""

    def __init__(self, metrics: FleetMetrics) -> None:
        self._metrics = metrics
        self._lock = threading.Lock()
        self._attached: set[str] = set()

    def attached(self, name: str, *, reconnect: bool) -> None:
        """See `FleetObserver`."""
        with self._lock:
            self._attached.add(name)
            self._metrics.attached(len(self._attached), reconnect=reconnect)

    def detached(self, name: str, *, cause: str) -> None:
        """See `FleetObserver`; a device whose stream was replaced is still there."""
        with self._lock:
            if cause != "replaced":
                self._attached.discard(name)
            self._metrics.detached(len(self._attached), cause=cause)

    def refused(self, *, reason: str) -> None:
        """See `FleetObserver`."""
        self._metrics.refused(reason)

    def rejected(self, name: str, *, reason: str) -> None:
        """See `FleetObserver`."""
        self._metrics.rejected(reason)

    def late(self, name: str) -> None:
        """Counts it as thrown away, for it is too late."""
        self._metrics.rejected("late")

    def queue(self, *, requests: int) -> None:
        """See `FleetObserver`."""
        self._metrics.queue(requests)


class ManyFleetObservers(FleetObserver):
    """Passes everything on to several. None of them can harm the devices' streams: what one raises is logged."""

    def __init__(self, *observers: FleetObserver) -> None:
        self._observers = observers

    def attached(self, name: str, *, reconnect: bool) -> None:
        """See `FleetObserver`."""
        self._each(lambda observer: observer.attached(name, reconnect=reconnect))

    def detached(self, name: str, *, cause: str) -> None:
        """See `FleetObserver`."""
        self._each(lambda observer: observer.detached(name, cause=cause))

    def refused(self, *, reason: str) -> None:
        """See `FleetObserver`."""
        self._each(lambda observer: observer.refused(reason=reason))

    def rejected(self, name: str, *, reason: str) -> None:
        """See `FleetObserver`."""
        self._each(lambda observer: observer.rejected(name, reason=reason))

    def late(self, name: str) -> None:
        """See `FleetObserver`."""
        self._each(lambda observer: observer.late(name))

    def queue(self, *, requests: int) -> None:
        """See `FleetObserver`."""
        self._each(lambda observer: observer.queue(requests=requests))

    def _each(self, tell: Callable[[FleetObserver], None]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            # rich ends the process when its terminal is gone, and this is the thread that serves the devices.
            except (Exception, SystemExit):
                _LOG.warning("%s failed", type(observer).__name__, exc_info=True)
