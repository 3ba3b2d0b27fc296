"""The Flower ClientApp: messages and Flower's state around `hedgerow.client.answer`.

The experiment comes as JSON in `run_config["experiment"]`, the client's number as `node_config["partition-id"]`.
"""

from __future__ import annotations

import functools

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from hedgerow.client.answer import ClientState, Workshop
from hedgerow.config import Experiment
from hedgerow.wire.flower import content_of, payload_in

__all__ = ["app"]

app = ClientApp()

_STATE = "hedgerow"


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains on this client's samples and replies with one payload."""
    workshop = _workshop(str(context.run_config["experiment"]))
    client = int(context.node_config["partition-id"])
    answer = workshop.answer(payload_in(message.content), client=client, state=_state_in(context))
    context.state[_STATE] = ConfigRecord({"rounds": answer.state.rounds, "mask": answer.state.mask})
    return Message(content_of(answer.payload, answer.metrics), reply_to=message)


@functools.lru_cache(maxsize=1)
def _workshop(experiment: str) -> Workshop:
    # One process answers for many clients; what they share is built once.
    return Workshop(Experiment.model_validate_json(experiment))


def _state_in(context: Context) -> ClientState:
    record = context.state.config_records.get(_STATE)
    if record is None:
        return ClientState()
    rounds, mask = record["rounds"], record["mask"]
    assert isinstance(rounds, int)
    assert isinstance(mask, bytes)
    return ClientState(rounds=rounds, mask=mask)
