"""Bits in every codec that they have: bytes computed by hand, sizes, and what other bytes do to the reader."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import bitstreams, gaps, rans
from hedgerow.codec.bit_candidates import candidates, group_bytes, with_pattern
from hedgerow.codec.bit_tables import SHARES, byte_frequencies, gap_frequencies, low_bits, share_of
from hedgerow.codec.bitstreams import PackedBits, decode_bits, encode_bits
from hedgerow.codec.coded import Coded
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.codec.rans import PRECISION
from hedgerow.codec.symbols import Bits
from hedgerow.codec.varints import read_varint, varint
from hedgerow.errors import PayloadError
from hedgerow.native.library import Status, status
from hedgerow.v1 import payload_pb2 as pb

SIZES = [0, 1, 7, 8, 9, 64, 1000, 20_001]
RATES = [0.0, 0.001, 0.05, 0.3, 0.5, 0.97, 1.0]
NAMES = (pb.CODEC_BITS, pb.CODEC_BITS_RANS, pb.CODEC_GAPS_RANS, pb.CODEC_BITS_ZSTD)
CODECS = {"raw": 0, "bytes": 1, "gaps": 2, "grouped bytes": 3, "grouped gaps": 4, "zstd": 5}
bit_arrays = hnp.arrays(np.bool_, st.integers(0, 400)) | st.tuples(st.integers(1, 9000), st.integers(0, 30)).map(
    lambda drawn: np.random.default_rng(drawn[1]).random(drawn[0]) < drawn[1] / 1000
)


@contextmanager
def in_python() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (rans, gaps):
            patch.setattr(module, "status", lambda: Status(False, "turned off by the test"))
        yield


def random_bits(count: int, rate: float, *, seed: int = 0) -> PackedBits:
    return PackedBits.from_bools(np.random.default_rng(seed).random(count) < rate)


def bits_at(positions: list[int], *, count: int) -> PackedBits:
    bits = np.zeros(count, dtype=np.bool_)
    bits[positions] = True
    return PackedBits.from_bools(bits)


def groups_of(count: int) -> list[int]:
    """Five groups, one of them empty, of which none is whole bytes where there are enough bits."""
    first, second = count // 3, count // 7
    return [first, 0, second, min(3, count - first - second), max(count - first - second - 3, 0)]


def coded_as(codec: str, bits: PackedBits) -> Coded | None:
    """In this very codec; None if it cannot be."""
    if codec == "zstd":
        return with_pattern(bits, better_than=float("inf"))
    candidate = candidates(bits, groups_of(bits.count))[CODECS[codec]]
    return candidate.run() if candidate.cost < float("inf") else None


def same(found: PackedBits, expected: PackedBits) -> bool:
    return found.count == expected.count and np.array_equal(found.data, expected.data)


@given(hnp.arrays(np.bool_, st.integers(0, 300)), st.integers(0, 300), st.integers(0, 300))
def test_packed_bits_are_counted_compared_and_turned_over(bools: Bits, begin: int, end: int) -> None:
    bits = PackedBits.from_bools(bools)
    begin, end = min(begin, bools.size), min(end, bools.size)
    assert bits.to_bools().dtype == np.bool_
    assert np.array_equal(bits.to_bools(), bools)
    assert bits.ones() == bools.sum()
    assert bits.ones_between(begin, end) == bools[begin:end].sum()
    assert np.array_equal(bits.inverted().to_bools(), ~bools)
    assert same(bits.xor(bits.inverted()), PackedBits.from_bools(np.ones_like(bools)))


def test_ones_of_many_bytes_are_all_counted() -> None:
    assert PackedBits(np.full(300_001, 255, dtype=np.uint8), 2_400_008).ones() == 2_400_008


def test_bits_behind_the_last_one_are_never_1() -> None:
    with pytest.raises(AssertionError, match="not 0"):
        PackedBits(np.array([0x90], dtype=np.uint8), 3)


# Shares of 1/2: all bytes have 2**15 / 256 = 128. Of 1/4: eight zeros have (3/4)**8 · 2**15 = 3280.5, one and seven
# zeros 1093.5, two 364.5, three 121.5, … to 4.5, 1.5 and 0.5 for eight ones; halves are rounded up, and byte 0 takes
# what is left: 2**15 - 8 · 1094 - 28 · 365 - 56 · 122 - 70 · 41 - 56 · 14 - 28 · 5 - 8 · 2 - 1 = 3153.
@pytest.mark.parametrize(("share", "expected"), [(0.5, [128] * 9), (0.25, [3153, 1094, 365, 122, 41, 14, 5, 2, 1])])
def test_frequencies_of_bytes_computed_by_hand(share: float, expected: list[int]) -> None:
    table = byte_frequencies(int(share * SHARES))[0]
    assert [table[(1 << j) - 1] for j in range(9)] == expected
    assert table[0b01010000] == expected[2]


def test_frequencies_of_bytes_are_sound_for_every_share() -> None:
    table = byte_frequencies(*range(SHARES)).astype(np.int64)
    assert (table.sum(axis=1) == 1 << PRECISION).all()
    assert table[1:].min() == 1
    assert table[0].tolist() == [1 << PRECISION] + [0] * 255
    assert table.max() <= 1 << PRECISION


@given(st.integers(1, 2**32 - 1), st.floats(0, 1))
def test_frequencies_of_gaps_are_sound(count: int, share: float) -> None:
    ones = max(int(count * share**4), 1)
    table = gap_frequencies(ones, count).astype(np.int64)
    assert 2 <= table.size <= 256
    assert table.sum() == 1 << PRECISION
    assert table.min() >= 1
    assert 16 * ones << low_bits(ones, count) <= count or low_bits(ones, count) == 0


@pytest.mark.parametrize(("ones", "count", "share"), [(0, 9, 1), (1, 2, 8192), (1, 3, 5461), (9, 9, 16_383), (0, 0, 1)])
def test_a_share_of_ones_is_rounded_and_never_0_or_1(ones: int, count: int, share: int) -> None:
    assert share_of(ones, count) == share


def test_a_byte_of_even_bits_is_the_range_coders_state() -> None:
    coded = Coded(pb.CODEC_BITS_RANS, (2**15 * 256 + 128 * 0xA5).to_bytes(3, "little"), SHARES // 2)
    assert decode_bits(coded, 8).data.tobytes() == b"\xa5"


def test_gaps_computed_by_hand() -> None:
    # 2 of 64 bits: k = 1, since 2 · 16 · 2 <= 64. Gaps 5 and 6 are 2, 3 and the low bits 1, 0, padded: 80.
    # (62/64)² = 0.93848 go on; of 2**15 stop (1 - 0.93848) · 0.93848**h = 1891.97, 1775.57, 1666.33 for h = 1, 2, 3.
    table = gap_frequencies(2, 64)
    assert low_bits(2, 64) == 1
    assert table[1:4].tolist() == [1891, 1775, 1666]
    expected = "00" + "80" + rans.encode(np.array([2, 3], dtype=np.uint8), table[None]).hex()
    coded = coded_as("gaps", bits_at([5, 12], count=64))
    assert coded is not None
    assert (coded.data.hex(), coded.parameter) == (expected, 2)


def test_a_long_gap_is_the_last_symbol_and_the_rest_as_leb128() -> None:
    # 40 of 100,000 bits: k = 7. Of 39 ones at the begin all gaps are 0; the high part of the last gap is 780.
    last = gap_frequencies(40, 100_000).size - 1
    assert low_bits(40, 100_000) == 7
    bits = bits_at([*range(39), 99_999], count=100_000)
    coded = coded_as("gaps", bits)
    assert coded is not None
    assert coded.data.startswith(bytes([1]) + varint(780 - last))
    assert same(decode_bits(coded, 100_000), bits)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("count", SIZES)
def test_every_codec_gives_the_bits_back(codec: str, rate: float, count: int, native: bool) -> None:
    bits = random_bits(count, rate)
    if native:
        coded = coded_as(codec, bits)
        assert coded is None or same(decode_bits(coded, count, groups=groups_of(count)), bits)
    else:
        with in_python():
            coded = coded_as(codec, bits)
            assert coded is None or same(decode_bits(coded, count, groups=groups_of(count)), bits)
    assert coded is not None or "grouped" in codec


@pytest.mark.skipif(not status().available, reason=status().reason)
@pytest.mark.parametrize("codec", CODECS)
@given(bools=bit_arrays)
@settings(max_examples=25, deadline=None)
def test_python_and_native_kernels_give_the_same_bytes(codec: str, bools: Bits) -> None:
    bits = PackedBits.from_bools(bools)
    native = coded_as(codec, bits)
    with in_python():
        assert coded_as(codec, bits) == native


@given(bit_arrays, st.booleans())
@settings(deadline=None)
def test_bits_round_trip_in_the_codec_that_is_picked(bools: Bits, grouped: bool) -> None:
    bits, groups = PackedBits.from_bools(bools), groups_of(bools.size) if grouped else None
    coded = encode_bits(bits, groups=groups)
    assert same(decode_bits(coded, bits.count, groups=groups), bits)
    assert len(coded.data) <= bits.data.size


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.98])
def test_bits_take_little_more_than_their_entropy(rate: float) -> None:
    for count, extra, factor in ((96_618, 11, 1.0), (2_000_000, 11, 1.0045)):
        bits = random_bits(count, rate)
        coded = encode_bits(bits)
        assert coded.entropy == binary_entropy_bytes(bits.ones(), count)
        assert len(coded.data) <= factor * coded.entropy + extra


@pytest.mark.parametrize(
    ("rate", "codec"),
    [
        (0.0, "GAPS_RANS"),
        (0.01, "GAPS_RANS"),
        (0.3, "BITS_RANS"),
        (0.5, "BITS"),
        (0.7, "BITS_RANS"),
        (0.999, "GAPS_RANS"),
    ],
)
def test_the_codec_depends_on_the_share_of_ones(rate: float, codec: str) -> None:
    assert pb.Codec.Name(encode_bits(random_bits(50_000, rate)).codec) == f"CODEC_{codec}"


def test_no_ones_and_only_ones_take_no_bytes() -> None:
    for rate in (0.0, 1.0):
        bits = random_bits(1001, rate)
        coded = encode_bits(bits)
        assert (coded.data, coded.parameter) == (b"", bits.ones())
        assert same(decode_bits(coded, 1001), bits)


@pytest.mark.parametrize("repeats", [60, 4000])
def test_bits_with_a_pattern_go_through_zstandard(repeats: int) -> None:
    bits = PackedBits(np.tile(np.random.default_rng(0).integers(0, 256, 50, dtype=np.uint8), repeats), 400 * repeats)
    coded = encode_bits(bits)
    assert coded.codec == pb.CODEC_BITS_ZSTD
    assert len(coded.data) < 150
    assert same(decode_bits(coded, bits.count), bits)


@pytest.mark.parametrize(("rates", "codec"), [((0.4, 0.1, 0.25), "BITS_RANS"), ((0.001, 0.02, 0.005), "GAPS_RANS")])
def test_groups_have_shares_of_their_own_where_that_is_smaller(rates: tuple[float, ...], codec: str) -> None:
    groups = [30_001, 50_003, 16_614]
    parts = [np.random.default_rng(0).random(n) < rate for n, rate in zip(groups, rates, strict=True)]
    bits = PackedBits.from_bools(np.concatenate(parts))
    coded = encode_bits(bits, groups=groups)
    assert (pb.Codec.Name(coded.codec), coded.parameter) == (f"CODEC_{codec}", 0)
    assert len(coded.data) < encode_bits(bits).entropy
    bound = sum(binary_entropy_bytes(int(part.sum()), part.size) for part in parts)
    assert coded.entropy == pytest.approx(bound, rel=1e-3)
    assert len(coded.data) <= 1.001 * bound + 15
    assert same(decode_bits(coded, bits.count, groups=groups), bits)
    assert encode_bits(bits, groups=[bits.count]) == encode_bits(bits)


def test_a_byte_belongs_to_the_group_of_its_first_bit() -> None:
    assert group_bytes([8, 1, 3, 20, 0, 1]) == [1, 1, 2, 1]
    assert group_bytes([3, 6, 100, 7]) == [1, 1, 12, 1]


def read_or_refused(coded: Coded, count: int) -> PackedBits | None:
    try:
        return decode_bits(coded, count, groups=groups_of(count))
    except PayloadError:
        return None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [12, 1000])
def test_bytes_that_go_on_or_are_cut_are_refused(codec: str, count: int) -> None:
    bits = random_bits(count, 0.3)
    coded = coded_as(codec, bits)
    assert coded is not None
    for wrong in (coded.data + b"\0", coded.data + coded.data):
        assert read_or_refused(replace(coded, data=wrong), count) is None
    for length in range(1, len(coded.data)):
        assert read_or_refused(replace(coded, data=coded.data[:length]), count) is None


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_wrong_bytes_give_bits_or_a_payload_error(codec: str, data: st.DataObject) -> None:
    count = data.draw(st.sampled_from([1, 12, 300, 5000]))
    coded = coded_as(codec, random_bits(count, data.draw(st.sampled_from([0.01, 0.3, 0.9]))))
    found, parameter = bytearray(coded.data if coded else b""), coded.parameter if coded else 0
    for _ in range(data.draw(st.integers(0, 3))):
        if found:
            found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
    parameter = data.draw(st.just(parameter) | st.integers(0, count) | st.integers(0, 2**64 - 1))
    wrong = Coded(data.draw(st.sampled_from(NAMES)), bytes(found), parameter)
    bits = read_or_refused(wrong, count)
    with in_python():
        again = read_or_refused(wrong, count)
    assert (bits is None) == (again is None)
    assert bits is None or again is None or (bits.count == count and same(bits, again))


@given(st.sampled_from(NAMES), st.binary(max_size=60), st.integers(0, 40), st.integers(0, 300))
def test_arbitrary_bytes_give_bits_or_a_payload_error(codec: pb.Codec, data: bytes, parameter: int, count: int) -> None:
    bits = read_or_refused(Coded(codec, data, parameter), count)
    assert bits is None or bits.count == count


@pytest.mark.parametrize(
    ("codec", "parameter", "data", "match"),
    [
        (pb.CODEC_BITS, 1, "fff0", "parameter 1"),
        (pb.CODEC_BITS, 0, "ff", "12 bits take 2 bytes, found 1"),
        (pb.CODEC_BITS, 0, "fff8", "padding"),
        (pb.CODEC_BITS_RANS, SHARES, "00", "share of 16384"),
        (pb.CODEC_BITS_RANS, 0, "00", "no groups"),
        (pb.CODEC_GAPS_RANS, 0, "00", "no groups"),
        (pb.CODEC_GAPS_RANS, 13, "", "13 ones among 12 bits"),
        (pb.CODEC_GAPS_RANS, 2**64 - 1, "", "ones among 12 bits"),
        (pb.CODEC_GAPS_RANS, 1, "", "does not end"),
        (pb.CODEC_GAPS_RANS, 1, "02", "has to be below 2"),
        (pb.CODEC_GAPS_RANS, 1, "010d", "has to be below 13"),
        (pb.CODEC_GAPS_RANS, 1, "0180", "does not end"),
        (pb.CODEC_GAPS_RANS, 1, "018000", "more bytes than it needs"),
        (pb.CODEC_GAPS_RANS, 1, "0101", "not a range coder's"),
        (pb.CODEC_BITS_ZSTD, 0, "00", "Zstandard"),
        (pb.CODEC_FLOAT32, 0, "00", "none of bits"),
    ],
)
def test_what_no_encoder_writes_is_refused(codec: pb.Codec, parameter: int, data: str, match: str) -> None:
    with pytest.raises(PayloadError, match=match):
        decode_bits(Coded(codec, bytes.fromhex(data), parameter), 12)


@pytest.mark.parametrize("native", [True, False])
def test_a_one_behind_the_last_bit_is_refused(native: bool) -> None:
    # 2 of 1000 bits: k = 4. Gaps of 30 · 16 + 15 = 495 and of 31 · 16 + 7 = 503 end at bit 999, one of 504 at bit 1000.
    assert low_bits(2, 1000) == 4
    high = rans.encode(np.array([30, 31], dtype=np.uint8), gap_frequencies(2, 1000)[None])
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(gaps, "status", lambda: Status(False, "turned off by the test"))
        sound = decode_bits(Coded(pb.CODEC_GAPS_RANS, b"\0\xf7" + high, 2), 1000)
        assert np.flatnonzero(sound.to_bools()).tolist() == [495, 999]
        with pytest.raises(PayloadError, match="behind the last"):
            decode_bits(Coded(pb.CODEC_GAPS_RANS, b"\0\xf8" + high, 2), 1000)


@pytest.mark.parametrize(("declared", "high"), [("00", 255), ("0107", 3)])
def test_long_gaps_have_to_be_as_many_as_declared(declared: str, high: int) -> None:
    table = gap_frequencies(4, 64)[None]
    symbols = np.array([0, 0, 0, min(high, table.size - 1)], dtype=np.uint8)
    data = bytes.fromhex(declared) + rans.encode(symbols, table)
    with pytest.raises(PayloadError, match="long gaps"):
        decode_bits(Coded(pb.CODEC_GAPS_RANS, data, 4), 64)


def test_bits_after_the_low_ones_must_be_zero() -> None:
    assert low_bits(1, 1000) == 5
    high = rans.encode(np.array([3], dtype=np.uint8), gap_frequencies(1, 1000)[None])
    sound = decode_bits(Coded(pb.CODEC_GAPS_RANS, b"\0\x08" + high, 1), 1000)
    assert np.flatnonzero(sound.to_bools()).tolist() == [3 * 32 + 1]
    for padding in (1, 2, 4):
        with pytest.raises(PayloadError, match="padding"):
            decode_bits(Coded(pb.CODEC_GAPS_RANS, bytes([0, 8 | padding]) + high, 1), 1000)


def test_groups_have_to_be_those_of_the_bits() -> None:
    bits = random_bits(100, 0.5)
    with pytest.raises(AssertionError, match="groups of other"):
        encode_bits(bits, groups=[50, 49])
    with pytest.raises(AssertionError, match="groups of other"):
        decode_bits(encode_bits(bits), 100, groups=[101])


@given(st.integers(0, 2**62))
def test_whole_numbers_round_trip(number: int) -> None:
    data = b"\x00" + varint(number) + b"\x07"
    assert read_varint(data, 1, below=number + 1) == (number, len(data) - 1)


def test_the_module_offers_its_value_too() -> None:
    assert bitstreams.PackedBits is PackedBits
