"""The books of the gRPC grid: which devices there are, which request waits for whose reply, what has arrived.

Nothing here knows gRPC or waits. The event loop's thread and the round loop's thread both call it, one at a time.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal, TypeAlias

from hedgerow.errors import FailureKind
from hedgerow.server.grids.remote.entries import Arrival, Device, Link, Request, node_of, view_of
from hedgerow.server.grids.remote.view import DeviceView, FleetObserver
from hedgerow.v1.fleet_pb2 import Hello
from hedgerow.wire.transfers import Received, TransferError

__all__ = ["Registry", "Verdict"]

MAX_ATTEMPTS = 3
"""Of a device, to send one reply intact."""
_REMEMBERED = 100_000
"""Identifiers of requests that are over, so that what still comes for them can be told from what was never asked."""

Verdict: TypeAlias = Literal["taken", "damaged", "unwanted"]


class Registry:
    """The books.

    Args:
        observer: is told what happens.
        grace: a request fails when its device has been away so long, in seconds.
    """

    def __init__(self, *, observer: FleetObserver, grace: float) -> None:
        self._observer, self._grace = observer, grace
        self._devices: dict[int, Device] = {}
        self._arrived: dict[str, Arrival] = {}
        self._over: OrderedDict[str, str] = OrderedDict()
        self._changed = threading.Condition()

    # The round loop's side

    def attached(self) -> list[int]:
        """Nodes whose device is there now."""
        with self._changed:
            return sorted(node for node, device in self._devices.items() if device.link is not None)

    def name_of(self, node: int) -> str:
        """A device's name; its number where it never attached."""
        with self._changed:
            device = self._devices.get(node)
            return device.name if device is not None and device.name else f"node-{node}"

    def ask(self, requests: Iterable[Request]) -> None:
        """Sends requests, or keeps them until their device attaches."""
        with self._changed:
            for request in requests:
                self._over.pop(request.id, None)
                device = self._devices.setdefault(request.node, Device(request.node))
                device.requests[request.id] = request
                if device.evicted:
                    self._fail(device, request, "the device was evicted")
                elif device.link is not None:
                    device.link.send(request)
            self._count()

    def take(self, ids: Iterable[str]) -> dict[str, Arrival]:
        """What has arrived of these, once."""
        with self._changed:
            return {i: self._arrived.pop(i) for i in ids if i in self._arrived}

    def wait(self, seconds: float) -> None:
        """Returns when something has arrived, or a device came or went, or after that time."""
        with self._changed:
            if not self._arrived:
                self._changed.wait(seconds)

    def abandon(self, ids: Iterable[str]) -> None:
        """Forgets requests; their devices are told."""
        wanted = set(ids)
        with self._changed:
            for device in self._devices.values():
                for request in [r for i, r in device.requests.items() if i in wanted]:
                    self._close(device, request, how="abandoned")
                    if device.link is not None:
                        device.link.abandon(request.id)
            for identifier in wanted:
                self._arrived.pop(identifier, None)
            self._count()

    # The streams' side

    def attach(self, hello: Hello, *, name: str, address: str, link: Link) -> Link | None:
        """Enters a stream, and sends what its device does not hold; gives the stream that it replaces."""
        with self._changed:
            device = self._devices.setdefault(node_of(name), Device(node_of(name)))
            before, device.link = device.link, link
            device.name, device.hello, device.address, device.heard = name, hello, address, time.monotonic()
            device.attachments += 1
            held = set(hello.held)
            for request in device.requests.values():
                if request.id not in held:
                    link.send(request)
            self._observer.attached(name, reconnect=device.attachments > 1)
            self._changed.notify_all()
            return before

    def detach(self, name: str, link: Link, *, cause: str) -> None:
        """A stream has ended; what its device was asked waits for it to come back."""
        with self._changed:
            device = self._devices[node_of(name)]
            if device.link is not link:
                return  # it was replaced, and that was told
            device.link, device.working_on = None, ""
            for request in device.requests.values():
                request.since = time.monotonic()
            self._observer.detached(name, cause=cause)
            self._changed.notify_all()

    def is_evicted(self, name: str) -> bool:
        """Whether an operator shut this device out."""
        with self._changed:
            device = self._devices.get(node_of(name))
            return device is not None and device.evicted

    def shut_out(self, name: str) -> None:
        """Enters a device that was evicted before this process."""
        with self._changed:
            self._devices[node_of(name)] = Device(node_of(name), name=name, evicted=True)

    def evicted(self) -> list[str]:
        """Names of the devices that are shut out."""
        with self._changed:
            return sorted(device.name for device in self._devices.values() if device.evicted)

    def evict(self, name: str) -> bool:
        """Shuts a device out; False where none has that name."""
        with self._changed:
            device = self._devices.get(node_of(name))
            if device is None or device.name != name:
                return False
            device.evicted = True
            for request in list(device.requests.values()):
                self._fail(device, request, "the device was evicted")
            return True

    def heard(self, name: str, *, resident_bytes: int | None = None, working_on: str = "") -> None:
        """A sign of life; with a heartbeat it says what the device does."""
        with self._changed:
            device = self._devices[node_of(name)]
            device.heard = time.monotonic()
            if resident_bytes is not None:
                device.resident_bytes, device.working_on = resident_bytes, working_on

    def silence(self, name: str) -> float:
        """Seconds since the last sign of life."""
        with self._changed:
            return time.monotonic() - self._devices[node_of(name)].heard

    def receive(self, name: str, received: Received, *, bytes_up: int) -> Verdict:
        """Takes a reply that came intact; a second one for the same request changes nothing."""
        transfer = received.transfer
        with self._changed:
            device = self._devices[node_of(name)]
            request = device.requests.get(transfer.id)
            if request is None:
                self._unwanted(device, transfer.id)
                return "unwanted"
            device.replies += 1
            self._close(device, request, how="answered")
            arrival = Arrival(received.body, transfer.failure[:1000], "device", request.bytes_down, bytes_up)
            self._deliver(request, arrival)
            return "taken"

    def damaged(self, name: str, error: TransferError) -> Verdict:
        """Notes that a reply came damaged; after MAX_ATTEMPTS of them its request has failed."""
        with self._changed:
            device = self._devices[node_of(name)]
            device.rejected += 1
            self._observer.rejected(name, reason=error.damage)
            request = device.requests.get(error.id)
            if request is None:
                return "unwanted"
            request.damaged += 1
            if request.damaged < MAX_ATTEMPTS and error.damage != "too_large":
                return "damaged"
            self._fail(device, request, f"the reply came damaged: {error}", "transfer")
            return "unwanted"

    def again(self, name: str, identifier: str) -> Request | None:
        """A request that its device says came damaged, to be sent again; None when that is of no use."""
        with self._changed:
            device = self._devices[node_of(name)]
            request = device.requests.get(identifier)
            if request is None:
                return None
            request.damaged += 1
            if request.damaged < MAX_ATTEMPTS:
                return request
            self._fail(device, request, f"the request came damaged {MAX_ATTEMPTS} times", "transfer")
            return None

    def give_up(self) -> None:
        """Fails the requests of devices that have been away for too long, and counts those that still wait."""
        now = time.monotonic()
        with self._changed:
            for device in self._devices.values():
                if device.link is None:
                    for request in [r for r in device.requests.values() if now - r.since > self._grace]:
                        self._fail(device, request, f"the device was lost and did not come back in {self._grace:g} s")
            self._count()

    # Anybody's

    def views(self) -> list[DeviceView]:
        """All devices that ever attached, in the order of their names."""
        with self._changed:
            known = [device for device in self._devices.values() if device.name]
            return [view_of(device) for device in sorted(known, key=lambda device: device.name)]

    # Inside, with the lock held

    def _unwanted(self, device: Device, identifier: str) -> None:
        how = self._over.get(identifier)
        if how == "abandoned":
            self._observer.late(device.name)
            return
        device.rejected += 1
        self._observer.rejected(device.name, reason="duplicate" if how == "answered" else "unrequested")

    def _fail(self, device: Device, request: Request, reason: str, kind: FailureKind = "lost") -> None:
        self._close(device, request, how="abandoned")
        self._deliver(request, Arrival(b"", reason, kind, request.bytes_down, 0))
        if device.link is not None:
            device.link.abandon(request.id)

    def _close(self, device: Device, request: Request, *, how: str) -> None:
        del device.requests[request.id]
        request.over = True
        self._over[request.id] = how
        self._over.move_to_end(request.id)
        while len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    def _deliver(self, request: Request, arrival: Arrival) -> None:
        self._arrived[request.id] = arrival
        self._changed.notify_all()

    def _count(self) -> None:
        self._observer.queue(requests=sum(len(device.requests) for device in self._devices.values()))
