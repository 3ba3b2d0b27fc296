"""Which part of the network a device has memory for: what the coordinator asks, and what the device says.

A level is a part of the kept weights: 0 is the whole, and each further one lies inside the one before. Nothing but how
many weights are kept is sent, as memory depends on nothing else of a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from hedgerow.codec import MOST_LEVELS, Header, Section, Sections, counts_section, encode_payload, read_counts
from hedgerow.errors import PayloadError
from hedgerow.exchange.architecture import Architecture
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["NodePlan", "asked_levels", "plan_reply", "plan_request", "read_plan"]

_REFUSED = 255
"""Said in place of a level where none fits."""
_LARGEST = 2**50
"""Bytes: more than any device has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What a device says of its memory. Bytes travel as float32, so the last of large ones are rounded.

    Attributes:
        level: of the part of the network that it has memory for; None where it has too little for each.
        budget: bytes that it may use to train.
        predicted: bytes that it will use at most; 0 without a level.
        least: without a level, bytes that would do for the least that it can do; else 0.
    """

    level: int | None
    budget: int
    predicted: int
    least: int


def plan_request(
    experiment: bytes, round: int, *, architecture: Architecture, levels: Sequence[Mapping[str, int]]
) -> bytes:
    """The payload that asks a device which level it has memory for.

    Args:
        experiment: 6 bytes, the digest that names the experiment.
        round: the round that it is to train in.
        architecture: of the network.
        levels: of each level the number of kept weights of each prunable tensor (`Mask.layer_kept`), the whole first.
    """
    kept = tuple(tuple(level[name] for name in architecture.prunable) for level in levels)
    header = Header(experiment, round, b"", tensors=architecture.tensors(), task=pb.TASK_PLAN, levels=kept)
    # Nobody asks what its own reader would refuse.
    asked_levels(header, architecture=architecture)
    return encode_payload(header, [])


def asked_levels(header: Header, *, architecture: Architecture) -> list[dict[str, int]]:
    """What `plan_request` was given as `levels`.

    Raises:
        PayloadError: there is none or too many, one has another number of tensors, more weights than a tensor has or
            more than the level before, or nothing is kept.
    """
    names, sizes = list(architecture.prunable), [prod(shape) for shape in architecture.prunable.values()]
    if not 1 <= len(header.levels) <= MOST_LEVELS:
        raise PayloadError(f"{len(header.levels)} levels; there have to be 1 to {MOST_LEVELS}", kind="bounds")
    for kept in header.levels:
        if len(kept) != len(names):
            raise PayloadError(f"a level of {len(kept)} tensors; the network has {len(names)}", kind="mismatch")
    for before, kept in pairwise((tuple(sizes), *header.levels)):
        if any(inner > outer for inner, outer in zip(kept, before, strict=True)):
            raise PayloadError("a level keeps more weights of a tensor than there are to keep", kind="bounds")
        if not any(kept):
            raise PayloadError("a level keeps no weight", kind="bounds")
    return [dict(zip(names, kept, strict=True)) for kept in header.levels]


def plan_reply(plan: NodePlan) -> Section:
    """The one section of a device's reply."""
    level = _REFUSED if plan.level is None else plan.level
    values = [level, *(min(size, _LARGEST) for size in (plan.budget, plan.predicted, plan.least))]
    return counts_section(np.array(values, dtype=np.float32))


def read_plan(sections: Sections, *, levels: int) -> NodePlan:
    """Inverse of `plan_reply`, of a device that was asked about so many levels.

    Raises:
        PayloadError: the section is missing, of another length or codec, or a value is out of bounds.
    """
    level, *sizes = map(float, read_counts(sections, 4))
    if level != _REFUSED and not (0 <= level < levels and level % 1 == 0):
        raise PayloadError(f"level {level:g}; there are {levels}, counted from 0", kind="metrics")
    for size in sizes:
        if not 0 <= size <= _LARGEST:
            raise PayloadError(f"a plan of {size:g} bytes; it has to be 0 to {_LARGEST:g}", kind="metrics")
    budget, predicted, least = map(int, sizes)
    if level == _REFUSED:
        return NodePlan(level=None, budget=budget, predicted=predicted, least=least)
    return NodePlan(level=int(level), budget=budget, predicted=predicted, least=least)
