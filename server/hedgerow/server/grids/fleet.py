"""A `Fleet` on any Flower `Grid`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from hedgerow.errors import PayloadError
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.progress import Observer
from hedgerow.wire.flower import content_of, encode_message, failure_kind, metrics_in, payload_in

__all__ = ["GridFleet", "MeasuringGrid", "NamingGrid"]

_POLL_SECONDS = 0.05
_ATTACH_POLL_SECONDS = 0.2


@runtime_checkable
class MeasuringGrid(Protocol):
    """A grid that encodes messages itself, remembers how long they were, and can take them back."""

    def take_sizes(self, message_id: str) -> tuple[int, int]:
        """Bytes of a request and of its reply; asked once."""

    def wait(self, seconds: float) -> None:
        """Returns when there may be something to pull, or after that time."""

    def abandon(self, message_ids: Iterable[str]) -> None:
        """Nobody waits for these any more: stops work on them, and forgets them, their replies and their sizes."""


@runtime_checkable
class NamingGrid(Protocol):
    """A grid whose nodes have names."""

    def name_of(self, node: int) -> str:
        """What people call a node, whether it is there or not."""


class GridFleet:
    """The nodes of a Flower grid; `train` messages carry the requests, the round is their group."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._measuring = grid if isinstance(grid, MeasuringGrid) else None
        self._numbers: dict[int, int] = {}

    def nodes(self) -> Sequence[int]:
        """Identifiers of the nodes that are there, in ascending order."""
        nodes = sorted(self._grid.get_node_ids())
        self._numbers = {node: number for number, node in enumerate(nodes)}
        return nodes

    def wait_for(self, count: int, *, observer: Observer) -> Sequence[int]:
        """See `Fleet.wait_for`."""
        attached = -1
        while len(nodes := self.nodes()) < count:
            if len(nodes) != attached:
                attached = len(nodes)
                observer.waiting(attached=attached, needed=count)
            self._wait(_ATTACH_POLL_SECONDS)
        return nodes

    def name(self, node: int) -> str:
        """The grid's own name for it, or `client-0007`: the place in the order of identifiers, which in a simulation is
        the partition's number."""
        if isinstance(self._grid, NamingGrid):
            return self._grid.name_of(node)
        number = self._numbers.get(node)
        return f"node-{node}" if number is None else f"client-{number:04d}"

    def exchange(self, requests: Iterable[Request], *, round: int, over: Callable[[], bool]) -> Iterator[Reply]:
        """See `Fleet.exchange`."""
        messages = list(_messages(requests, round=round))
        sizes = {} if self._measuring else {id(m): len(encode_message(m)) for m in messages}
        identifiers = list(self._grid.push_messages(messages))
        asked = {i: (m.metadata.dst_node_id, sizes.get(id(m), 0)) for i, m in zip(identifiers, messages, strict=True)}
        del messages
        while asked and not over():
            replies = list(self._grid.pull_messages(list(asked)))
            for message in replies:
                # An error's source is the SuperLink, so the request's identifier says whose reply this is.
                node, bytes_down = asked.pop(message.metadata.reply_to_message_id)
                yield self._reply(message, node=node, bytes_down=bytes_down)
                if over():
                    break
            if asked and not replies:
                self._wait(_POLL_SECONDS)
        # Only a round that is over takes its requests back: a run that is stopped goes on with their replies later.
        if asked and self._measuring:
            self._measuring.abandon(list(asked))

    def _reply(self, message: Message, *, node: int, bytes_down: int) -> Reply:
        if self._measuring:
            bytes_down, bytes_up = self._measuring.take_sizes(message.metadata.reply_to_message_id)
        else:
            bytes_up = len(encode_message(message))
        if message.has_error():
            reason, kind = message.error.reason or "no reason given", failure_kind(message.error)
            return Reply(node, None, reason, {}, bytes_down, bytes_up, kind)
        try:
            return Reply(node, payload_in(message.content), None, metrics_in(message.content), bytes_down, bytes_up)
        except PayloadError as error:
            return Reply(node, None, str(error), {}, bytes_down, bytes_up, error.kind)

    def _wait(self, seconds: float) -> None:
        if self._measuring:
            self._measuring.wait(seconds)
        else:
            time.sleep(seconds)


def _messages(requests: Iterable[Request], *, round: int) -> Iterator[Message]:
    # Requests of one payload share one content object, by which a grid sees that it has to encode it only once. The
    # payload is kept beside it: its address names it only as long as it lives.
    contents: dict[int, tuple[bytes, RecordDict]] = {}
    for request in requests:
        key = id(request.payload)
        if key not in contents:
            contents[key] = (request.payload, content_of(request.payload))
        yield Message(contents[key][1], dst_node_id=request.node, message_type="train", group_id=str(round))
