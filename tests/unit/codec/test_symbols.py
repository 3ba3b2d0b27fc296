"""Arrays of symbols to bytes and back, and what arbitrary bytes do to the readers."""

from collections.abc import Callable

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import Bits, Floats, Levels, binary_entropy_bytes, symbol_entropy_bytes
from hedgerow.codec.symbols import (
    pack_bits,
    pack_bytes_zstd,
    pack_floats,
    pack_gaps_zstd,
    unpack_bits,
    unpack_bytes_zstd,
    unpack_floats,
    unpack_gaps_zstd,
)
from hedgerow.errors import PayloadError

bit_arrays = hnp.arrays(np.bool_, st.integers(0, 300))
sparse_bit_arrays = st.tuples(st.integers(1, 40_000), st.sets(st.integers(0, 39_999), max_size=20)).map(
    lambda drawn: bits_at([p for p in drawn[1] if p < drawn[0]], count=drawn[0])
)
float_arrays = hnp.arrays(
    np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
level_arrays = hnp.arrays(np.uint8, st.integers(0, 300), elements=st.integers(0, 15))


def bits_at(positions: list[int], *, count: int) -> Bits:
    bits = np.zeros(count, dtype=np.bool_)
    bits[positions] = True
    return bits


def bits_of(text: str) -> Bits:
    return np.array([c == "1" for c in text], dtype=np.bool_)


def frame(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


def declaring(size: int) -> bytes:
    """A Zstandard frame (RFC 8878, 3.1.1): single segment, 8 bytes of content size, one empty raw block."""
    return bytes.fromhex("28b52ffd e0") + size.to_bytes(8, "little") + bytes.fromhex("010000")


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), ("1", "80"), ("101", "a0"), ("00000001", "01"), ("1111111101", "ff40")]
)
def test_bits_go_eight_a_byte_most_significant_first(text: str, expected: str) -> None:
    assert pack_bits(bits_of(text)).hex() == expected
    assert unpack_bits(bytes.fromhex(expected), len(text)).tolist() == [c == "1" for c in text]


def test_floats_are_little_endian_binary32() -> None:
    values = np.array([1.0, -2.5, 0.0], dtype=np.float32)
    assert pack_floats(values).hex() == "0000803f" + "000020c0" + "00000000"
    assert unpack_floats(bytes.fromhex("0000803f000020c000000000"), 3).tolist() == [1.0, -2.5, 0.0]


def test_floats_of_another_byte_order_travel_the_same() -> None:
    assert pack_floats(np.array([1.0], dtype=">f4")).hex() == "0000803f"


def test_levels_are_one_byte_each_inside_zstandard() -> None:
    packed = pack_bytes_zstd(np.array([0, 3, 15], dtype=np.uint8))
    assert zstandard.ZstdDecompressor().decompress(packed).hex() == "00030f"
    assert unpack_bytes_zstd(frame(bytes.fromhex("00030f")), 3, levels=16).tolist() == [0, 3, 15]


@pytest.mark.parametrize(
    ("positions", "count", "expected"),
    [
        ([], 9, ""),
        ([0], 1, "00"),
        ([0, 1, 5], 6, "000003"),
        ([127], 128, "7f"),
        ([128], 129, "8001"),
        ([128, 428], 500, "8001ab02"),
        ([16_384], 16_385, "808001"),
    ],
)
def test_gaps_are_the_zeros_before_each_one_as_leb128(positions: list[int], count: int, expected: str) -> None:
    packed = pack_gaps_zstd(bits_at(positions, count=count))
    assert zstandard.ZstdDecompressor().decompress(packed).hex() == expected
    assert np.flatnonzero(unpack_gaps_zstd(packed, count, ones=len(positions))).tolist() == positions


@given(bit_arrays)
def test_bits_round_trip(bits: Bits) -> None:
    again = unpack_bits(pack_bits(bits), bits.size)
    assert again.dtype == np.bool_
    assert np.array_equal(again, bits)


@given(bit_arrays | sparse_bit_arrays)
def test_gaps_round_trip(bits: Bits) -> None:
    again = unpack_gaps_zstd(pack_gaps_zstd(bits), bits.size, ones=int(bits.sum()))
    assert again.dtype == np.bool_
    assert np.array_equal(again, bits)


@given(float_arrays)
def test_floats_round_trip_bit_by_bit(values: Floats) -> None:
    again = unpack_floats(pack_floats(values), values.size)
    assert again.dtype == np.float32
    assert again.tobytes() == values.tobytes()


@given(level_arrays)
def test_levels_round_trip(symbols: Levels) -> None:
    again = unpack_bytes_zstd(pack_bytes_zstd(symbols), symbols.size, levels=16)
    assert again.dtype == np.uint8
    assert np.array_equal(again, symbols)


READERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "bits": lambda data: unpack_bits(data, 12),
    "floats": lambda data: unpack_floats(data, 3),
    "levels": lambda data: unpack_bytes_zstd(data, 5, levels=16),
    "gaps": lambda data: unpack_gaps_zstd(data, 1000, ones=4),
}
VALID = {
    "bits": pack_bits(bits_of("101100111010")),
    "floats": pack_floats(np.array([1, -2, 3], dtype=np.float32)),
    "levels": pack_bytes_zstd(np.array([1, 2, 3, 4, 15], dtype=np.uint8)),
    "gaps": pack_gaps_zstd(bits_at([3, 300, 301, 999], count=1000)),
}
SHAPES = {"bits": 12, "floats": 3, "levels": 5, "gaps": 1000}


def is_valid_or_refused(codec: str, data: bytes) -> bool:
    try:
        values = READERS[codec](data)
    except PayloadError:
        return True
    valid = {
        "bits": values.dtype == np.bool_,
        "floats": bool(np.isfinite(values).all()),
        "levels": bool((values < 16).all()),
        "gaps": int(np.count_nonzero(values)) == 4,
    }
    return values.shape == (SHAPES[codec],) and valid[codec]


@pytest.mark.parametrize("codec", READERS)
@given(data=st.binary(max_size=64))
def test_arbitrary_bytes_give_a_valid_value_or_a_payload_error(codec: str, data: bytes) -> None:
    assert is_valid_or_refused(codec, data)


@pytest.mark.parametrize("codec", ["levels", "gaps"])
@given(content=st.binary(max_size=24))
def test_arbitrary_bytes_inside_a_sound_frame_give_a_valid_value_or_a_payload_error(codec: str, content: bytes) -> None:
    assert is_valid_or_refused(codec, frame(content))


@pytest.mark.parametrize("codec", READERS)
def test_every_bit_flip_of_valid_bytes_gives_a_valid_value_or_a_payload_error(codec: str) -> None:
    valid = VALID[codec]
    for bit in range(8 * len(valid)):
        flipped = bytearray(valid)
        flipped[bit // 8] ^= 1 << bit % 8
        assert is_valid_or_refused(codec, bytes(flipped)), bit


@pytest.mark.parametrize("codec", READERS)
def test_every_truncation_of_valid_bytes_is_refused(codec: str) -> None:
    for length in range(len(VALID[codec])):
        with pytest.raises(PayloadError):
            READERS[codec](VALID[codec][:length])


@pytest.mark.parametrize("codec", READERS)
def test_bytes_after_the_end_are_refused(codec: str) -> None:
    with pytest.raises(PayloadError):
        READERS[codec](VALID[codec] + b"\0")


@pytest.mark.parametrize("bit", range(4))
def test_every_padding_bit_must_be_zero(bit: int) -> None:
    with pytest.raises(PayloadError, match="padding"):
        unpack_bits(bytes([0xFF, 0xF0 | 1 << bit]), 12)


@pytest.mark.parametrize("bits", ["0000c07f", "0000807f", "000080ff"], ids=["nan", "inf", "-inf"])
def test_a_float_that_is_not_finite_is_refused(bits: str) -> None:
    with pytest.raises(PayloadError, match="not finite"):
        unpack_floats(bytes.fromhex("0000803f" + bits), 2)


def test_a_symbol_beyond_the_levels_is_refused() -> None:
    with pytest.raises(PayloadError, match="a symbol is 16, there are only 16 levels"):
        unpack_bytes_zstd(frame(bytes([0, 16])), 2, levels=16)


@pytest.mark.parametrize("size", [2**62, 2**40, 6])
def test_a_frame_that_declares_more_than_can_be_meant_is_refused_before_it_is_unpacked(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not_run(*args: object, **options: object) -> None:
        raise AssertionError("the decompressor was started")

    assert zstandard.frame_content_size(declaring(size)) == size
    monkeypatch.setattr(zstandard, "ZstdDecompressor", must_not_run)
    with pytest.raises(PayloadError, match=f"declares {size}"):
        unpack_bytes_zstd(declaring(size), 5, levels=16)
    with pytest.raises(PayloadError, match=f"declares {size}"):
        unpack_gaps_zstd(declaring(size), 1000, ones=1)


def test_a_frame_that_does_not_declare_its_size_is_refused() -> None:
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(5))
    with pytest.raises(PayloadError, match="declares -1"):
        unpack_bytes_zstd(unknown, 5, levels=16)


def test_a_frame_that_holds_less_than_it_declares_is_refused() -> None:
    with pytest.raises(PayloadError):
        unpack_bytes_zstd(declaring(5), 5, levels=16)


@pytest.mark.parametrize(
    ("content", "ones", "match"),
    [
        (bytes([1, 2]), 1, "expected 1 gaps, found 2"),
        (bytes([0x81, 0x82, 0x03]), 3, "expected 3 gaps, found 1"),
        (bytes([1, 0x81]), 2, "expected 2 gaps, found 1"),
        (bytes([1, 2, 0x81]), 2, "expected 2 gaps, found 2"),
        (bytes([9, 0]), 2, "position 10 of 10"),
        (bytes([10]), 1, "a gap of 10 in 10 bits"),
        (bytes([0x80] * 5 + [0x00, 0x01]), 2, "longer than 5 bytes"),
        (bytes([0xFF] * 4 + [0x7F]), 1, "a gap of 34359738367 in 10 bits"),
    ],
    ids=[
        "too many",
        "too few",
        "open end, too few",
        "open end",
        "past the end",
        "gap past the end",
        "over-long",
        "huge",
    ],
)
def test_gaps_that_are_not_of_these_bits_are_refused(content: bytes, ones: int, match: str) -> None:
    with pytest.raises(PayloadError, match=match):
        unpack_gaps_zstd(frame(content), 10, ones=ones)


@pytest.mark.parametrize("ones", [11, 2**63])
def test_more_ones_than_bits_are_refused_before_anything_is_allocated(ones: int) -> None:
    with pytest.raises(PayloadError, match=f"{ones} ones among 10 bits"):
        unpack_gaps_zstd(frame(b""), 10, ones=ones)


def test_a_bit_costs_its_entropy() -> None:
    # H(1/4) = 2 - 3/4 · log2(3) = 0.811278 bits
    assert binary_entropy_bytes(2, 8) == pytest.approx(0.811278, abs=1e-6)
    assert binary_entropy_bytes(8, 8) == 0
    assert binary_entropy_bytes(0, 0) == 0


def test_a_symbol_costs_the_entropy_of_its_histogram() -> None:
    # Shares 1/2, 1/4, 1/4: 1.5 bits a symbol.
    assert symbol_entropy_bytes(np.array([7, 7, 0, 3] * 4, dtype=np.uint8)) == 3.0
    assert symbol_entropy_bytes(np.zeros(0, dtype=np.uint8)) == 0
