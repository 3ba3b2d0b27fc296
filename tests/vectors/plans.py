"""Whole messages about the part of a network that a device has memory for."""

from __future__ import annotations

from hedgerow.codec import Header, decode_payload, encode_payload
from hedgerow.errors import PayloadError
from hedgerow.exchange import NodePlan, asked_levels, plan_reply, plan_request, read_plan
from hedgerow.v1 import payload_pb2 as pb
from tests.vectors.form import Example, Json, Way
from tests.vectors.network import EXPERIMENT, LIMIT, TENSORS, Knows, exchange_in, in_words

__all__ = ["PLAN_EXAMPLES", "PLAN_WAYS"]


def _write_levels(knows: Knows, source: Knows) -> dict[str, Json]:
    architecture = exchange_in(knows).architecture
    levels = [dict(zip(architecture.prunable, kept, strict=True)) for kept in source["levels"]]
    return {"data": plan_request(EXPERIMENT, source["round"], architecture=architecture, levels=levels).hex()}


def _read_levels(knows: Knows, sent: Knows) -> Json:
    architecture = exchange_in(knows).architecture
    header, _ = decode_payload(bytes.fromhex(sent["data"]), limit=LIMIT)
    architecture.require(header.tensors)
    levels = asked_levels(header, architecture=architecture)
    return {"header": in_words(header), "levels": [list(level.values()) for level in levels]}


def _write_planned(knows: Knows, source: Knows) -> dict[str, Json]:
    header = Header(EXPERIMENT, knows["round"], b"", task=pb.TASK_PLAN)
    return {"data": encode_payload(header, [plan_reply(NodePlan(**source))]).hex()}


def _read_planned(knows: Knows, sent: Knows) -> Json:
    header, sections = decode_payload(bytes.fromhex(sent["data"]), limit=LIMIT)
    if header != Header(EXPERIMENT, knows["round"], b"", task=pb.TASK_PLAN):
        raise PayloadError("the reply is to another request", kind="mismatch")
    plan = read_plan(sections, levels=knows["levels"])
    sizes = {"budget": plan.budget, "predicted": plan.predicted, "least": plan.least}
    return {"header": in_words(header), "level": plan.level, **sizes}


PLAN_WAYS = {"asked": Way(_write_levels, _read_levels), "planned": Way(_write_planned, _read_planned)}

PLAN_EXAMPLES = (
    Example(
        "which level there is memory for",
        "asked",
        {"settings": {"representation": "signs"}, "tensors": TENSORS},
        {"round": 3, "levels": [[18, 12], [9, 6], [4, 0]]},
    ),
    Example(
        "a level that there is memory for",
        "planned",
        {"round": 3, "levels": 3},
        {"level": 1, "budget": 96_000_000, "predicted": 90_000_000, "least": 0},
    ),
    Example(
        "too little memory for every level",
        "planned",
        {"round": 3, "levels": 3},
        {"level": None, "budget": 1_000_000, "predicted": 0, "least": 31_000_000},
    ),
)
