"""Integers of unknown spread: round trips, what they cost, and what arbitrary bytes do."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec.integers import decode_integers, encode_integers
from hedgerow.errors import PayloadError

values_and_scales = st.integers(0, 80).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int16, n),
        hnp.arrays(np.int32, n, elements=st.integers(-3, 15)),
    )
)


def flat(count: int) -> npt.NDArray[np.int32]:
    return np.zeros(count, dtype=np.int32)


def test_raw_bits_follow_the_tokens_lowest_plane_first() -> None:
    # With scale 15 and any radius, at least the lowest 9 bits of each value are raw, whatever the tokens are.
    values = np.array([0b01, 0b10, 0b11], dtype=np.int16)
    data, _ = encode_integers(values, scales=np.full(3, 15, dtype=np.int32))
    radius = (1, 2, 4, 6)[data[0] >> 2]
    planes = [[1, 0, 1], [0, 1, 1], *[[0, 0, 0]] * (15 - radius - 2)]
    raw = np.packbits(np.array(planes, dtype=np.bool_).ravel()).tobytes()
    assert data.endswith(raw)
    assert data[1] == len(data) - 2 - len(raw)


@settings(max_examples=80)
@given(values_and_scales)
def test_all_values_come_back_whatever_their_scales_say(
    drawn: tuple[npt.NDArray[np.int16], npt.NDArray[np.int32]],
) -> None:
    values, scales = drawn
    data, _ = encode_integers(values, scales=scales)
    assert decode_integers(data, values.size, scales=scales).tolist() == values.tolist()


def test_every_int16_comes_back() -> None:
    values = np.arange(-(2**15), 2**15).astype(np.int16)
    for scale in (-1, 0, 7, 15):
        scales = np.full(values.size, scale, dtype=np.int32)
        data, _ = encode_integers(values, scales=scales)
        assert (decode_integers(data, values.size, scales=scales) == values).all()


@pytest.mark.parametrize("spread", [0.3, 1.0, 8.0, 300.0, 5000.0])
def test_normal_integers_come_within_two_per_cent_of_their_bound(spread: float) -> None:
    count = 4000
    values = np.rint(np.random.default_rng(0).normal(0, spread, count)).astype(np.int16)
    scale = max(int(np.log2(spread)), 0)
    data, entropy = encode_integers(values, scales=np.full(count, scale, dtype=np.int32))
    if spread > 50:
        # The samples are too few to show it: the differential entropy of the normal distribution.
        bound = count * np.log2(spread * np.sqrt(2 * np.pi * np.e))
    else:
        _, counts = np.unique(values, return_counts=True)
        bound = -(counts * np.log2(counts / count)).sum()
    assert len(data) <= 1.02 * bound / 8 + 20
    assert entropy <= len(data)


def test_scales_that_both_ends_know_make_it_smaller() -> None:
    generator = np.random.default_rng(0)
    scales = np.repeat(np.array([0, 3, 8], dtype=np.int32), 1000)
    values = np.rint(generator.normal(0, 2.0**scales)).astype(np.int16)
    known, _ = encode_integers(values, scales=scales)
    unknown, _ = encode_integers(values, scales=flat(3000))
    assert len(known) < 0.85 * len(unknown)


def test_a_tendency_to_one_side_makes_it_smaller() -> None:
    scales = np.full(2000, 8, dtype=np.int32)
    sizes = np.abs(np.random.default_rng(0).normal(0, 256, 2000)).astype(np.int16)
    signs = np.where(np.random.default_rng(1).random(2000) < 0.5, 1, -1).astype(np.int16)
    one_sided, _ = encode_integers(sizes, scales=scales)
    two_sided, _ = encode_integers(sizes * signs, scales=scales)
    assert len(one_sided) < len(two_sided) - 200


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "no bytes"),
        ("10", "unknown layout 16"),
        ("00", "does not end"),
        ("00ffffffffffff", "does not end"),
        ("000500", "5 bytes of tokens where 1 are left"),
    ],
)
def test_damaged_integers_are_refused(data: str, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        decode_integers(bytes.fromhex(data), 3, scales=flat(3))


def test_too_many_or_too_few_raw_bits_are_refused() -> None:
    values, scales = np.arange(100, dtype=np.int16), np.full(100, 12, dtype=np.int32)
    data, _ = encode_integers(values, scales=scales)
    for damaged in (data[:-1], data + b"\0"):
        with pytest.raises(PayloadError, match="bits take"):
            decode_integers(damaged, 100, scales=scales)


@settings(max_examples=200)
@given(st.binary(max_size=60), st.integers(0, 40), st.integers(-1, 15))
def test_any_bytes_are_integers_or_refused(data: bytes, count: int, scale: int) -> None:
    try:
        values = decode_integers(data, count, scales=np.full(count, scale, dtype=np.int32))
    except PayloadError:
        return
    assert values.size == count
    assert values.dtype == np.int16
