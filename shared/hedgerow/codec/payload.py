"""Payloads: the one message body that travels, encoded as `protos/hedgerow/v1/payload.proto`.

A section says of what kind its symbols are and how they are coded; `hedgerow.codec.sections` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from hedgerow.codec.coded import Coded
from hedgerow.codec.varints import varint
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = [
    "MOST_LEVELS",
    "PAYLOAD_VERSION",
    "Candidate",
    "Growth",
    "Header",
    "Section",
    "Sections",
    "TensorShape",
    "decode_candidates",
    "decode_payload",
    "encode_payload",
    "section_label",
]

PAYLOAD_VERSION = 2
_FIELD_5 = b"\x2a"
"""Its tag: the field's number, and that a length and so many bytes follow."""
MOST_LEVELS = 8
"""Parts of a network that one request may name."""


@dataclass(frozen=True, slots=True)
class TensorShape:
    """One tensor of the network: its name, its shape, and whether its weights are pruned."""

    name: str
    shape: tuple[int, ...]
    prunable: bool


@dataclass(frozen=True, slots=True)
class Growth:
    """What a request says of one tensor that is going to be adjusted.

    Attributes:
        tensor: its place among the prunable ones.
        count: it is asked for so many of its largest gradients at pruned positions.
        marked: so many of its kept weights are going to be pruned: the smallest of the version that the request says.
    """

    tensor: int
    count: int
    marked: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """What a payload belongs to.

    Attributes:
        experiment: 6 bytes, the digest that names the experiment.
        round: the round, from 1, and 0 before it; of a request to train, the version that it brings.
        mask_digest: 16 bytes, the mask whose kept positions the sections refer to; none in replies.
        base: the version that a request's sections build on; 0 when they build on none, and in replies.
        tensors: the network's tensors, beside a whole mask; else none.
        task: what a request asks for, and a reply answers.
        growth: which tensors are going to be adjusted after a request to train, and what is asked of them.
        levels: beside `pb.TASK_PLAN`, kept weights of each prunable tensor in each part of the network that there is.
    """

    experiment: bytes
    round: int
    mask_digest: bytes
    base: int = 0
    tensors: tuple[TensorShape, ...] = ()
    task: pb.Task = pb.TASK_TRAIN
    growth: tuple[Growth, ...] = ()
    levels: tuple[tuple[int, ...], ...] = ()

    def of_reply(self) -> Header:
        """That of a reply to this request. A version has one mask, so nothing else has to be repeated."""
        return Header(self.experiment, self.round, b"", task=self.task)


@dataclass(frozen=True, slots=True)
class Section:
    """Encoded symbols of one kind, and Shannon's bound for them in bytes (`entropy`, known to the writer only)."""

    kind: pb.Kind
    codec: pb.Codec
    count: int
    parameter: int
    data: bytes
    entropy: float = 0.0

    @classmethod
    def of(cls, kind: pb.Kind, coded: Coded, *, count: int) -> Section:
        """What an encoder gave, as a section of `count` symbols."""
        return cls(kind, coded.codec, count, coded.parameter, coded.data, coded.entropy)

    @property
    def coded(self) -> Coded:
        """What a decoder takes."""
        return Coded(self.codec, self.data, self.parameter)


Sections: TypeAlias = Mapping[int, Section]
"""The sections of one payload, or of one candidate, by kind; there is at most one of each."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One more network that a request brings: the digest of its mask, 16 bytes, and its sections."""

    mask_digest: bytes
    sections: Sections


def encode_payload(header: Header, sections: Iterable[Section], *, candidates: Iterable[Candidate] = ()) -> bytes:
    """The bytes that travel."""
    before = pb.Payload(
        version=PAYLOAD_VERSION, experiment=header.experiment, round=header.round, mask_digest=header.mask_digest
    )
    after = pb.Payload(
        base=header.base,
        tensors=[pb.Tensor(name=t.name, shape=t.shape, prunable=t.prunable) for t in header.tensors],
        task=header.task,
        growth=[pb.Growth(tensor=g.tensor, count=g.count, marked=g.marked) for g in header.growth],
        levels=[pb.Level(kept=kept) for kept in header.levels],
        candidates=[
            pb.Candidate(mask_digest=c.mask_digest, sections=map(_message, c.sections.values())) for c in candidates
        ],
    )
    # Protocol Buffers would hold the sections in several copies, more than a device has beside its network; messages
    # one behind the other are one message, with the fields of all.
    parts = [before.SerializeToString(deterministic=True)]
    for section in sections:
        inner = pb.Section(kind=section.kind, codec=section.codec, count=section.count, parameter=section.parameter)
        data = _field(section.data) if section.data else ()
        parts += _field(inner.SerializeToString(deterministic=True), *data)
    parts.append(after.SerializeToString(deterministic=True))
    return b"".join(parts)


def _field(*data: bytes) -> tuple[bytes, ...]:
    """Bytes as field 5 of a message, which `Payload.sections` and `Section.data` are."""
    return (_FIELD_5, varint(sum(map(len, data))), *data)


def decode_payload(data: bytes, *, limit: int) -> tuple[Header, Sections]:
    """Reads the bytes of a payload, but for its candidates; the sections are still encoded.

    Args:
        data: bytes from the network.
        limit: the most bytes that this payload may have.

    Raises:
        PayloadError: not a payload of this version, too long, a kind that occurs twice, or more levels than there may
            be.
    """
    message = _parsed(data, limit=limit)
    tensors = tuple(TensorShape(t.name, tuple(t.shape), t.prunable) for t in message.tensors)
    growth = tuple(Growth(g.tensor, g.count, g.marked) for g in message.growth)
    if len(message.levels) > MOST_LEVELS:
        raise PayloadError(f"{len(message.levels)} levels; at most {MOST_LEVELS} can be meant", kind="bounds")
    header = Header(
        message.experiment,
        message.round,
        message.mask_digest,
        message.base,
        tensors,
        message.task,
        growth,
        tuple(tuple(level.kept) for level in message.levels),
    )
    return header, _sections(message.sections)


def decode_candidates(data: bytes, *, limit: int, most: int) -> list[Candidate]:
    """The candidates of a payload, at most `most`; their sections are still encoded.

    Raises:
        PayloadError: as `decode_payload`, or there are too many.
    """
    message = _parsed(data, limit=limit)
    if len(message.candidates) > most:
        raise PayloadError(f"{len(message.candidates)} candidates; at most {most} can be meant here", kind="bounds")
    return [Candidate(c.mask_digest, _sections(c.sections)) for c in message.candidates]


def _message(section: Section) -> pb.Section:
    return pb.Section(
        kind=section.kind,
        codec=section.codec,
        count=section.count,
        parameter=section.parameter,
        data=section.data,
    )


def _parsed(data: bytes, *, limit: int) -> pb.Payload:
    if len(data) > limit:
        raise PayloadError(f"a payload of {len(data)} bytes; at most {limit} can be meant here", kind="bounds")
    try:
        message = pb.Payload.FromString(data)
    except DecodeError:
        raise PayloadError("not a hedgerow payload") from None
    if message.version != PAYLOAD_VERSION:
        raise PayloadError(
            f"payload version {message.version}; this side speaks version {PAYLOAD_VERSION}", kind="mismatch"
        )
    return message


def _sections(messages: Iterable[pb.Section]) -> Sections:
    sections: dict[int, Section] = {}
    for s in messages:
        if s.kind in sections:
            raise PayloadError(f"section kind {s.kind} occurs twice")
        sections[s.kind] = Section(kind=s.kind, codec=s.codec, count=s.count, parameter=s.parameter, data=s.data)
    return sections


def section_label(section: Section) -> str:
    """Kind and codec, for records.

    >>> section_label(Section(pb.KIND_SIGNS, pb.CODEC_BITS, 1, 0, b"a"))
    'signs/bits'
    """
    kind, codec = pb.Kind.Name(section.kind), pb.Codec.Name(section.codec)
    return f"{kind.removeprefix('KIND_')}/{codec.removeprefix('CODEC_')}".lower()
