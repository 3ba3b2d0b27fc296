"""The Flower ClientApp: messages and Flower's state around `hedgerow.client.answer`.

`run_config` holds the experiment (`hedgerow.config.run_config`) and, where devices train on data of their own, `facts`
(`hedgerow.data.facts`) of the coordinator's. `node_config` says whose samples these are; see `hedgerow.client.source`.
"""

from __future__ import annotations

import functools

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from hedgerow.client.answer import Workshop
from hedgerow.client.memory import ClientState
from hedgerow.client.source import Source, source_in
from hedgerow.config import Experiment
from hedgerow.config.run_config import experiment_in
from hedgerow.privacy import system_words
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
        payload_in(message.content),
        client=source.client,
        part=source.part,
        state=_state_in(context),
        # Whoever has data of its own has something to protect.
        draw=None if source.data is None else system_words,
    )
    context.state[_STATE] = _record_of(answer.state)
    return Message(content_of(answer.payload), reply_to=message)


@functools.lru_cache(maxsize=1)
def _workshop(experiment: Experiment, source: Source) -> Workshop:
    # One process answers for many clients; what they share is built once.
    source.check_model(experiment.model.name)
    return Workshop(experiment, dataset=source.dataset(), parts=source.parts)


def _record_of(state: ClientState) -> ConfigRecord:
    kept, floats = state.residuals
    return ConfigRecord(
        {
            "rounds": state.rounds,
            "mask": state.mask,
            "version": state.version,
            "kept": kept,
            "floats": floats,
            "pool": state.pool,
        }
    )


def _state_in(context: Context) -> ClientState:
    record = context.state.config_records.get(_STATE)
    if record is None:
        return ClientState()
    rounds = record["rounds"]
    assert isinstance(rounds, int)
    mask, version, kept, floats = (_bytes_in(record, name) for name in ("mask", "version", "kept", "floats"))
    # Whoever ran before there was one has none.
    pool = _bytes_in(record, "pool") if "pool" in record else b""
    return ClientState(rounds=rounds, mask=mask, version=version, residuals=(kept, floats), pool=pool)


def _bytes_in(record: ConfigRecord, name: str) -> bytes:
    value = record[name]
    assert isinstance(value, bytes)
    return value
