"""Blocks of 8-bit integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import Floats
from hedgerow.codec.blocks import BLOCK, decode_blocks, encode_blocks
from hedgerow.codec.coded import Coded
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def test_scales_then_integers() -> None:
    # 127 / 127 = 1 is 0x3f80 in bfloat16; 2 / 127 is between 0x3c81 and 0x3c82, and the upper one is 0.01587.
    coded, reconstruction = encode_blocks(floats(127, -1.4, 2), groups=[2, 1])
    assert coded.data.hex() == "803f" + "823c" + "7fff" + "7e"
    assert reconstruction.tolist() == [127.0, -1.0, 126 * 0.015869140625]
    assert coded.codec == pb.CODEC_INT8_BLOCK
    assert decode_blocks(coded, 3, groups=[2, 1]).tolist() == reconstruction.tolist()


def test_a_block_ends_after_256_values_and_with_its_tensor() -> None:
    groups = [BLOCK + 1, 0, 3]
    coded, _ = encode_blocks(np.ones(sum(groups), dtype=np.float32), groups=groups)
    assert len(coded.data) == 3 * 2 + sum(groups)


def test_a_value_costs_8_and_a_sixteenth_bits() -> None:
    coded, _ = encode_blocks(np.ones(1 << 16, dtype=np.float32), groups=[1 << 16])
    assert len(coded.data) * 8 / (1 << 16) == 8.0625
    assert coded.entropy == len(coded.data)


def test_normal_updates_keep_their_direction() -> None:
    update = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    _, reconstruction = encode_blocks(update, groups=[4000])
    cosine = update @ reconstruction / np.linalg.norm(update) / np.linalg.norm(reconstruction)
    assert cosine > 0.9999


def test_the_largest_and_the_smallest_floats_stay_finite() -> None:
    largest = float(np.finfo(np.float32).max)
    coded, reconstruction = encode_blocks(floats(largest, -largest, 1e-45, 1e-31), groups=[2, 1, 1])
    assert np.isfinite(reconstruction).all()
    assert reconstruction[0] >= 2.0**126
    assert reconstruction.tolist()[2:] == [0.0, 0.0]
    assert decode_blocks(coded, 4, groups=[2, 1, 1]).tolist() == reconstruction.tolist()


@given(hnp.arrays(np.float32, st.integers(0, 600), elements=finite), st.integers(0, 600))
def test_both_ends_get_the_same_bits(update: Floats, cut: int) -> None:
    groups = [min(cut, update.size), update.size - min(cut, update.size)]
    coded, reconstruction = encode_blocks(update, groups=groups)
    back = decode_blocks(coded, update.size, groups=groups)
    assert back.tobytes() == reconstruction.tobytes()


@given(hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32)))
def test_an_error_is_at_most_half_a_step(update: Floats) -> None:
    _, reconstruction = encode_blocks(update, groups=[update.size])
    # bfloat16 rounds a scale up by at most 2**-7.
    for start in range(0, update.size, BLOCK):
        part = slice(start, start + BLOCK)
        assert np.abs(reconstruction[part] - update[part]).max() <= np.abs(update[part]).max() / 127 * 1.01 / 2 + 1e-30


@pytest.mark.parametrize(
    ("data", "count", "kind"),
    [
        ("803f", 1, "malformed"),
        ("803f0000", 1, "malformed"),
        ("80bf01", 1, "bounds"),  # a negative scale
        ("807f01", 1, "bounds"),  # infinite
        ("c07f01", 1, "bounds"),  # not a number
        ("7f7f01", 1, "bounds"),  # 127 times it is infinite
    ],
)
def test_damaged_blocks_are_refused(data: str, count: int, kind: str) -> None:
    with pytest.raises(PayloadError) as caught:
        decode_blocks(Coded(pb.CODEC_INT8_BLOCK, bytes.fromhex(data)), count, groups=[count])
    assert caught.value.kind == kind


def test_another_codec_is_refused() -> None:
    with pytest.raises(PayloadError, match="codec 2"):
        decode_blocks(Coded(pb.CODEC_FLOAT32, bytes(4)), 1, groups=[1])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(PayloadError) as caught:
        encode_blocks(floats(value), groups=[1])
    assert caught.value.kind == "not_finite"


@given(st.binary(max_size=12))
def test_any_bytes_are_finite_values_or_refused(data: bytes) -> None:
    try:
        values = decode_blocks(Coded(pb.CODEC_INT8_BLOCK, data), 4, groups=[4])
    except PayloadError:
        return
    assert values.size == 4
    assert np.isfinite(values).all()
