"""Cutting what is sent into chunks, and putting together what arrives, with every size checked before memory is taken.

A body is cut and encoded once, whoever it goes to; a frame that is ready travels as bytes (`encode_frame`).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from google.protobuf.message import DecodeError

from hedgerow.errors import PayloadError
from hedgerow.v1.fleet_pb2 import Chunk, Frame, Transfer

__all__ = [
    "ATTACH_METHOD",
    "CHUNK_BYTES",
    "ENVELOPE_BYTES",
    "MAX_FRAME_BYTES",
    "PROTOCOL",
    "Assembler",
    "Body",
    "Damage",
    "Received",
    "TransferError",
    "decode_frame",
    "encode_frame",
    "frames_of",
]

PROTOCOL = 1
"""Of `fleet.proto`."""
ATTACH_METHOD = "/hedgerow.v1.Devices/Attach"
CHUNK_BYTES = 1 << 15
"""Of a body in one frame. On a slow line a frame must not take longer than the silence that ends a connection."""
MAX_FRAME_BYTES = (1 << 18) + (1 << 17)
"""What gRPC may receive as one message."""
ENVELOPE_BYTES = 4096
"""Of an envelope, at most."""

Damage: TypeAlias = Literal[
    "too_large",
    "too_long",
    "truncated",
    "out_of_order",
    "wrong_digest",
    "bad_transfer",
    "unexpected_chunk",
    "not_a_frame",
]
"""What can be wrong with a transfer; the label that it is counted by."""


class TransferError(PayloadError):
    """A transfer that came damaged; `damage` says how. What follows of it is passed over."""

    def __init__(self, message: str, *, damage: Damage, id: str) -> None:
        super().__init__(message)
        self.damage, self.id = damage, id


class Body:
    """Bytes to send, cut and encoded when they are first needed, and shared by all who are sent them."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    @functools.cached_property
    def sha256(self) -> bytes:
        """Its digest, 32 bytes."""
        return hashlib.sha256(self.data).digest()

    @functools.cached_property
    def chunks(self) -> tuple[bytes, ...]:
        """Encoded frames."""
        pieces = range(0, len(self.data), CHUNK_BYTES)
        return tuple(
            Frame(chunk=Chunk(offset=at, data=self.data[at : at + CHUNK_BYTES])).SerializeToString() for at in pieces
        )


def frames_of(transfer: Transfer, body: Body) -> Iterator[bytes]:
    """All frames of a transfer, encoded; `size` and `sha256` of `transfer` are filled in on a copy.

    >>> [len(frame) for frame in frames_of(Transfer(id="a"), Body(b"12345"))]
    [41, 9]
    """
    filled = Transfer()
    filled.CopyFrom(transfer)
    filled.size, filled.sha256 = len(body.data), body.sha256
    yield Frame(transfer=filled).SerializeToString()
    yield from body.chunks


def encode_frame(frame: Frame | bytes) -> bytes:
    """gRPC's serializer: frames that are bytes already pass."""
    return frame if isinstance(frame, bytes) else frame.SerializeToString()


def decode_frame(data: bytes) -> Frame | bytes:
    """gRPC's deserializer: bytes that are no frame pass, so that who reads can count them before the stream ends.

    >>> decode_frame(encode_frame(Frame())), decode_frame(b"\\xff")
    (, b'\\xff')
    """
    try:
        return Frame.FromString(data)
    except DecodeError:
        return data


@dataclass(frozen=True, slots=True)
class Received:
    """A complete and intact transfer."""

    transfer: Transfer
    body: bytes


class Assembler:
    """Puts together the transfers of one stream, one after the other.

    Args:
        limit: of a body, in bytes.
    """

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._transfer: Transfer | None = None
        self._body = bytearray()
        self._skipping = False

    def unfinished(self) -> TransferError | None:
        """What is not complete; to be asked before another transfer begins, and when the stream ends."""
        if self._transfer is None:
            return None
        return TransferError("it ended before all of it had come", damage="truncated", id=self._transfer.id)

    def begin(self, transfer: Transfer) -> Received | None:
        """Starts a transfer, and drops an unfinished one; a body of no bytes is complete at once.

        Raises:
            TransferError: it is not a possible one, or too large.
        """
        self._transfer, self._body, self._skipping = None, bytearray(), True
        if len(transfer.id) != 32 or len(transfer.sha256) != 32 or len(transfer.envelope) > ENVELOPE_BYTES:
            raise TransferError("the transfer's header is not a possible one", damage="bad_transfer", id=transfer.id)
        if transfer.size > self._limit:
            raise TransferError(
                f"{transfer.size} bytes are announced; at most {self._limit} are taken",
                damage="too_large",
                id=transfer.id,
            )
        self._transfer, self._skipping = transfer, False
        return self._finished()

    def add(self, chunk: Chunk) -> Received | None:
        """Takes the next piece, and gives the transfer when that was the last one.

        Raises:
            TransferError: it is not the next one, too long, the digest is wrong, or no transfer was announced.
        """
        transfer = self._transfer
        if transfer is None:
            if self._skipping:
                return None
            raise TransferError("a chunk came without its transfer", damage="unexpected_chunk", id="")
        if chunk.offset != len(self._body):
            raise self._damaged(f"offset {chunk.offset} came instead of {len(self._body)}", "out_of_order")
        if len(self._body) + len(chunk.data) > transfer.size or not chunk.data:
            raise self._damaged(f"more came than the {transfer.size} bytes announced", "too_long")
        self._body += chunk.data
        return self._finished()

    def _finished(self) -> Received | None:
        transfer = self._transfer
        assert transfer is not None
        if len(self._body) < transfer.size:
            return None
        body = bytes(self._body)
        if hashlib.sha256(body).digest() != transfer.sha256:
            raise self._damaged("the body does not match its digest", "wrong_digest")
        self._transfer, self._body, self._skipping = None, bytearray(), False
        return Received(transfer, body)

    def _damaged(self, message: str, damage: Damage) -> TransferError:
        assert self._transfer is not None
        error = TransferError(message, damage=damage, id=self._transfer.id)
        self._transfer, self._body, self._skipping = None, bytearray(), True
        return error
