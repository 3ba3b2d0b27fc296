"""The message body that travels: its literal bytes, its sections, and what a reader refuses."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.codec import (
    PAYLOAD_VERSION,
    Header,
    Section,
    Sections,
    decode_payload,
    encode_payload,
    floats_section,
    has_mask,
    mask_section,
    read_floats,
    read_mask,
    read_signs,
    read_votes,
    read_weights,
    signs_section,
    votes_section,
    weights_section,
)
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

HEADER = Header(experiment=bytes.fromhex("0102030405ff"), round=7, mask_digest=bytes(range(16)))
SIGNS = np.array([True, False, True])
FLOATS = np.array([0.5, -1.0], dtype=np.float32)
VOTES = np.array([0, 7, 15, 15], dtype=np.uint8)
SPARSE = np.arange(4000) % 400 == 17
LIMIT = 10_000


def sections_of(*sections: Section) -> Sections:
    return {section.kind: section for section in sections}


def full_payload() -> bytes:
    sections = [
        mask_section(SPARSE),
        signs_section(SIGNS),
        votes_section(VOTES, levels=16),
        weights_section(FLOATS),
        floats_section(FLOATS),
    ]
    return encode_payload(HEADER, sections)


def read_all(data: bytes) -> None:
    _, sections = decode_payload(data, limit=LIMIT)
    assert read_mask(sections, SPARSE.size).dtype == np.bool_
    assert read_signs(sections, SIGNS.size).dtype == np.bool_
    assert int(read_votes(sections, VOTES.size, levels=16).max()) < 16
    assert np.isfinite(read_weights(sections, FLOATS.size)).all()
    assert np.isfinite(read_floats(sections, FLOATS.size)).all()


def test_a_small_payload_has_exactly_these_bytes() -> None:
    expected = (
        "0801"  # 1: version 1
        "1206" + "0102030405ff"  # 2: experiment
        "1807"  # 3: round 7
        "2210" + "000102030405060708090a0b0c0d0e0f"  # 4: digest of the mask
        "2a09" + "0802" + "1001" + "1803" + "2a01a0"  # 5: signs, bits, 3 symbols, 101 and 5 zeros of padding
    )
    assert encode_payload(HEADER, [signs_section(SIGNS)]).hex() == expected


def test_what_is_encoded_is_read_back() -> None:
    header, sections = decode_payload(full_payload(), limit=LIMIT)
    assert header == HEADER
    assert has_mask(sections)
    assert np.array_equal(read_mask(sections, SPARSE.size), SPARSE)
    assert np.array_equal(read_signs(sections, 3), SIGNS)
    assert np.array_equal(read_votes(sections, 4, levels=16), VOTES)
    assert np.array_equal(read_weights(sections, 2), FLOATS)
    assert np.array_equal(read_floats(sections, 2), FLOATS)


def test_a_payload_without_a_mask_says_so() -> None:
    _, sections = decode_payload(encode_payload(HEADER, [signs_section(SIGNS)]), limit=LIMIT)
    assert not has_mask(sections)


def test_a_mask_takes_the_smaller_codec() -> None:
    dense = np.random.default_rng(0).random(4000) < 0.5
    assert mask_section(dense).codec == pb.CODEC_BITS
    assert len(mask_section(dense).data) == 500
    assert mask_section(SPARSE).codec == pb.CODEC_GAPS_ZSTD
    assert mask_section(SPARSE).parameter == 10
    assert len(mask_section(SPARSE).data) < 500
    for bits in (dense, SPARSE, np.zeros(4000, dtype=np.bool_), np.ones(4000, dtype=np.bool_)):
        assert np.array_equal(read_mask(sections_of(mask_section(bits)), 4000), bits)


def test_sections_know_their_entropy_bounds() -> None:
    half = np.array([True, False] * 8)
    assert mask_section(half).entropy == 2.0
    assert signs_section(half).entropy == 2.0
    assert signs_section(half, flips=0).entropy == 0.0
    assert votes_section(VOTES, levels=16).entropy == 0.75  # shares 1/4, 1/4, 1/2: 1.5 bits a symbol
    assert weights_section(FLOATS).entropy == floats_section(FLOATS).entropy == 8.0


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_with_a_payload_error(data: bytes) -> None:
    try:
        read_all(data)
    except PayloadError:
        return


@given(st.integers(0, 8 * len(full_payload()) - 1))
def test_a_bit_flip_is_read_or_refused_with_a_payload_error(bit: int) -> None:
    data = bytearray(full_payload())
    data[bit // 8] ^= 1 << bit % 8
    try:
        read_all(bytes(data))
    except PayloadError:
        return


def test_every_truncation_is_refused() -> None:
    whole = full_payload()
    for length in range(len(whole)):
        with pytest.raises(PayloadError):
            read_all(whole[:length])


def test_a_payload_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    whole = full_payload()
    decode_payload(whole, limit=len(whole))
    with pytest.raises(PayloadError, match=f"{len(whole)} bytes; at most {len(whole) - 1}"):
        decode_payload(whole, limit=len(whole) - 1)


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_is_refused(version: int) -> None:
    assert version != PAYLOAD_VERSION
    data = pb.Payload(version=version).SerializeToString()
    with pytest.raises(PayloadError, match=f"version {version}; this side speaks version 1"):
        decode_payload(data, limit=LIMIT)


def test_a_kind_that_occurs_twice_is_refused() -> None:
    with pytest.raises(PayloadError, match="occurs twice"):
        decode_payload(encode_payload(HEADER, [signs_section(SIGNS), signs_section(SIGNS)]), limit=LIMIT)


def test_a_missing_section_is_named() -> None:
    with pytest.raises(PayloadError, match="KIND_SIGNS is missing"):
        read_signs({}, 3)


def test_another_count_is_refused() -> None:
    with pytest.raises(PayloadError, match="KIND_SIGNS has 3 symbols, expected 4"):
        read_signs(sections_of(signs_section(SIGNS)), 4)


def test_a_count_that_its_bytes_do_not_hold_is_refused() -> None:
    lying = replace(floats_section(FLOATS), count=2**40)
    with pytest.raises(PayloadError, match="take 4398046511104 bytes, found 8"):
        read_floats(sections_of(lying), 2**40)


@pytest.mark.parametrize("codec", [pb.CODEC_UNSPECIFIED, pb.CODEC_FLOAT32, 99])
def test_another_codec_is_refused(codec: pb.Codec) -> None:
    with pytest.raises(PayloadError, match="KIND_SIGNS has codec"):
        read_signs(sections_of(replace(signs_section(SIGNS), codec=codec)), 3)


def test_votes_of_another_number_of_levels_are_refused() -> None:
    with pytest.raises(PayloadError, match="votes of 16 levels; this experiment has 8"):
        read_votes(sections_of(votes_section(VOTES, levels=16)), 4, levels=8)


def test_a_mask_with_another_number_of_ones_is_refused() -> None:
    section = mask_section(SPARSE)
    for ones in (9, 11, 4001, 2**63):
        with pytest.raises(PayloadError):
            read_mask(sections_of(replace(section, parameter=ones)), SPARSE.size)
