"""The one place that knows how our values ride in Flower's messages, and Flower's private names.

A message's content is one `ArrayRecord` with one `Array` of stype `hedgerow.v2`: the payload. Other apps may
add a `MetricRecord`; ours has what it measured in the payload, at a seventh of the bytes.
The private imports moved between Flower's releases; `tests/contract/test_flower_adapter.py` says when they move again.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import (
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.task_identity import TaskIdentity

from hedgerow.codec import PAYLOAD_VERSION
from hedgerow.errors import FailureKind, PayloadError

__all__ = [
    "PAYLOAD_STYPE",
    "assign_message_id",
    "content_of",
    "decode_message",
    "decode_state",
    "encode_content",
    "encode_envelope",
    "encode_message",
    "encode_state",
    "error_reply",
    "failure_kind",
    "identify_process",
    "metrics_in",
    "payload_in",
]

PAYLOAD_STYPE = f"hedgerow.v{PAYLOAD_VERSION}"
_PAYLOAD, _METRICS = "payload", "metrics"
_ARRAY = "0"
_CODES: dict[FailureKind, int] = {
    "device": 2,
    "transfer": 4,
    "lost": 5,
    "malformed": 101,
    "mismatch": 102,
    "memory": 103,
}
"""Flower's codes for an exception in a ClientApp, a reply that cannot be had, and a node that cannot be reached; then
codes that Flower does not use."""
_NO_MESSAGE = 3
"""Flower's code for a message that never got to its node."""


def content_of(payload: bytes, metrics: Mapping[str, float] | None = None) -> RecordDict:
    """A message's content. The bytes are shared, not copied."""
    array = Array("uint8", (len(payload),), PAYLOAD_STYPE, payload)
    content = RecordDict({_PAYLOAD: ArrayRecord({_ARRAY: array})})
    if metrics is not None:
        # As floats their encoded length does not depend on their values.
        content[_METRICS] = MetricRecord({name: float(value) for name, value in metrics.items()})
    return content


def payload_in(content: RecordDict) -> bytes:
    """The payload of a message's content.

    Raises:
        PayloadError: there is none, or it is of another type.
    """
    record = content.array_records.get(_PAYLOAD)
    array = None if record is None else record.get(_ARRAY)
    if array is None or array.stype != PAYLOAD_STYPE:
        raise PayloadError("the message holds no hedgerow payload")
    return array.data


def metrics_in(content: RecordDict) -> dict[str, float]:
    """The metrics of a message's content, none where there are none; lists are left out."""
    record = content.metric_records.get(_METRICS)
    values = {} if record is None else dict(record)
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def identify_process(*, run_id: int = 1, node_id: int = 1) -> None:
    """Gives this process the identity that Flower's `Message` constructor asks for."""
    TaskIdentity.run_id = run_id
    TaskIdentity.task_id = 1
    TaskIdentity.node_id = node_id


def assign_message_id(message: Message, identifier: str | None = None) -> str:
    """Gives a message its id, as a SuperLink would; a random one when None."""
    identifier = uuid.uuid4().hex if identifier is None else identifier
    message.metadata.__dict__["_message_id"] = identifier
    return identifier


def error_reply(reason: str, *, to: Message, kind: FailureKind = "device") -> Message:
    """What stands for the reply of a client that raised (`device`), has too little memory (`memory`) or cannot be
    reached (`lost`), or for a reply that never came whole (`transfer`), is no message (`malformed`), or answers another
    request (`mismatch`)."""
    return Message(Error(_CODES[kind], reason), reply_to=to)


def failure_kind(error: Error) -> FailureKind:
    """The `kind` that `error_reply` was given, or what Flower's own runtime means by its code."""
    if error.code == _NO_MESSAGE:
        return "lost"
    return next((kind for kind, code in _CODES.items() if code == error.code), "device")


def encode_message(message: Message) -> bytes:
    """The bytes of a whole message, envelope included."""
    return message_to_proto(message).SerializeToString()


def encode_envelope(message: Message) -> bytes:
    """The bytes of a message without its content. Those of its content appended make the whole message."""
    return MessageProto(metadata=metadata_to_proto(message.metadata)).SerializeToString()


def encode_content(content: RecordDict) -> bytes:
    """The bytes of a message's content; the same for all messages that hold it."""
    return MessageProto(content=recorddict_to_proto(content)).SerializeToString()


def decode_message(data: bytes) -> Message:
    """Inverse of `encode_message`."""
    return message_from_proto(MessageProto.FromString(data))


def encode_state(state: RecordDict) -> bytes:
    """The bytes of a client's state between rounds; an empty state is no bytes."""
    return recorddict_to_proto(state).SerializeToString()


def decode_state(data: bytes) -> RecordDict:
    """Inverse of `encode_state`."""
    return recorddict_from_proto(RecordDictProto.FromString(data))
