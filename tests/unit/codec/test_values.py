"""Values in the format that an experiment chooses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import Bits, Floats
from hedgerow.codec.coded import Coded
from hedgerow.codec.values import VALUE_FORMATS, ValueFormat, decode_values, encode_values, value_codec
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
GROUPS = [100, 0, 60, 40]
UPDATES: tuple[ValueFormat, ...] = ("int8", "uniform")


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def normal(seed: int, size: float = 1.0) -> Floats:
    return (size * np.random.default_rng(seed).standard_normal(sum(GROUPS))).astype(np.float32)


def last_tensor() -> Bits:
    """The last tensor is one of variances."""
    return np.repeat(np.array([False, False, False, True]), GROUPS)


@pytest.mark.parametrize(
    ("format", "expected"), [("fp32", "0000803f0000c0c0"), ("fp16", "003c00c6"), ("bf16", "803fc0c0")]
)
def test_values_themselves_are_little_endian(format: ValueFormat, expected: str) -> None:
    encoded = encode_values(floats(1, -6), format=format, groups=[2])
    assert encoded.coded.data.hex() == expected
    assert encoded.coded.entropy == len(expected) // 2
    assert encoded.values.tolist() == [1.0, -6.0]
    assert encoded.residual is None


@pytest.mark.parametrize("format", UPDATES)
def test_updates_are_against_the_base(format: ValueFormat) -> None:
    encoded = encode_values(floats(137, -117), format=format, groups=[2], base=floats(10, 10))
    # 127 is the largest of an 8-bit block of scale 1; the step nearest to it is 128.
    far = {"int8": 127.0, "uniform": 128.0}[format]
    assert encoded.values.tolist() == [10 + far, 10 - far]
    assert decode_values(encoded.coded, 2, groups=[2], base=floats(0, 1)).tolist() == [far, 1 - far]


@pytest.mark.parametrize("format", VALUE_FORMATS)
def test_a_format_has_its_codec(format: ValueFormat) -> None:
    encoded = encode_values(normal(0), format=format, groups=GROUPS, base=normal(1))
    assert encoded.coded.codec == value_codec(format)


@pytest.mark.parametrize("format", VALUE_FORMATS)
def test_the_writer_knows_what_the_reader_gets(format: ValueFormat) -> None:
    values, base = np.abs(normal(0)), np.abs(normal(1))
    encoded = encode_values(values, format=format, groups=GROUPS, base=base, relative=last_tensor())
    read = decode_values(encoded.coded, values.size, groups=GROUPS, base=base, relative=last_tensor())
    assert read.tobytes() == encoded.values.tobytes()


@pytest.mark.parametrize(
    ("format", "error"), [("fp32", 0), ("fp16", 2.0**-11), ("bf16", 2.0**-8), ("int8", 0.012), ("uniform", 0.3)]
)
def test_a_format_is_as_exact_as_it_says(format: ValueFormat, error: float) -> None:
    values = normal(0)
    encoded = encode_values(values, format=format, groups=GROUPS, base=np.zeros_like(values), step=0.5)
    assert np.abs(encoded.values - values).max() <= error * max(1, np.abs(values).max() if format != "uniform" else 1)


@pytest.mark.parametrize("format", UPDATES)
def test_what_rounding_left_is_made_up_for(format: ValueFormat) -> None:
    base, residual = normal(0), None
    target = base + normal(1, size=0.01)
    held = base
    for _ in range(40):
        # The truth moves by a constant; the writer starts from what the reader holds.
        moved = held + (target - base)
        encoded = encode_values(moved, format=format, groups=GROUPS, base=held, step=2.0, residual=residual)
        held, residual = encoded.values, encoded.residual
    travelled, meant = held - base, 40 * (target - base)
    assert np.linalg.norm(travelled - meant) < 0.05 * np.linalg.norm(meant)


def test_without_its_residual_a_coarse_step_loses_the_small_values() -> None:
    base, moved = floats(0, 0), floats(1, 0.1)
    alone = encode_values(moved, format="uniform", groups=[2], base=base, step=2.0)
    assert alone.values[1] == 0
    assert alone.residual is not None
    assert alone.residual[1] == np.float32(0.1)


@pytest.mark.parametrize("format", UPDATES)
@settings(max_examples=30)
@given(new=hnp.arrays(np.float32, 8, elements=finite), old=hnp.arrays(np.float32, 8, elements=finite))
def test_variances_never_become_negative(format: ValueFormat, new: Floats, old: Floats) -> None:
    everywhere = np.ones(8, dtype=np.bool_)
    encoded = encode_values(np.abs(new), format=format, groups=[8], base=np.abs(old), step=2.0, relative=everywhere)
    assert (encoded.values >= 0).all()
    assert np.isfinite(encoded.values).all()


@pytest.mark.parametrize("format", ["fp32", "fp16", "bf16"])
@given(values=hnp.arrays(np.float32, st.integers(0, 30), elements=finite))
def test_values_come_back(format: ValueFormat, values: Floats) -> None:
    encoded = encode_values(values, format=format, groups=[values.size])
    assert np.isfinite(encoded.values).all()
    again = encode_values(encoded.values, format=format, groups=[values.size])
    assert again.values.tolist() == encoded.values.tolist()
    assert decode_values(again.coded, values.size, groups=[values.size]).tolist() == encoded.values.tolist()


@pytest.mark.parametrize("format", VALUE_FORMATS)
def test_no_values_cost_nothing(format: ValueFormat) -> None:
    empty = floats()
    encoded = encode_values(empty, format=format, groups=[], base=empty)
    assert encoded.coded.data == b""
    assert decode_values(encoded.coded, 0, groups=[], base=empty).size == 0


@pytest.mark.parametrize("format", VALUE_FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused(format: ValueFormat, value: float) -> None:
    with pytest.raises(PayloadError) as caught:
        encode_values(floats(1, value), format=format, groups=[2], base=floats(0, 0))
    assert caught.value.kind == "not_finite"


@pytest.mark.parametrize(
    ("codec", "data"),
    [(pb.CODEC_FLOAT32, "0000807f"), (pb.CODEC_FLOAT16, "007c"), (pb.CODEC_BFLOAT16, "c07f")],
)
def test_a_value_that_arrives_and_is_not_finite_is_refused(codec: pb.Codec, data: str) -> None:
    with pytest.raises(PayloadError) as caught:
        decode_values(Coded(codec, bytes.fromhex(data)), 1, groups=[1])
    assert caught.value.kind == "not_finite"


@pytest.mark.parametrize("format", VALUE_FORMATS)
def test_another_number_of_bytes_is_refused(format: ValueFormat) -> None:
    encoded = encode_values(normal(0), format=format, groups=GROUPS, base=normal(1))
    for data in (encoded.coded.data[:-1], encoded.coded.data + b"\1\1\1\1"):
        with pytest.raises(PayloadError):
            decode_values(Coded(encoded.coded.codec, data), 200, groups=GROUPS, base=normal(1))


@pytest.mark.parametrize("codec", [pb.CODEC_BITS, pb.CODEC_ORDERED16, pb.CODEC_UNSPECIFIED])
def test_a_codec_of_no_format_is_refused(codec: pb.Codec) -> None:
    with pytest.raises(PayloadError) as caught:
        decode_values(Coded(codec, bytes(4)), 1, groups=[1], base=floats(0))
    assert caught.value.kind == "mismatch"


@pytest.mark.parametrize("format", UPDATES)
def test_an_update_without_a_base_is_refused(format: ValueFormat) -> None:
    encoded = encode_values(normal(0), format=format, groups=GROUPS, base=normal(1))
    with pytest.raises(PayloadError) as caught:
        decode_values(encoded.coded, 200, groups=GROUPS)
    assert caught.value.kind == "mismatch"


def test_an_update_that_leads_beyond_float32_is_refused() -> None:
    encoded = encode_values(floats(3e38), format="int8", groups=[1], base=floats(2.5e38))
    with pytest.raises(PayloadError) as caught:
        decode_values(encoded.coded, 1, groups=[1], base=floats(3.4e38))
    assert caught.value.kind == "bounds"


def test_the_largest_residual_does_not_overflow() -> None:
    largest = float(np.finfo(np.float32).max)
    encoded = encode_values(
        floats(largest), format="int8", groups=[1], base=floats(0), residual=floats(largest), relative=None
    )
    assert encoded.residual is not None
    assert np.isfinite(encoded.residual).all()
