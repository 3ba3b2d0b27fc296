"""The message body that travels: its literal bytes, its sections, and what a reader refuses."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.codec import (
    PAYLOAD_VERSION,
    Context,
    Header,
    PackedBits,
    Section,
    Sections,
    TensorShape,
    counts_section,
    decode_payload,
    encode_payload,
    expected,
    has_mask,
    layer_context,
    levels_section,
    mask_section,
    plain_bits_section,
    plain_levels_section,
    plain_mask_section,
    read_counts,
    read_levels,
    read_mask,
    read_signs,
    section_label,
    signs_section,
)
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

HEADER = Header(experiment=bytes.fromhex("0102030405ff"), round=7, mask_digest=bytes(range(16)))
TENSORS = (TensorShape("0.weight", (40, 100), True), TensorShape("0.bias", (2,), False))
BUILDING = replace(HEADER, base=3, tensors=TENSORS)
SIGNS = PackedBits.from_bools(np.array([True, False, True]))
COUNTS = np.array([0.5, -1.0], dtype=np.float32)
VOTES = np.array([0, 7, 15, 15], dtype=np.uint8)
SPARSE = np.arange(4000) % 400 == 17
PACKED = PackedBits.from_bools(SPARSE)
SHAPES = [(40, 100)]
LIMIT = 10_000


def sections_of(*sections: Section) -> Sections:
    return {section.kind: section for section in sections}


def full_payload(*, plain: bool) -> bytes:
    sections = [
        plain_mask_section(PACKED) if plain else mask_section(PACKED, shapes=SHAPES),
        plain_bits_section(pb.KIND_SIGNS, SIGNS) if plain else signs_section(pb.KIND_SIGNS, SIGNS, groups=[2, 1]),
        plain_levels_section(pb.KIND_VOTES, VOTES, alphabet=16)
        if plain
        else levels_section(pb.KIND_VOTES, VOTES, alphabet=16, contexts=[layer_context([1, 3])]),
        counts_section(COUNTS),
    ]
    return encode_payload(BUILDING, sections)


PAYLOADS = {"plain": full_payload(plain=True), "entropy": full_payload(plain=False)}


def read_all(data: bytes) -> tuple[Header, PackedBits, PackedBits, list[int], list[float]]:
    header, sections = decode_payload(data, limit=LIMIT)
    mask = read_mask(sections, SPARSE.size, shapes=SHAPES)
    signs = read_signs(sections, pb.KIND_SIGNS, SIGNS.count, groups=[2, 1])
    votes = read_levels(sections, pb.KIND_VOTES, VOTES.size, alphabet=16, contexts=[layer_context([1, 3])])
    counts = read_counts(sections, COUNTS.size)
    assert mask.count == SPARSE.size
    assert not mask.has_padding()
    assert signs.count == SIGNS.count
    assert not signs.has_padding()
    assert votes.size == VOTES.size
    assert int(votes.max()) < 16
    assert np.isfinite(counts).all()
    return header, mask, signs, votes.tolist(), counts.tolist()


def test_a_small_payload_has_exactly_these_bytes() -> None:
    text = (
        "0802"  # 1: version 2
        "1206" + "0102030405ff"  # 2: experiment
        "1807"  # 3: round 7
        "2210" + "000102030405060708090a0b0c0d0e0f"  # 4: digest of the mask
        "2a09" + "0802" + "1001" + "1803" + "2a01a0"  # 5: signs, bits, 3 symbols, 101 and 5 zeros of padding
    )
    assert encode_payload(HEADER, [plain_bits_section(pb.KIND_SIGNS, SIGNS)]).hex() == text


def test_a_base_and_the_tensors_have_exactly_these_bytes() -> None:
    header = replace(HEADER, base=3, tensors=(TensorShape("w", (2, 300), True), TensorShape("b", (), False)))
    text = (
        "0802" + "1206" + "0102030405ff" + "1807" + "2210" + "000102030405060708090a0b0c0d0e0f"
        "3003"  # 6: base 3
        "3a0a" + "0a0177" + "120302ac02" + "1801"  # 7: w, of 2 × 300 weights, pruned
        "3a03" + "0a0162"  # 7: b, a number
    )
    assert encode_payload(header, []).hex() == text
    assert decode_payload(bytes.fromhex(text), limit=LIMIT) == (header, {})


@pytest.mark.parametrize("coder", PAYLOADS)
def test_what_is_encoded_is_read_back(coder: str) -> None:
    header, mask, signs, votes, counts = read_all(PAYLOADS[coder])
    assert header == BUILDING
    assert has_mask(decode_payload(PAYLOADS[coder], limit=LIMIT)[1])
    assert np.array_equal(mask.to_bools(), SPARSE)
    assert signs.data.tolist() == SIGNS.data.tolist()
    assert (votes, counts) == (VOTES.tolist(), COUNTS.tolist())


def test_a_payload_without_a_mask_says_so() -> None:
    _, sections = decode_payload(encode_payload(HEADER, [counts_section(COUNTS)]), limit=LIMIT)
    assert not has_mask(sections)


def test_a_plain_mask_takes_the_smaller_codec() -> None:
    dense = np.random.default_rng(0).random(4000) < 0.5
    half = plain_mask_section(PackedBits.from_bools(dense))
    assert half.codec == pb.CODEC_BITS
    assert len(half.data) == 500
    assert plain_mask_section(PACKED).codec == pb.CODEC_GAPS_ZSTD
    assert plain_mask_section(PACKED).parameter == 10
    assert len(plain_mask_section(PACKED).data) < 500
    for bits in (dense, SPARSE, np.zeros(4000, dtype=np.bool_), np.ones(4000, dtype=np.bool_)):
        packed = PackedBits.from_bools(bits)
        for section in (plain_mask_section(packed), mask_section(packed, shapes=SHAPES)):
            assert np.array_equal(read_mask(sections_of(section), 4000, shapes=SHAPES).to_bools(), bits)


def test_sections_know_their_entropy_bounds() -> None:
    half = np.array([True, False] * 8)
    packed = PackedBits.from_bools(half)
    assert plain_mask_section(packed).entropy == 2.0
    assert plain_bits_section(pb.KIND_SIGNS, packed).entropy == 2.0
    # Shares 1/4, 1/4, 1/2: 1.5 bits a symbol.
    assert plain_levels_section(pb.KIND_VOTES, VOTES, alphabet=16).entropy == 0.75
    assert counts_section(COUNTS).entropy == 8.0


def test_symbols_that_their_layer_gives_away_have_no_entropy_and_take_few_bytes() -> None:
    layers, symbols = [500, 300], np.repeat(np.array([2, 9], dtype=np.uint8), [500, 300])
    section = levels_section(pb.KIND_VOTES, symbols, alphabet=16, contexts=[layer_context(layers)])
    assert section.entropy == 0.0
    assert len(section.data) < 10
    found = read_levels(sections_of(section), pb.KIND_VOTES, 800, alphabet=16, contexts=[layer_context(layers)])
    assert np.array_equal(found, symbols)


@pytest.mark.parametrize(
    ("layers", "values", "size"),
    [
        ([], [], 1),
        ([0], [], 1),
        ([2, 0, 1], [0, 0, 2], 3),
        ([1] * 64, list(range(64)), 64),
        ([1] * 65, [i // 2 for i in range(65)], 33),
        ([1] * 129, [i // 3 for i in range(129)], 43),
    ],
)
def test_layers_are_contexts_and_neighbours_share_one_where_there_are_many(
    layers: list[int], values: list[int], size: int
) -> None:
    context = layer_context(layers)
    assert context.values.tolist() == values
    assert context.values.dtype == np.uint8
    assert context.size == size


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(2, 255), st.integers(0, 99))
def test_levels_come_back_whatever_the_layers_and_the_known_levels(layers: list[int], alphabet: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    known = random.integers(0, alphabet, sum(layers)).astype(np.uint8)
    symbols = np.where(random.random(known.size) < 0.8, known, known[::-1])
    contexts = [Context(known, alphabet), layer_context(layers)]
    section = levels_section(pb.KIND_VOTES, symbols, alphabet=alphabet, contexts=contexts)
    found = read_levels(sections_of(section), pb.KIND_VOTES, known.size, alphabet=alphabet, contexts=contexts)
    assert np.array_equal(found, symbols)


def test_a_section_is_labelled_by_kind_and_codec() -> None:
    assert section_label(counts_section(COUNTS)) == "counts/float32"
    assert section_label(plain_levels_section(pb.KIND_DRIFT, VOTES % 3, alphabet=3)) == "drift/bytes_zstd"
    assert section_label(levels_section(pb.KIND_FLIPS, VOTES % 2, alphabet=2)) == "flips/symbols_rans"


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_with_a_payload_error(data: bytes) -> None:
    try:
        read_all(data)
    except PayloadError:
        return


@pytest.mark.parametrize("coder", PAYLOADS)
@given(data=st.data())
def test_a_bit_flip_is_read_or_refused_with_a_payload_error(coder: str, data: st.DataObject) -> None:
    flipped = bytearray(PAYLOADS[coder])
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        read_all(bytes(flipped))
    except PayloadError:
        return


@pytest.mark.parametrize("coder", PAYLOADS)
def test_every_truncation_is_refused(coder: str) -> None:
    _, sections = decode_payload(PAYLOADS[coder], limit=LIMIT)
    whole = encode_payload(HEADER, sections.values())
    read_all(whole)
    for length in range(len(whole)):
        with pytest.raises(PayloadError):
            read_all(whole[:length])


def test_a_payload_over_the_limit_is_refused_and_one_at_the_limit_is_not() -> None:
    whole = PAYLOADS["entropy"]
    decode_payload(whole, limit=len(whole))
    with pytest.raises(PayloadError, match=f"{len(whole)} bytes; at most {len(whole) - 1}"):
        decode_payload(whole, limit=len(whole) - 1)


@pytest.mark.parametrize("version", [0, 1, 3])
def test_another_version_is_refused(version: int) -> None:
    assert version != PAYLOAD_VERSION
    data = pb.Payload(version=version).SerializeToString()
    with pytest.raises(PayloadError, match=f"version {version}; this side speaks version 2") as caught:
        decode_payload(data, limit=LIMIT)
    assert caught.value.kind == "mismatch"


def test_a_kind_that_occurs_twice_is_refused() -> None:
    with pytest.raises(PayloadError, match="occurs twice"):
        decode_payload(encode_payload(HEADER, [counts_section(COUNTS), counts_section(COUNTS)]), limit=LIMIT)


def test_a_missing_section_is_named() -> None:
    with pytest.raises(PayloadError, match="KIND_FLIPS is missing"):
        read_signs({}, pb.KIND_FLIPS, 3, groups=[3])


def test_another_count_is_refused() -> None:
    with pytest.raises(PayloadError, match="KIND_SIGNS has 3 symbols, expected 4"):
        read_signs(sections_of(plain_bits_section(pb.KIND_SIGNS, SIGNS)), pb.KIND_SIGNS, 4, groups=[4])


def test_a_count_that_its_bytes_do_not_hold_is_refused() -> None:
    lying = replace(counts_section(COUNTS), count=2**40)
    with pytest.raises(PayloadError, match="take 4398046511104 bytes, found 8"):
        read_counts(sections_of(lying), 2**40)


@pytest.mark.parametrize("codec", [pb.CODEC_UNSPECIFIED, pb.CODEC_FLOAT32, pb.CODEC_SYMBOLS_RANS, 99])
def test_another_codec_is_refused(codec: pb.Codec) -> None:
    section = replace(plain_bits_section(pb.KIND_SIGNS, SIGNS), codec=codec)
    with pytest.raises(PayloadError):
        read_signs(sections_of(section), pb.KIND_SIGNS, 3, groups=[3])


def test_a_codec_other_than_the_expected_ones_is_named() -> None:
    sections = sections_of(replace(counts_section(COUNTS), codec=pb.CODEC_FLOAT16))
    with pytest.raises(PayloadError, match=r"KIND_COUNTS has codec 10, expected one of \[2\]"):
        read_counts(sections, 2)
    assert expected(sections, pb.KIND_COUNTS, 2).codec == pb.CODEC_FLOAT16


def test_symbols_of_another_number_of_levels_are_refused() -> None:
    sections = sections_of(plain_levels_section(pb.KIND_VOTES, VOTES, alphabet=16))
    with pytest.raises(PayloadError, match="symbols of 16 levels; 8 are expected"):
        read_levels(sections, pb.KIND_VOTES, 4, alphabet=8)


def test_a_mask_with_another_number_of_ones_is_refused() -> None:
    section = plain_mask_section(PACKED)
    for ones in (9, 11, 4001, 2**63):
        with pytest.raises(PayloadError):
            read_mask(sections_of(replace(section, parameter=ones)), SPARSE.size, shapes=SHAPES)
