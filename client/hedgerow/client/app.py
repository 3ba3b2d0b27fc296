"""The Flower ClientApp: messages and Flower's state around `hedgerow.client.answer`.

`run_config` holds the experiment (`hedgerow.config.run_config`) and, where devices train on data of their own, `facts`
(`hedgerow.data.facts`) of the coordinator's. `node_config` says whose samples these are; see `hedgerow.client.source`.
"""

from __future__ import annotations

import functools

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from hedgerow.client.answer import ClientState, Workshop
from hedgerow.client.source import Source, source_in
from hedgerow.config import Experiment
from hedgerow.config.run_config import experiment_in
from hedgerow.wire.flower import content_of, payload_in

__all__ = ["app"]

app = ClientApp()

_STATE = "hedgerow"


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains on this client's samples and replies with one payload."""
    source = source_in(context.node_config, facts=context.run_config.get("facts"))
    workshop = _workshop(experiment_in(context.run_config), source.shared())
    answer = workshop.answer(
        payload_in(message.content), client=source.client, part=source.part, state=_state_in(context)
    )
    context.state[_STATE] = ConfigRecord({"rounds": answer.state.rounds, "mask": answer.state.mask})
    return Message(content_of(answer.payload, answer.metrics), reply_to=message)


@functools.lru_cache(maxsize=1)
def _workshop(experiment: Experiment, source: Source) -> Workshop:
    # One process answers for many clients; what they share is built once.
    source.check_model(experiment.model.name)
    return Workshop(experiment, dataset=source.dataset(), parts=source.parts)


def _state_in(context: Context) -> ClientState:
    record = context.state.config_records.get(_STATE)
    if record is None:
        return ClientState()
    rounds, mask = record["rounds"], record["mask"]
    assert isinstance(rounds, int)
    assert isinstance(mask, bytes)
    return ClientState(rounds=rounds, mask=mask)
