"""The real ClientApp, with one client that always fails, or never answers."""

from __future__ import annotations

import time

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from hedgerow.client.app import app as real
from hedgerow.errors import DataError

app = ClientApp()
hanging = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Client 1 raises; the others train."""
    if context.node_config["partition-id"] == 1:
        raise DataError("the camera is broken")
    return real(message, context)


@hanging.train()
def train_or_hang(message: Message, context: Context) -> Message:
    """Client 1 hangs; the others train."""
    if context.node_config["partition-id"] == 1:
        time.sleep(3600)
    return real(message, context)
