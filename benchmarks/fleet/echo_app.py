"""A ClientApp that answers at once, for the workers of real devices."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from benchmarks.fleet.crowd import REPLY
from hedgerow.wire.flower import content_of

__all__ = ["app"]

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """1,000 bytes."""
    return Message(content_of(REPLY), reply_to=message)
