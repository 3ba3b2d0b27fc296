"""Cutting and putting together, on bytes that behave and bytes that do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.v1.fleet_pb2 import Chunk, Frame, Transfer
from hedgerow.wire.transfers import CHUNK_BYTES, Assembler, Body, Received, TransferError, encode_frame, frames_of

ID = "0123456789abcdef" * 2


def frames(data: bytes) -> list[Frame]:
    return [Frame.FromString(f) for f in frames_of(Transfer(id=ID, run="r", round=3), Body(data))]


def feed(assembler: Assembler, sent: list[Frame]) -> Received | None:
    received = None
    for frame in sent:
        received = assembler.begin(frame.transfer) if frame.HasField("transfer") else assembler.add(frame.chunk)
    return received


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_a_body_comes_back_whatever_its_size(size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sent = frames(data)
    assert len(sent) == 1 + -(-size // CHUNK_BYTES)
    received = feed(Assembler(limit=size), sent)
    assert received is not None
    assert received.body == data
    assert (received.transfer.id, received.transfer.round) == (ID, 3)


def test_a_broadcast_is_encoded_once() -> None:
    body = Body(b"a" * (CHUNK_BYTES + 5))
    first, second = (list(frames_of(Transfer(id=ID, round=r), body)) for r in (1, 2))
    assert all(a is b for a, b in zip(first[1:], second[1:], strict=True))
    assert all(encode_frame(frame) is frame for frame in first)


def test_a_size_above_the_limit_is_refused_before_any_of_it_comes() -> None:
    assembler = Assembler(limit=10)
    sent = frames(b"a" * 11)
    with pytest.raises(TransferError, match="11 bytes are announced; at most 10") as caught:
        assembler.begin(sent[0].transfer)
    assert (caught.value.damage, caught.value.id) == ("too_large", ID)
    assert assembler.add(sent[1].chunk) is None, "the rest is passed over"
    assert feed(assembler, frames(b"a" * 10)) is not None


@pytest.mark.parametrize(
    ("chunks", "damage"),
    [
        ([(5, b"56789")], "out_of_order"),
        ([(0, b"01234"), (0, b"01234")], "out_of_order"),
        ([(0, b"0123456789x")], "too_long"),
        ([(0, b"01234"), (5, b"")], "too_long"),
        ([(0, b"0123456780")], "wrong_digest"),
    ],
)
def test_damage_is_named_and_the_next_transfer_is_whole(chunks: list[tuple[int, bytes]], damage: str) -> None:
    assembler = Assembler(limit=100)
    sent = frames(b"0123456789")
    assembler.begin(sent[0].transfer)
    *good, (offset, data) = chunks
    for good_offset, good_data in good:
        assembler.add(Chunk(offset=good_offset, data=good_data))
    with pytest.raises(TransferError) as caught:
        assembler.add(Chunk(offset=offset, data=data))
    assert (caught.value.damage, caught.value.id) == (damage, ID)
    assert assembler.add(Chunk(offset=7, data=b"more")) is None
    received = feed(assembler, sent)
    assert received is not None
    assert received.body == b"0123456789"


def test_what_is_cut_short_is_told_when_the_next_one_begins() -> None:
    assembler = Assembler(limit=10 * CHUNK_BYTES)
    assert assembler.unfinished() is None
    feed(assembler, frames(b"a" * (CHUNK_BYTES + 1))[:2])
    unfinished = assembler.unfinished()
    assert unfinished is not None
    assert unfinished.damage == "truncated"
    assert feed(assembler, frames(b"next")) is not None
    assert assembler.unfinished() is None


def test_a_chunk_without_a_transfer_is_refused() -> None:
    with pytest.raises(TransferError) as caught:
        Assembler(limit=10).add(Chunk(offset=0, data=b"x"))
    assert caught.value.damage == "unexpected_chunk"


@pytest.mark.parametrize(
    "transfer", [Transfer(), Transfer(id=ID, sha256=b"short"), Transfer(id=ID, sha256=bytes(32), envelope=bytes(4097))]
)
def test_an_impossible_header_is_refused(transfer: Transfer) -> None:
    with pytest.raises(TransferError) as caught:
        Assembler(limit=10).begin(transfer)
    assert caught.value.damage == "bad_transfer"


pieces = st.one_of(
    st.builds(
        Frame,
        transfer=st.builds(
            Transfer,
            id=st.one_of(st.just(ID), st.text(max_size=40)),
            size=st.integers(0, 60),
            sha256=st.one_of(st.just(Body(b"abc").sha256), st.binary(max_size=40)),
        ),
    ),
    st.builds(Frame, chunk=st.builds(Chunk, offset=st.integers(0, 60), data=st.binary(max_size=40))),
)


@given(st.lists(pieces, max_size=12))
def test_no_order_of_frames_does_anything_but_give_an_error_or_a_body_with_its_digest(sent: list[Frame]) -> None:
    assembler = Assembler(limit=50)
    for frame in sent:
        try:
            received = assembler.begin(frame.transfer) if frame.HasField("transfer") else assembler.add(frame.chunk)
        except TransferError:
            continue
        if received is not None:
            assert Body(received.body).sha256 == received.transfer.sha256
            assert len(received.body) == received.transfer.size <= 50
