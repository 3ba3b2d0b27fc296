"""Which part of a network a device has memory for: what is asked, and what is said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.codec import Header, Section, counts_section, decode_payload, encode_payload
from hedgerow.errors import PayloadError
from hedgerow.exchange import Architecture, NodePlan, asked_levels, plan_reply, plan_request, read_plan
from hedgerow.v1 import payload_pb2 as pb

ARCHITECTURE = Architecture.of(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
EXPERIMENT = bytes(range(6))
LEVELS = [{"0.weight": 12, "1.weight": 3}, {"0.weight": 6, "1.weight": 0}]
PLAN = NodePlan(level=1, budget=96_000_000, predicted=90_000_000, least=0)


def header_of(*levels: tuple[int, ...]) -> Header:
    return Header(EXPERIMENT, 3, b"", task=pb.TASK_PLAN, levels=levels)


def said(*values: float) -> dict[int, Section]:
    return {pb.KIND_COUNTS: counts_section(np.array(values, dtype=np.float32))}


def test_what_is_asked_is_read_again() -> None:
    data = plan_request(EXPERIMENT, 3, architecture=ARCHITECTURE, levels=LEVELS)
    assert data[-14:].hex() == "a201040a020c03" + "a201040a020600"
    header, sections = decode_payload(data, limit=len(data))
    assert (header.experiment, header.round, header.task, sections) == (EXPERIMENT, 3, pb.TASK_PLAN, {})
    ARCHITECTURE.require(header.tensors)
    assert asked_levels(header, architecture=ARCHITECTURE) == LEVELS
    assert header.of_reply() == Header(EXPERIMENT, 3, b"", task=pb.TASK_PLAN)


def test_a_plan_is_four_floats() -> None:
    section = plan_reply(PLAN)
    assert section.data == np.array([1, 96e6, 90e6, 0], dtype="<f4").tobytes()
    assert read_plan({section.kind: section}, levels=2) == PLAN


def test_a_device_for_which_nothing_fits_says_what_would_do() -> None:
    refused = NodePlan(level=None, budget=1_000_000, predicted=0, least=31_000_000)
    section = plan_reply(refused)
    assert np.frombuffer(section.data, dtype="<f4")[0] == 255
    assert read_plan({section.kind: section}, levels=8) == refused


def test_more_bytes_than_there_are_anywhere_are_said_as_the_most() -> None:
    section = plan_reply(dataclasses.replace(PLAN, budget=10**30))
    assert read_plan({section.kind: section}, levels=2).budget == 2**50


@pytest.mark.parametrize(
    ("levels", "part"),
    [
        ((), "0 levels"),
        (((1, 1),) * 8 + ((1, 1),), "9 levels"),
        (((12,),), "a level of 1 tensors; the network has 2"),
        (((12, 3, 1),), "a level of 3 tensors"),
        (((13, 3),), "more weights of a tensor than there are"),
        (((12, 3), (6, 4)), "more weights of a tensor than there are"),
        (((12, 3), (0, 0)), "keeps no weight"),
    ],
)
def test_levels_that_cannot_be_are_refused(levels: tuple[tuple[int, ...], ...], part: str) -> None:
    with pytest.raises(PayloadError, match=part):
        asked_levels(header_of(*levels), architecture=ARCHITECTURE)


def test_more_levels_than_there_may_be_are_refused_before_they_are_read() -> None:
    data = encode_payload(header_of(*[(1, 1)] * 9), [])
    with pytest.raises(PayloadError, match="9 levels; at most 8"):
        decode_payload(data, limit=len(data))


@pytest.mark.parametrize(
    "values",
    [
        (2, 1, 1, 1),
        (-1, 1, 1, 1),
        (0.5, 1, 1, 1),
        (256, 1, 1, 1),
        (0, -1, 1, 1),
        (0, 1, 2.0**51, 1),
        (0, 1, 1, float("inf")),
        (float("nan"), 1, 1, 1),
        (0, 1, 1),
        (0, 1, 1, 1, 1),
    ],
)
def test_a_plan_that_cannot_be_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(PayloadError):
        read_plan(said(*values), levels=2)
    with pytest.raises(PayloadError):
        read_plan({}, levels=2)


@settings(max_examples=60)
@given(st.binary(max_size=24), st.integers(1, 8))
def test_whatever_a_device_says_is_a_plan_or_refused(data: bytes, levels: int) -> None:
    section = Section(pb.KIND_COUNTS, pb.CODEC_FLOAT32, 4, 0, data)
    try:
        plan = read_plan({pb.KIND_COUNTS: section}, levels=levels)
    except PayloadError:
        return
    assert plan.level is None or 0 <= plan.level < levels
    assert min(plan.budget, plan.predicted, plan.least) >= 0


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=3), max_size=10))
def test_whatever_is_asked_is_nested_or_refused(levels: list[list[int]]) -> None:
    data = encode_payload(header_of(*map(tuple, levels)), [])
    try:
        header, _ = decode_payload(data, limit=len(data))
        found = asked_levels(header, architecture=ARCHITECTURE)
    except PayloadError:
        return
    for before, after in zip([{"0.weight": 12, "1.weight": 6}, *found], found, strict=False):
        assert all(after[name] <= count for name, count in before.items())
