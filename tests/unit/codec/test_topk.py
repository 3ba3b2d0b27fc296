"""The largest values among pruned positions: round trips, limits, and what arbitrary bytes do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.codec.adaptive import divided, prefixed
from hedgerow.codec.coded import Coded
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.codec.gaps import Group, encode_gaps
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.topk import Positions, decode_top_k, encode_top_k
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

halves = st.floats(width=16, allow_nan=False, allow_infinity=False)
drawn_values = st.dictionaries(st.integers(0, 499), halves, max_size=20).map(
    lambda drawn: (np.array(sorted(drawn), dtype=np.int64), np.array([drawn[p] for p in sorted(drawn)], np.float32))
)


def positions_of(*values: int) -> Positions:
    return np.array(values, dtype=np.int64)


def test_values_follow_the_gaps_little_endian() -> None:
    bits = np.zeros(9, dtype=np.bool_)
    bits[[2, 7]] = True
    gaps = encode_gaps(PackedBits.from_bools(bits), [Group(9, 2)])
    values = np.array([1.0, -2.5], dtype=np.float32)
    coded = encode_top_k(positions_of(2, 7), values, support=9)
    assert (coded.codec, coded.parameter) == (pb.CODEC_FLOAT32, 2)
    assert coded.data == prefixed(gaps) + bytes.fromhex("0000803f" + "000020c0")
    short = encode_top_k(positions_of(2, 7), values, support=9, codec=pb.CODEC_FLOAT16)
    assert divided(short.data) == (gaps, bytes.fromhex("003c" + "00c1"))


@given(drawn_values, st.sampled_from([pb.CODEC_FLOAT32, pb.CODEC_FLOAT16]))
@settings(max_examples=60)
def test_positions_and_values_come_back(
    drawn: tuple[Positions, np.ndarray[tuple[int], np.dtype[np.float32]]], codec: pb.Codec
) -> None:
    positions, values = drawn
    coded = encode_top_k(positions, values, support=500, codec=codec)
    found, what = decode_top_k(coded, support=500, most=positions.size)
    assert found.tolist() == positions.tolist()
    assert what.tolist() == values.tolist()
    assert found.dtype == np.int64
    assert what.dtype == np.float32


def test_no_values_are_one_byte() -> None:
    coded = encode_top_k(positions_of(), np.zeros(0, dtype=np.float32), support=100)
    assert coded.data == b"\0"
    positions, values = decode_top_k(coded, support=100, most=5)
    assert positions.size == values.size == 0


def test_positions_cost_about_their_entropy() -> None:
    positions = np.sort(np.random.default_rng(0).choice(1_000_000, 2_000, replace=False))
    coded = encode_top_k(positions, np.ones(2_000, dtype=np.float32), support=1_000_000)
    bound = binary_entropy_bytes(2_000, 1_000_000)
    assert coded.entropy == pytest.approx(bound + 8_000)
    assert len(coded.data) <= 1.01 * bound + 8_000 + 6


@pytest.mark.parametrize("most", [2, 0])
def test_more_values_than_allowed_are_refused(most: int) -> None:
    coded = encode_top_k(positions_of(1, 2, 3), np.ones(3, dtype=np.float32), support=10)
    with pytest.raises(PayloadError, match=f"at most {most}") as caught:
        decode_top_k(coded, support=10, most=most)
    assert caught.value.kind == "bounds"


def test_more_values_than_places_are_refused() -> None:
    with pytest.raises(PayloadError, match="at most 3"):
        decode_top_k(Coded(pb.CODEC_FLOAT16, bytes(9), parameter=4), support=3, most=10)


@pytest.mark.parametrize("value", ["0000c07f", "0000807f", "000080ff"])
def test_values_that_are_not_finite_are_refused(value: str) -> None:
    coded = encode_top_k(positions_of(4), np.ones(1, dtype=np.float32), support=10)
    broken = Coded(coded.codec, coded.data[:-4] + bytes.fromhex(value), parameter=1)
    with pytest.raises(PayloadError, match="not finite") as caught:
        decode_top_k(broken, support=10, most=1)
    assert caught.value.kind == "not_finite"


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 1), slice(0, -1), slice(0, None)])
def test_data_that_is_too_short_or_too_long_is_refused(cut: slice) -> None:
    coded = encode_top_k(positions_of(4, 8), np.ones(2, dtype=np.float32), support=10)
    behind = b"\0" if cut.stop is None else b""
    with pytest.raises(PayloadError):
        decode_top_k(Coded(coded.codec, coded.data[cut] + behind, parameter=2), support=10, most=2)


def test_another_codec_is_refused() -> None:
    with pytest.raises(PayloadError, match="none of largest values"):
        decode_top_k(Coded(pb.CODEC_BITS, b"\0"), support=10, most=2)


@given(st.binary(max_size=30), st.integers(0, 8))
@settings(max_examples=100)
def test_any_bytes_are_values_or_refused(data: bytes, count: int) -> None:
    try:
        positions, values = decode_top_k(Coded(pb.CODEC_FLOAT16, data, parameter=count), support=20, most=6)
    except PayloadError:
        return
    assert positions.size == values.size == count <= 6
    assert (np.diff(positions, prepend=-1, append=20) > 0).all()
