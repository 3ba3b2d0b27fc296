"""ClientApps for tests of grids; worker processes import them by name."""

from __future__ import annotations

import os
import time

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from hedgerow.errors import TrainingError
from hedgerow.wire.flower import content_of, payload_in

app = ClientApp()


@app.train()
def echo(message: Message, context: Context) -> Message:
    """Replies the payload, its partition and how often it was asked; `raise`, `bug`, `die`, `hang` do as they say."""
    payload = payload_in(message.content)
    if payload == b"raise":
        raise TrainingError("the loss became nan")
    if payload == b"bug":
        raise KeyError("x")
    if payload == b"die":
        os._exit(9)
    if payload == b"hang":
        time.sleep(600)
    record = context.state.config_records.get("calls")
    calls = (int(str(record["n"])) if record is not None else 0) + 1
    context.state["calls"] = ConfigRecord({"n": calls})
    metrics = {"calls": calls, "partition": int(context.node_config["partition-id"]), "pid": os.getpid()}
    return Message(content_of(payload + str(context.run_config["suffix"]).encode(), metrics), reply_to=message)
