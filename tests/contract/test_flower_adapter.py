"""Says when Flower's private names move."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from hedgerow.errors import PayloadError
from hedgerow.wire.flower import (
    assign_message_id,
    content_of,
    decode_message,
    decode_state,
    encode_content,
    encode_envelope,
    encode_message,
    encode_state,
    error_reply,
    identify_process,
    metrics_in,
    payload_in,
)


@pytest.fixture
def request_message() -> Message:
    identify_process()
    message = Message(content_of(b"abc", {"loss": 0.5}), dst_node_id=7, message_type="train", group_id="3")
    assign_message_id(message)
    return message


def test_a_message_comes_back_from_its_bytes(request_message: Message) -> None:
    back = decode_message(encode_message(request_message))
    assert payload_in(back.content) == b"abc"
    assert metrics_in(back.content) == {"loss": 0.5}
    assert (back.metadata.dst_node_id, back.metadata.group_id) == (7, "3")
    assert back.metadata.message_id == request_message.metadata.message_id


def test_an_envelope_and_a_content_appended_are_the_whole_message(request_message: Message) -> None:
    whole = encode_envelope(request_message) + encode_content(request_message.content)
    assert whole == encode_message(request_message)
    assert payload_in(decode_message(whole).content) == b"abc"


def test_a_reply_names_the_request_it_answers(request_message: Message) -> None:
    identify_process(node_id=7)
    reply = Message(content_of(b"x", {}), reply_to=decode_message(encode_message(request_message)))
    back = decode_message(encode_message(reply))
    assert back.metadata.reply_to_message_id == request_message.metadata.message_id


def test_an_error_reply_carries_its_reason(request_message: Message) -> None:
    reply = error_reply("no memory left", to=request_message)
    assert reply.has_error()
    assert reply.error.reason == "no memory left"
    assert reply.metadata.reply_to_message_id == request_message.metadata.message_id


def test_the_envelope_is_small_beside_the_payload(request_message: Message) -> None:
    identify_process()
    large = Message(content_of(b"a" * 100_000, {}), dst_node_id=7, message_type="train", group_id="3")
    assign_message_id(large)
    assert len(encode_message(large)) < 100_400


def test_the_length_of_a_reply_does_not_depend_on_what_was_measured(request_message: Message) -> None:
    lengths = {
        len(encode_message(Message(content_of(b"x", {"seconds": value}), reply_to=request_message)))
        for value in (1.0, 123456789.0, 0.1)
    }
    assert len(lengths) == 1


def test_a_state_comes_back_from_its_bytes() -> None:
    state = RecordDict({"hedgerow": ConfigRecord({"rounds": 3, "mask": b"\x00\xff"})})
    assert decode_state(encode_state(state))["hedgerow"] == state["hedgerow"]


def test_an_empty_state_is_no_bytes() -> None:
    assert encode_state(RecordDict()) == b""
    assert not decode_state(b"")


def test_content_without_a_payload_is_refused() -> None:
    with pytest.raises(PayloadError, match="no hedgerow payload"):
        payload_in(RecordDict())


def test_content_without_metrics_has_none() -> None:
    assert metrics_in(RecordDict()) == {}
    assert metrics_in(content_of(b"abc")) == {}
