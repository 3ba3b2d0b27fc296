"""What others may know of the attached devices, and who is told when something happens to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["DeviceView", "FleetObserver", "FleetView"]


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as it is now; the fields are those of `Device` in `fleet.proto`."""

    name: str
    node: int
    attached: bool
    address: str
    software: str
    memory_bytes: int
    cores: int
    examples: int
    resident_bytes: int
    working_on_round: int
    seconds_since_heard: float
    reconnects: int
    replies: int
    rejected: int
    evicted: bool
    # What follows the run knows, and not the stream.
    level: int | None = None
    too_small: bool = False


class FleetView(Protocol):
    """All devices that ever attached to this coordinator. Safe to use from any thread."""

    def devices(self) -> Sequence[DeviceView]:
        """In the order of their names."""

    def evict(self, name: str) -> bool:
        """Ends a device's stream and refuses it from now on; False where no device has that name."""


class FleetObserver:
    """Is told what happens to devices, from the event loop's thread; this one does nothing with it."""

    def attached(self, name: str, *, reconnect: bool) -> None:
        """A device attached; `reconnect` when it had been attached before."""

    def detached(self, name: str, *, cause: str) -> None:
        """A device's stream ended: `finished`, `replaced`, `evicted`, `stopping`, `silent` or `lost`."""

    def refused(self, *, reason: str) -> None:
        """Somebody was not let in: `identity`, `revoked`, `evicted`, `role`, `protocol` or `hello`."""

    def rejected(self, name: str, *, reason: str) -> None:
        """A reply was thrown away: a `Damage`, `duplicate` or `unrequested`."""

    def late(self, name: str) -> None:
        """A reply came after its round was over."""

    def queue(self, *, requests: int) -> None:
        """So many requests wait for their replies."""
