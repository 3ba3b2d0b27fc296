"""The real ClientApp, with one client that always fails."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hedgerow.client.app import app as real
from hedgerow.errors import DataError

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Client 1 raises; the others train."""
    if context.node_config["partition-id"] == 1:
        raise DataError("the camera is broken")
    return real(message, context)
