"""A `Fleet` on any Flower `Grid`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from hedgerow.errors import PayloadError
from hedgerow.server.fleet import Reply, Request
from hedgerow.wire.flower import content_of, encode_message, metrics_in, payload_in

__all__ = ["GridFleet", "MeasuringGrid"]

_POLL_SECONDS = 0.05


@runtime_checkable
class MeasuringGrid(Protocol):
    """A grid that encodes messages itself and remembers how long they were."""

    def take_sizes(self, message_id: str) -> tuple[int, int]:
        """Bytes of a request and of its reply; asked once."""

    def wait(self, seconds: float) -> None:
        """Returns when there may be something to pull, or after that time."""


class GridFleet:
    """The nodes of a Flower grid; `train` messages carry the requests, the round is their group."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._numbers: dict[int, int] = {}

    def nodes(self) -> Sequence[int]:
        """Identifiers of the nodes that are there, in ascending order."""
        nodes = sorted(self._grid.get_node_ids())
        self._numbers = {node: number for number, node in enumerate(nodes)}
        return nodes

    def name(self, node: int) -> str:
        """`client-0007`: the place in the order of identifiers, which in a simulation is the partition's number."""
        number = self._numbers.get(node)
        return f"node-{node}" if number is None else f"client-{number:04d}"

    def exchange(self, requests: Iterable[Request], *, round: int) -> Iterator[Reply]:
        """See `Fleet.exchange`."""
        messages = [
            Message(content_of(r.payload), dst_node_id=r.node, message_type="train", group_id=str(round))
            for r in requests
        ]
        sizes = {} if isinstance(self._grid, MeasuringGrid) else {id(m): len(encode_message(m)) for m in messages}
        identifiers = list(self._grid.push_messages(messages))
        asked = {i: (m.metadata.dst_node_id, sizes.get(id(m), 0)) for i, m in zip(identifiers, messages, strict=True)}
        del messages
        while asked:
            replies = list(self._grid.pull_messages(list(asked)))
            for message in replies:
                # An error's source is the SuperLink, so the request's identifier says whose reply this is.
                node, bytes_down = asked.pop(message.metadata.reply_to_message_id)
                yield self._reply(message, node=node, bytes_down=bytes_down)
            if asked and not replies:
                self._wait()

    def _reply(self, message: Message, *, node: int, bytes_down: int) -> Reply:
        if isinstance(self._grid, MeasuringGrid):
            bytes_down, bytes_up = self._grid.take_sizes(message.metadata.reply_to_message_id)
        else:
            bytes_up = len(encode_message(message))
        if message.has_error():
            return Reply(node, None, message.error.reason or "no reason given", {}, bytes_down, bytes_up)
        try:
            return Reply(node, payload_in(message.content), None, metrics_in(message.content), bytes_down, bytes_up)
        except PayloadError as error:
            return Reply(node, None, str(error), {}, bytes_down, bytes_up)

    def _wait(self) -> None:
        if isinstance(self._grid, MeasuringGrid):
            self._grid.wait(_POLL_SECONDS)
        else:
            time.sleep(_POLL_SECONDS)
