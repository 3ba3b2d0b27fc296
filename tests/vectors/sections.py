"""How sections of each kind are written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hedgerow.codec import (
    Context,
    PackedBits,
    Section,
    Sections,
    counts_section,
    decode_multiples,
    decode_ordered,
    decode_values,
    encode_multiples,
    encode_ordered,
    encode_values,
    expected,
    layer_context,
    levels_section,
    mask_section,
    multiples_of,
    plain_bits_section,
    plain_levels_section,
    plain_mask_section,
    read_counts,
    read_levels,
    read_mask,
    read_signs,
    signs_section,
    values_of,
)
from hedgerow.codec.sections import mask_delta_section, read_mask_delta, read_top_k, top_k_section
from hedgerow.exchange import (
    losses_section,
    read_losses,
    read_samples,
    read_statistics,
    samples_section,
    statistics_section,
)
from hedgerow.recalibration import Moments
from hedgerow.v1 import payload_pb2 as pb
from tests.vectors.form import Json, Way, listed, packed, unpacked

__all__ = ["SECTION_WAYS", "told_moments"]

Knows = Mapping[str, Json]


def _in_words(section: Section) -> dict[str, Json]:
    """A section as the files tell it."""
    return {
        "kind": pb.Kind.Name(section.kind),
        "codec": pb.Codec.Name(section.codec),
        "count": section.count,
        "parameter": section.parameter,
        "data": section.data.hex(),
    }


def _section_in(sent: Knows) -> Sections:
    """Inverse of `_in_words`."""
    kind: pb.Kind = getattr(pb, sent["kind"])
    codec: pb.Codec = getattr(pb, sent["codec"])
    return {kind: Section(kind, codec, sent["count"], sent["parameter"], bytes.fromhex(sent["data"]))}


def _kind(knows: Knows) -> pb.Kind:
    kind: pb.Kind = getattr(pb, knows["kind"])
    return kind


def _contexts(knows: Knows) -> list[Context]:
    levels = [Context(np.array(knows["old"], dtype=np.uint8), knows["old_size"])] if "old" in knows else []
    return [*levels, layer_context(knows["layers"])]


def _floats(values: Any) -> Any:
    return np.array(values, dtype=np.float32)


def _write_bits(knows: Knows, bits: Any) -> dict[str, Json]:
    packed_bits = PackedBits.from_bools(bits)
    if knows.get("plain"):
        return _in_words(plain_bits_section(_kind(knows), packed_bits))
    return _in_words(signs_section(_kind(knows), packed_bits, groups=knows["layers"]))


def _write_levels(knows: Knows, symbols: Any) -> dict[str, Json]:
    if knows.get("plain"):
        return _in_words(plain_levels_section(_kind(knows), symbols, alphabet=knows["alphabet"]))
    return _in_words(levels_section(_kind(knows), symbols, alphabet=knows["alphabet"], contexts=_contexts(knows)))


def _read_levels(knows: Knows, sent: Knows) -> Json:
    count, alphabet = sum(knows["layers"]), knows["alphabet"]
    return listed(read_levels(_section_in(sent), _kind(knows), count, alphabet=alphabet, contexts=_contexts(knows)))


def _write_top(knows: Knows, source: Any) -> dict[str, Json]:
    positions, values = np.array(source[0], dtype=np.int64), _floats(source[1])
    codec: pb.Codec = getattr(pb, knows["codec"])
    return _in_words(top_k_section(positions, values, support=knows["support"], codec=codec))


def _read_top(knows: Knows, sent: Knows) -> Json:
    positions, values = read_top_k(_section_in(sent), knows["support"], most=knows["most"])
    return {"positions": listed(positions), "values": listed(values)}


def _known_values(knows: Knows) -> dict[str, Any]:
    relative = np.repeat(np.array(knows.get("variances", [False] * len(knows["groups"]))), knows["groups"])
    base = _floats(knows["base"]) if "base" in knows else None
    return {"groups": knows["groups"], "base": base, "relative": relative}


def _write_values(knows: Knows, values: Any) -> dict[str, Json]:
    coded = encode_values(values, format=knows["format"], **_known_values(knows)).coded
    return _in_words(Section.of(_kind(knows), coded, count=values.size))


def _read_values(knows: Knows, sent: Knows) -> Json:
    count = sum(knows["groups"])
    section = expected(_section_in(sent), _kind(knows), count)
    return listed(decode_values(section.coded, count, **_known_values(knows)))


def _known_version(knows: Knows) -> dict[str, Any]:
    base = np.array(knows["base"], dtype=np.int16) if knows.get("base") else None
    return {"kind": knows["format"], "groups": knows["groups"], "base": base}


def _write_version(knows: Knows, integers: Any) -> dict[str, Json]:
    integers = np.array(integers, dtype=np.int16)
    return _in_words(Section.of(_kind(knows), encode_ordered(integers, **_known_version(knows)), count=integers.size))


def _read_version(knows: Knows, sent: Knows) -> Json:
    count = sum(knows["groups"])
    section = expected(_section_in(sent), _kind(knows), count)
    return listed(decode_ordered(section.coded, count, **_known_version(knows)))


def _known_steps(knows: Knows) -> dict[str, Any]:
    return {"groups": knows["groups"], "base": _floats(knows["base"]) if "base" in knows else None}


def _write_steps(knows: Knows, values: Any) -> dict[str, Json]:
    multiples = multiples_of(_floats(values), groups=knows["groups"], step=knows["step"])
    return _in_words(Section.of(_kind(knows), encode_multiples(multiples, **_known_steps(knows)), count=multiples.size))


def _read_steps(knows: Knows, sent: Knows) -> Json:
    count = sum(knows["groups"])
    section = expected(_section_in(sent), _kind(knows), count)
    return listed(values_of(decode_multiples(section.coded, count, **_known_steps(knows))))


def _write_mask(knows: Knows, bits: Any) -> dict[str, Json]:
    if knows.get("plain"):
        return _in_words(plain_mask_section(PackedBits.from_bools(bits)))
    shapes = [tuple(shape) for shape in knows["shapes"]]
    return _in_words(mask_section(PackedBits.from_bools(bits), shapes=shapes, seeds=knows.get("seeds", ())))


def _read_mask(knows: Knows, sent: Knows) -> Json:
    shapes = [tuple(shape) for shape in knows["shapes"]]
    count = sum(int(np.prod(shape)) for shape in shapes)
    return packed(read_mask(_section_in(sent), count, shapes=shapes).to_bools())


def _old_mask(knows: Knows) -> PackedBits:
    return PackedBits.from_bools(unpacked(knows["old"], knows["count"]))


def _write_statistics(knows: Knows, source: Any) -> dict[str, Json]:
    moments = [Moments(np.array(mean), np.array(variance), 1) for mean, variance in source]
    return _in_words(statistics_section(moments))


def _read_statistics(knows: Knows, sent: Knows) -> Json:
    # What they are of is in a section of its own.
    sections = {**_section_in(sent), pb.KIND_COUNTS: samples_section(1)}
    return told_moments(read_statistics(sections, networks=knows["networks"], channels=knows["channels"]))


def told_moments(moments: Sequence[Moments]) -> Json:
    """Means and variances of each network as the files tell them."""
    return [{"means": listed(one.mean), "variances": listed(one.variance)} for one in moments]


SECTION_WAYS = {
    "bits": Way(
        _write_bits,
        lambda knows, sent: packed(
            read_signs(_section_in(sent), _kind(knows), sum(knows["layers"]), groups=knows["layers"]).to_bools()
        ),
    ),
    "levels": Way(_write_levels, _read_levels),
    "mask": Way(_write_mask, _read_mask),
    "mask_delta": Way(
        lambda knows, bits: _in_words(mask_delta_section(PackedBits.from_bools(bits), _old_mask(knows))),
        lambda knows, sent: packed(read_mask_delta(_section_in(sent), _old_mask(knows)).to_bools()),
    ),
    "top_k": Way(_write_top, _read_top),
    "values": Way(_write_values, _read_values),
    "variances": Way(_write_values, _read_values, inexact=True),
    "version": Way(_write_version, _read_version),
    "steps": Way(_write_steps, _read_steps),
    "counts": Way(
        lambda knows, values: _in_words(counts_section(_floats(values))),
        lambda knows, sent: listed(read_counts(_section_in(sent), knows["count"])),
    ),
    "samples": Way(
        lambda knows, count: _in_words(samples_section(count)),
        lambda knows, sent: read_samples(_section_in(sent)),
    ),
    "statistics": Way(_write_statistics, _read_statistics),
    "losses": Way(
        lambda knows, losses: _in_words(losses_section(losses)),
        lambda knows, sent: listed(read_losses(_section_in(sent), networks=knows["networks"])),
    ),
}
