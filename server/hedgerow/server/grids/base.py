"""What our own grids have in common of Flower's `Grid`."""

from __future__ import annotations

import abc
import time
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

__all__ = ["WaitingGrid"]

_WAIT_SECONDS = 0.05


class WaitingGrid(Grid):
    """A grid that can wait until there is something to pull."""

    @abc.abstractmethod
    def wait(self, seconds: float) -> None:
        """Returns when there may be something to pull, or after that time."""

    def set_run(self, run: Run) -> None:
        """Sets the run that this grid works for."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that was set."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message for one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Pushes, and pulls until all replies are there or the time is over."""
        pending = set(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while pending and (end is None or time.monotonic() < end):
            self.wait(_WAIT_SECONDS)
            arrived = list(self.pull_messages(pending))
            pending -= {m.metadata.reply_to_message_id for m in arrived}
            replies += arrived
        return replies
