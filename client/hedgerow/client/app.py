"""The Flower ClientApp: messages and Flower's state around `hedgerow.client.answer`.

`run_config` holds the experiment (`hedgerow.config.run_config`) and, where devices train on data of their own, `facts`
(`hedgerow.data.facts`) of the coordinator's. `node_config` says whose samples these are; see `hedgerow.client.source`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from dataclasses import dataclass

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from hedgerow.budget import GUARD
from hedgerow.budget.deciding import Calibrate
from hedgerow.client.answer import Answer, Workshop
from hedgerow.client.calibrating import Calibrator
from hedgerow.client.joining.machine import default_budget
from hedgerow.client.memory import ClientState
from hedgerow.client.planning import Room, base_bytes, following_guard, give_back, limited, room_of, tighten, warm
from hedgerow.client.source import Source, source_in
from hedgerow.config import Experiment
from hedgerow.config.run_config import experiment_in
from hedgerow.data import Dataset
from hedgerow.errors import BudgetError, OverrunError
from hedgerow.privacy import system_words
from hedgerow.telemetry.memory import Resident, unmeasured
from hedgerow.units import size_text
from hedgerow.wire.flower import content_of, error_reply, payload_in

__all__ = ["app"]

app = ClientApp()

_log = logging.getLogger(__name__)

_STATE = "hedgerow"


@app.train()
def train(message: Message, context: Context) -> Message:
    """Trains on this client's samples and replies with one payload, or with an error of the kind `memory`."""
    source = source_in(context.node_config, facts=context.run_config.get("facts"))
    workshop, base = _workshop(experiment_in(context.run_config), source.shared())
    state, guard = _state_in(context), _guard_in(context)
    room = room_of(workshop.experiment, source, free=base.free, guard=guard)
    try:
        answer = _answer(workshop, payload_in(message.content), source=source, state=state, room=room, base=base)
    except BudgetError as error:
        return error_reply(str(error), to=message, kind="memory")
    except OverrunError as error:
        # The next plan leaves more to spare, whichever process makes it.
        context.state[_STATE] = _record_of(state, guard=error.guard)
        return error_reply(str(error), to=message, kind="memory")
    following = guard if room is None else following_guard(room, answer.held)
    if room is not None and following != guard:
        _log.warning(
            "the request held %s of memory, and %s were given; plans leave more to spare from now on",
            size_text(answer.held or 0),
            size_text(room.budget),
        )
    context.state[_STATE] = _record_of(answer.state, guard=following)
    return Message(content_of(answer.payload), reply_to=message)


@dataclass(frozen=True, slots=True)
class _Base:
    """What this process was before its first request: `held` bytes by `base_bytes`, and `free` ones to train in.

    `resident` measures what requests hold beside that; None where nobody plans.
    """

    held: int | None
    free: int
    resident: Resident | None = None


def _answer(
    workshop: Workshop, request: bytes, *, source: Source, state: ClientState, room: Room | None, base: _Base
) -> Answer:
    hard = workshop.experiment.budget.hard and room is not None
    most = None
    if hard and room is not None and base.held is not None:
        most = base.held + room.budget + workshop.samples.copied_bytes(source.part)
    if room is not None:
        give_back()
    # The profiler takes memory too, and keeps some, so who plans measures what the process holds instead.
    with limited(most), contextlib.nullcontext() if room is None else unmeasured():
        return workshop.answer(
            request,
            client=source.client,
            part=source.part,
            state=state,
            # Whoever has data of its own has something to protect.
            draw=None if source.data is None else system_words,
            room=room,
            resident=base.resident,
        )


@functools.lru_cache(maxsize=1)
def _workshop(experiment: Experiment, source: Source) -> tuple[Workshop, _Base]:
    # One process answers for many clients; what they share is built once.
    source.check_model(experiment.model.name)
    dataset = source.dataset()
    workshop = Workshop(
        experiment,
        dataset=dataset,
        parts=source.parts,
        calibrator=lambda settings: _calibrator(settings, source, dataset),
    )
    if not experiment.budget.plan:
        return workshop, _Base(None, 0)
    tighten()
    warm()
    return workshop, _Base(base_bytes(), default_budget(), Resident())


def _calibrator(experiment: Experiment, source: Source, dataset: Dataset | None) -> Calibrate | None:
    """What puts predictions right for this machine; None where it is not measured.

    Simulated clients stand for other machines, and what they plan decides the model, which is to be the same on all.
    """
    if dataset is None or not source.measure or not experiment.budget.plan:
        return None
    return Calibrator(
        experiment,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
        budget=default_budget() if source.memory is None else source.memory,
    )


def _record_of(state: ClientState, *, guard: float = GUARD) -> ConfigRecord:
    kept, floats = state.residuals
    return ConfigRecord(
        {
            "rounds": state.rounds,
            "mask": state.mask,
            "version": state.version,
            "kept": kept,
            "floats": floats,
            "pool": state.pool,
            # Who never had too little memory remembers nothing about it.
            **({} if guard == GUARD else {"guard": guard}),
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


def _guard_in(context: Context) -> float:
    record = context.state.config_records.get(_STATE)
    guard = GUARD if record is None else record.get("guard", GUARD)
    assert isinstance(guard, float)
    return guard


def _bytes_in(record: ConfigRecord, name: str) -> bytes:
    value = record[name]
    assert isinstance(value, bytes)
    return value
