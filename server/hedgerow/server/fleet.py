"""How the round loop sees the devices: requests go out, replies come back as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hedgerow.errors import FailureKind
from hedgerow.server.progress import Observer

__all__ = ["GRIDS_OWN", "Fleet", "Reply", "Request"]

GRIDS_OWN: tuple[FailureKind, ...] = ("lost", "transfer")
"""Failures of which a device does not know: asked again, it may well deliver."""


@dataclass(frozen=True, slots=True)
class Request:
    """A payload for one node."""

    node: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request.

    Attributes:
        node: whom the request was for.
        payload: the reply, or None when the node failed.
        error: why it failed, in the node's own words (never trusted), or None.
        metrics: what the client measured; empty when it failed.
        bytes_down: length of the request as it travelled, envelope included.
        bytes_up: length of the reply as it travelled, envelope included.
        kind: what sort of failure it is; `device` when it is none.
    """

    node: int
    payload: bytes | None
    error: str | None
    metrics: Mapping[str, float]
    bytes_down: int
    bytes_up: int
    kind: FailureKind = "device"


class Fleet(Protocol):
    """The devices behind one grid."""

    def nodes(self) -> Sequence[int]:
        """Identifiers of the nodes that are there, in ascending order."""

    def wait_for(self, count: int, *, observer: Observer) -> Sequence[int]:
        """`nodes()`, as soon as there are at least `count`; `observer` is told of the waiting."""

    def name(self, node: int) -> str:
        """What people call a node."""

    def exchange(self, requests: Iterable[Request], *, round: int, over: Callable[[], bool]) -> Iterator[Reply]:
        """Sends all requests of a round, and yields one reply for each as they arrive, in any order.

        Args:
            requests: what to send. Those that hold the same payload object are encoded once where the grid can.
            round: what they belong to.
            over: asked after each reply and at least each 50 ms; once it is True, what has not arrived is abandoned.
        """
