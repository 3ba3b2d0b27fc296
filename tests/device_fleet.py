"""A fleet in memory whose devices are real clients, each with a state of its own, as long as the test lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hedgerow.client.answer import Workshop
from hedgerow.client.memory import ClientState
from hedgerow.errors import HedgerowError, PayloadError
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.progress import Observer

__all__ = ["FIRST", "Devices"]

FIRST = 100
"""The node of client 0."""


@dataclass
class Devices:
    """Node 100 + k is client k. What `instead` has for an exchange's place and a node is said instead."""

    workshop: Workshop
    count: int = 8
    order: Callable[[list[Request]], list[Request]] = lambda requests: requests
    before_reply: Callable[[int], None] = lambda node: None
    instead: Mapping[tuple[int, int], Callable[[Request], Iterable[Reply]]] = field(default_factory=dict)
    states: dict[int, ClientState] = field(default_factory=dict)
    asked: list[dict[int, bytes]] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)

    def nodes(self) -> Sequence[int]:
        return range(FIRST, FIRST + self.count)

    def wait_for(self, count: int, *, observer: Observer) -> Sequence[int]:
        self.waits.append(count)
        return self.nodes()

    def name(self, node: int) -> str:
        return f"client-{node}"

    def exchange(self, requests: Iterable[Request], *, round: int, over: Callable[[], bool]) -> Iterator[Reply]:
        ordered = self.order(list(requests))
        self.asked.append({request.node: request.payload for request in ordered})
        self.rounds.append(round)
        place = len(self.asked) - 1
        for request in ordered:
            self.before_reply(request.node)
            if over():
                return
            yield from self.instead.get((place, request.node), self.replies)(request)

    def replies(self, request: Request) -> Iterable[Reply]:
        """What the device itself says."""
        try:
            return [said(request, self.answer(request))]
        except HedgerowError as error:
            kind = error.kind if isinstance(error, PayloadError) else "device"
            return [Reply(request.node, None, str(error), {}, len(request.payload), 0, kind)]

    def answer(self, request: Request) -> bytes:
        """The payload of its reply."""
        before = self.states.get(request.node, ClientState())
        answer = self.workshop.answer(request.payload, client=request.node - FIRST, state=before)
        self.states[request.node] = answer.state
        return answer.payload


def said(request: Request, payload: bytes) -> Reply:
    """A reply as it would arrive."""
    return Reply(request.node, payload, None, {}, len(request.payload), len(payload))
