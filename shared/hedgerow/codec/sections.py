"""Sections of payloads: each kind's writer and reader.

Readers name the kind and the number of symbols that they expect, and get an array or a `PayloadError`. Writers and
readers are given the same `Context`s, groups and shapes, which both ends know.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hedgerow.codec import symbols as coding
from hedgerow.codec.bitstreams import PackedBits, decode_bits, encode_bits
from hedgerow.codec.coded import Coded
from hedgerow.codec.drawn_masks import decode_drawn_mask, encode_drawn_mask, likeliest_seed
from hedgerow.codec.drop import SEED_BYTES, seeded_positions
from hedgerow.codec.entropy import binary_entropy_bytes, symbol_entropy_bytes
from hedgerow.codec.levels import Context, decode_levels, encode_levels
from hedgerow.codec.masks import decode_mask, decode_mask_delta, encode_mask, encode_mask_delta
from hedgerow.codec.payload import Section, Sections
from hedgerow.codec.symbols import Bits, Floats, Levels
from hedgerow.codec.topk import Positions, decode_top_k, encode_top_k
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = [
    "counts_section",
    "drawn_section",
    "expected",
    "has_mask",
    "layer_context",
    "levels_section",
    "mask_delta_section",
    "mask_section",
    "plain_bits_section",
    "plain_levels_section",
    "plain_mask_section",
    "read_counts",
    "read_drawn",
    "read_levels",
    "read_mask",
    "read_mask_delta",
    "read_signs",
    "read_top_k",
    "signs_section",
    "top_k_section",
]

_MOST_LAYERS = 64
"""Beyond so many, a table for each costs more than it saves."""

Shapes = Sequence[tuple[int, ...]]


def mask_section(bits: PackedBits, *, shapes: Shapes, seeds: Sequence[int] = ()) -> Section:
    """The kept pattern of all prunable weights, whose tensors have these shapes, in the shortest way.

    Args:
        bits: the pattern.
        shapes: of the tensors, in order.
        seeds: of the draws that it may have come of.
    """
    coded = encode_mask(bits, shapes=shapes)
    if seeds:
        seed = likeliest_seed(bits, sizes=list(map(math.prod, shapes)), seeds=seeds)
        drawn = encode_drawn_mask(bits, shapes=shapes, seed=seed)
        coded = min(coded, drawn, key=lambda one: len(one.data))
    return Section.of(pb.KIND_MASK, coded, count=bits.count)


def plain_mask_section(bits: PackedBits) -> Section:
    """The same, in the smaller of packed bits and gaps under Zstandard."""
    ones = bits.ones()
    entropy = binary_entropy_bytes(ones, bits.count)
    raw, gaps = bits.data.tobytes(), coding.pack_gaps_zstd(bits.to_bools())
    if len(gaps) < len(raw):
        return Section(pb.KIND_MASK, pb.CODEC_GAPS_ZSTD, bits.count, ones, gaps, entropy)
    return Section(pb.KIND_MASK, pb.CODEC_BITS, bits.count, 0, raw, entropy)


def has_mask(sections: Sections) -> bool:
    """Whether the payload brings a new mask."""
    return pb.KIND_MASK in sections


def read_mask(sections: Sections, count: int, *, shapes: Shapes) -> PackedBits:
    """The kept pattern of `count` prunable weights."""
    section = expected(sections, pb.KIND_MASK, count)
    if section.codec == pb.CODEC_GAPS_ZSTD:
        return PackedBits.from_bools(coding.unpack_gaps_zstd(section.data, count, ones=section.parameter))
    if section.codec == pb.CODEC_BITS:
        return PackedBits.read(section.data, count)
    if section.codec == pb.CODEC_MASK_DRAWN:
        return decode_drawn_mask(section.coded, count, shapes=shapes)
    return decode_mask(section.coded, count, shapes=shapes)


def mask_delta_section(new: PackedBits, old: PackedBits) -> Section:
    """What a mask gains and loses against the one that the reader holds; both of n bits."""
    return Section.of(pb.KIND_MASK_DELTA, encode_mask_delta(new, old), count=new.count)


def read_mask_delta(sections: Sections, old: PackedBits) -> PackedBits:
    """The new mask, for who holds `old`."""
    return decode_mask_delta(expected(sections, pb.KIND_MASK_DELTA, old.count).coded, old)


def top_k_section(positions: Positions, values: Floats, *, support: int, codec: pb.Codec = pb.CODEC_FLOAT32) -> Section:
    """Values of some of the `support` pruned positions, (k,) each, where nothing is sent of the others."""
    return Section.of(pb.KIND_TOP_K, encode_top_k(positions, values, support=support, codec=codec), count=support)


def read_top_k(sections: Sections, support: int, *, most: int) -> tuple[Positions, Floats]:
    """Inverse of `top_k_section` for at most `most` values."""
    return decode_top_k(expected(sections, pb.KIND_TOP_K, support).coded, support=support, most=most)


def levels_section(kind: pb.Kind, symbols: Levels, *, alphabet: int, contexts: Sequence[Context] = ()) -> Section:
    """Symbols below `alphabet`, by a range coder."""
    return Section.of(kind, encode_levels(symbols, alphabet=alphabet, contexts=contexts), count=symbols.size)


def plain_levels_section(kind: pb.Kind, symbols: Levels, *, alphabet: int) -> Section:
    """Symbols below `alphabet`, one byte each under Zstandard."""
    data = coding.pack_bytes_zstd(symbols)
    return Section(kind, pb.CODEC_BYTES_ZSTD, symbols.size, alphabet, data, symbol_entropy_bytes(symbols))


def read_levels(
    sections: Sections, kind: pb.Kind, count: int, *, alphabet: int, contexts: Sequence[Context] = ()
) -> Levels:
    """What either of the two above wrote."""
    section = expected(sections, kind, count)
    if section.codec != pb.CODEC_BYTES_ZSTD:
        return decode_levels(section.coded, count, alphabet=alphabet, contexts=contexts)
    if section.parameter != alphabet:
        raise PayloadError(f"symbols of {section.parameter} levels; {alphabet} are expected", kind="mismatch")
    return coding.unpack_bytes_zstd(section.data, count, levels=alphabet)


def layer_context(layers: Sequence[int]) -> Context:
    """The layer of each kept weight, given the layers' numbers of them; neighbours share one where there are many.

    >>> layer_context([2, 1]).values.tolist()
    [0, 0, 1]
    """
    together = -(-len(layers) // _MOST_LAYERS) or 1
    index = np.arange(len(layers)) // together
    return Context(np.repeat(index.astype(np.uint8), layers), int(index.max(initial=0)) + 1)


def signs_section(kind: pb.Kind, bits: PackedBits, *, groups: Sequence[int]) -> Section:
    """One bit a kept weight; each of `groups`, the layers' numbers of them, may have its own statistics."""
    return Section.of(kind, encode_bits(bits, groups=groups), count=bits.count)


def plain_bits_section(kind: pb.Kind, bits: PackedBits) -> Section:
    """One bit a kept weight, packed."""
    entropy = binary_entropy_bytes(bits.ones(), bits.count)
    return Section.of(kind, Coded(pb.CODEC_BITS, bits.data.tobytes(), entropy=entropy), count=bits.count)


def read_signs(sections: Sections, kind: pb.Kind, count: int, *, groups: Sequence[int]) -> PackedBits:
    """What either of the two above wrote."""
    return decode_bits(expected(sections, kind, count).coded, count, groups=groups)


def drawn_section(bits: PackedBits, *, seed: bytes, count: int) -> Section:
    """A bit each of those of `count` kept weights that `seeded_positions` draws."""
    entropy = binary_entropy_bytes(bits.ones(), bits.count)
    coded = encode_bits(bits)
    return Section(pb.KIND_SIGNS, coded.codec, count, coded.parameter, seed + coded.data, entropy)


def read_drawn(sections: Sections, count: int, *, drop: float) -> tuple[PackedBits, Bits]:
    """Inverse of `drawn_section`: the bits, and (count,) whose they are."""
    section = expected(sections, pb.KIND_SIGNS, count)
    if len(section.data) < SEED_BYTES:
        raise PayloadError("the seed of who votes is missing")
    speaks = seeded_positions(section.data[:SEED_BYTES], count, drop=drop)
    coded = Coded(section.codec, section.data[SEED_BYTES:], section.parameter)
    return decode_bits(coded, int(np.count_nonzero(speaks))), speaks


def counts_section(values: Floats) -> Section:
    """What a client counted and measured, in the order that both ends know."""
    data = coding.pack_floats(values)
    return Section(pb.KIND_COUNTS, pb.CODEC_FLOAT32, values.size, 0, data, float(len(data)))


def read_counts(sections: Sections, count: int) -> Floats:
    """Inverse of `counts_section` for `count` values."""
    section = expected(sections, pb.KIND_COUNTS, count, codecs=(pb.CODEC_FLOAT32,))
    return coding.unpack_floats(section.data, count)


def expected(sections: Sections, kind: pb.Kind, count: int, *, codecs: Sequence[pb.Codec] = ()) -> Section:
    """The section of a kind, if it has `count` symbols and one of `codecs` (any when there are none).

    Raises:
        PayloadError: it is missing or another one.
    """
    name = pb.Kind.Name(kind)
    section = sections.get(kind)
    if section is None:
        raise PayloadError(f"section {name} is missing", kind="mismatch")
    if section.count != count:
        raise PayloadError(f"section {name} has {section.count} symbols, expected {count}", kind="mismatch")
    if codecs and section.codec not in codecs:
        raise PayloadError(
            f"section {name} has codec {section.codec}, expected one of {[int(c) for c in codecs]}", kind="mismatch"
        )
    return section
