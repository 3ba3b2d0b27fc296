"""Payloads: the one message body that travels, encoded as `protos/hedgerow/v1/payload.proto`.

A section says of what kind its symbols are and how they are coded. Readers name the kind and the number of symbols that
they expect, and get an array or a `PayloadError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from hedgerow.codec import symbols as coding
from hedgerow.codec.entropy import binary_entropy_bytes, symbol_entropy_bytes
from hedgerow.codec.symbols import Bits, Floats, Levels
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = [
    "PAYLOAD_VERSION",
    "Header",
    "Section",
    "Sections",
    "decode_payload",
    "encode_payload",
    "floats_section",
    "has_mask",
    "mask_section",
    "read_floats",
    "read_mask",
    "read_signs",
    "read_votes",
    "read_weights",
    "section_label",
    "signs_section",
    "votes_section",
    "weights_section",
]

PAYLOAD_VERSION = 1


@dataclass(frozen=True, slots=True)
class Header:
    """What a payload belongs to.

    Attributes:
        experiment: 6 bytes, the digest that names the experiment.
        round: the round, from 1.
        mask_digest: 16 bytes, the mask whose kept positions the sections refer to.
    """

    experiment: bytes
    round: int
    mask_digest: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """Encoded symbols of one kind, and Shannon's bound for them in bytes (`entropy`, known to the writer only)."""

    kind: pb.Kind
    codec: pb.Codec
    count: int
    parameter: int
    data: bytes
    entropy: float = 0.0


Sections: TypeAlias = Mapping[int, Section]
"""The sections of one payload by kind; there is at most one of each."""


def encode_payload(header: Header, sections: Iterable[Section]) -> bytes:
    """The bytes that travel."""
    return pb.Payload(
        version=PAYLOAD_VERSION,
        experiment=header.experiment,
        round=header.round,
        mask_digest=header.mask_digest,
        sections=[
            pb.Section(kind=s.kind, codec=s.codec, count=s.count, parameter=s.parameter, data=s.data) for s in sections
        ],
    ).SerializeToString(deterministic=True)


def decode_payload(data: bytes, *, limit: int) -> tuple[Header, Sections]:
    """Reads the bytes of a payload; the sections are still encoded.

    Args:
        data: bytes from the network.
        limit: the most bytes that this payload may have.

    Raises:
        PayloadError: not a payload of this version, too long, or a kind that occurs twice.
    """
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
    sections: dict[int, Section] = {}
    for s in message.sections:
        if s.kind in sections:
            raise PayloadError(f"section kind {s.kind} occurs twice")
        sections[s.kind] = Section(kind=s.kind, codec=s.codec, count=s.count, parameter=s.parameter, data=s.data)
    return Header(message.experiment, message.round, message.mask_digest), sections


def section_label(section: Section) -> str:
    """Kind and codec, for records.

    >>> section_label(signs_section(np.array([True])))
    'signs/bits'
    """
    kind, codec = pb.Kind.Name(section.kind), pb.Codec.Name(section.codec)
    return f"{kind.removeprefix('KIND_')}/{codec.removeprefix('CODEC_')}".lower()


def mask_section(bits: Bits) -> Section:
    """The kept pattern of all prunable weights, in the smaller of two codecs."""
    ones = int(np.count_nonzero(bits))
    entropy = binary_entropy_bytes(ones, bits.size)
    raw, gaps = coding.pack_bits(bits), coding.pack_gaps_zstd(bits)
    if len(gaps) < len(raw):
        return Section(pb.KIND_MASK, pb.CODEC_GAPS_ZSTD, bits.size, ones, gaps, entropy)
    return Section(pb.KIND_MASK, pb.CODEC_BITS, bits.size, 0, raw, entropy)


def signs_section(positive: Bits, *, flips: int | None = None) -> Section:
    """One bit a kept weight, True = positive.

    Args:
        positive: (kept,) signs.
        flips: how many differ from what the reader already holds; only the entropy bound depends on it.
    """
    ones = int(np.count_nonzero(positive)) if flips is None else flips
    entropy = binary_entropy_bytes(ones, positive.size)
    return Section(pb.KIND_SIGNS, pb.CODEC_BITS, positive.size, 0, coding.pack_bits(positive), entropy)


def votes_section(symbols: Levels, *, levels: int) -> Section:
    """Quantised mean votes, (kept,) symbols below `levels`."""
    data = coding.pack_bytes_zstd(symbols)
    return Section(pb.KIND_VOTES, pb.CODEC_BYTES_ZSTD, symbols.size, levels, data, symbol_entropy_bytes(symbols))


def weights_section(values: Floats) -> Section:
    """The kept weights, (kept,) float32."""
    return _floats_section(pb.KIND_WEIGHTS, values)


def floats_section(values: Floats) -> Section:
    """What is never pruned, float32."""
    return _floats_section(pb.KIND_FLOATS, values)


def has_mask(sections: Sections) -> bool:
    """Whether the payload brings a new mask."""
    return pb.KIND_MASK in sections


def read_mask(sections: Sections, count: int) -> Bits:
    """The kept pattern of `count` prunable weights."""
    section = _expect(sections, pb.KIND_MASK, count, pb.CODEC_BITS, pb.CODEC_GAPS_ZSTD)
    if section.codec == pb.CODEC_GAPS_ZSTD:
        return coding.unpack_gaps_zstd(section.data, count, ones=section.parameter)
    return coding.unpack_bits(section.data, count)


def read_signs(sections: Sections, count: int) -> Bits:
    """The signs of `count` kept weights, True = positive."""
    return coding.unpack_bits(_expect(sections, pb.KIND_SIGNS, count, pb.CODEC_BITS).data, count)


def read_votes(sections: Sections, count: int, *, levels: int) -> Levels:
    """The quantised mean votes of `count` kept weights."""
    section = _expect(sections, pb.KIND_VOTES, count, pb.CODEC_BYTES_ZSTD)
    if section.parameter != levels:
        raise PayloadError(f"votes of {section.parameter} levels; this experiment has {levels}", kind="mismatch")
    return coding.unpack_bytes_zstd(section.data, count, levels=levels)


def read_weights(sections: Sections, count: int) -> Floats:
    """The values of `count` kept weights."""
    return coding.unpack_floats(_expect(sections, pb.KIND_WEIGHTS, count, pb.CODEC_FLOAT32).data, count)


def read_floats(sections: Sections, count: int) -> Floats:
    """The `count` values that are never pruned."""
    return coding.unpack_floats(_expect(sections, pb.KIND_FLOATS, count, pb.CODEC_FLOAT32).data, count)


def _floats_section(kind: pb.Kind, values: Floats) -> Section:
    # Float bits have no useful order-0 bound; the bound is taken as what is sent.
    return Section(kind, pb.CODEC_FLOAT32, values.size, 0, coding.pack_floats(values), 4.0 * values.size)


def _expect(sections: Sections, kind: pb.Kind, count: int, *codecs: pb.Codec) -> Section:
    name = pb.Kind.Name(kind)
    section = sections.get(kind)
    if section is None:
        raise PayloadError(f"section {name} is missing", kind="mismatch")
    if section.count != count:
        raise PayloadError(f"section {name} has {section.count} symbols, expected {count}", kind="mismatch")
    if section.codec not in codecs:
        raise PayloadError(
            f"section {name} has codec {section.codec}, expected one of {[int(c) for c in codecs]}", kind="mismatch"
        )
    return section
