"""What stands in the books of the gRPC grid: devices, requests, and what became of them."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Protocol

from hedgerow.errors import FailureKind
from hedgerow.server.grids.remote.view import DeviceView
from hedgerow.v1.fleet_pb2 import Hello, Transfer
from hedgerow.wire.transfers import Body

__all__ = ["Arrival", "Device", "Link", "Request", "node_of", "request_id", "view_of"]


def node_of(name: str) -> int:
    """The node of the device called `name`, from 2 to 2⁶² + 1: the same for ever, whoever attaches first.

    >>> node_of("phone") == node_of("phone") != node_of("tablet")
    True
    """
    return (int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2) + 2


def request_id(run: str, group: str, kind: str, node: int, body: Body) -> str:
    """Names a request by what it is, so that a coordinator that starts again asks the same under the same name."""
    text = f"{run}\0{group}\0{kind}\0{node}\0".encode()
    return hashlib.sha256(text + body.sha256).hexdigest()[:32]


class Link(Protocol):
    """A device's stream, as far as the books need it. Both may be called from any thread."""

    def send(self, request: Request) -> None:
        """Sends a request."""

    def abandon(self, id: str) -> None:
        """Tells the device that nobody waits for a reply any more."""


@dataclass(slots=True)
class Request:
    """A request whose reply has not come yet."""

    id: str
    node: int
    transfer: Transfer
    body: Body
    bytes_down: int = 0
    damaged: int = 0
    """How often it, or a reply to it, came damaged."""
    over: bool = False
    """Whether nobody waits for the reply any more."""
    since: float = field(default_factory=time.monotonic)
    """When it was asked, or when its device was lost."""


@dataclass(slots=True)
class Arrival:
    """What came of a request: a reply's body, or why there is none."""

    body: bytes
    failure: str
    kind: FailureKind
    """Why there is no body: the `device` itself, its connection (`lost`), or a `transfer` that never came whole."""
    bytes_down: int
    bytes_up: int


@dataclass(slots=True)
class Device:
    """A device that attached at least once, or that something waits for."""

    node: int
    name: str = ""
    hello: Hello = field(default_factory=Hello)
    address: str = ""
    link: Link | None = None
    evicted: bool = False
    heard: float = field(default_factory=time.monotonic)
    resident_bytes: int = 0
    working_on: str = ""
    attachments: int = 0
    replies: int = 0
    rejected: int = 0
    requests: dict[str, Request] = field(default_factory=dict)


def view_of(device: Device) -> DeviceView:
    """What others may know of a device."""
    working_on = device.requests.get(device.working_on)
    return DeviceView(
        name=device.name,
        node=device.node,
        attached=device.link is not None,
        address=device.address,
        software=device.hello.software,
        memory_bytes=device.hello.memory_bytes,
        cores=device.hello.cores,
        examples=device.hello.examples,
        resident_bytes=device.resident_bytes,
        working_on_round=0 if working_on is None else working_on.transfer.round,
        seconds_since_heard=time.monotonic() - device.heard,
        reconnects=max(device.attachments - 1, 0),
        replies=device.replies,
        rejected=device.rejected,
        evicted=device.evicted,
    )
