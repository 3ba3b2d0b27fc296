"""Half precision as ordered integers, and versions of them whole and against one another."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import Floats
from hedgerow.codec.coded import Coded
from hedgerow.codec.ordered import (
    HalfKind,
    Int16,
    decode_halves,
    decode_ordered,
    encode_halves,
    encode_ordered,
    from_ordered,
    to_ordered,
)
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
KINDS: tuple[HalfKind, ...] = ("fp16", "bf16")
LARGEST: dict[HalfKind, int] = {"fp16": 0x7BFF, "bf16": 0x7F7F}
GROUPS = [64, 64, 64, 128, 128, 128, 256, 256, 10]


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def network(seed: int = 0) -> Floats:
    """Values of a network that is never pruned: scales around 1, biases around 0, in turn."""
    generator = np.random.default_rng(seed)
    parts = [generator.normal(i % 2, 0.1, n) for i, n in enumerate(GROUPS)]
    return np.concatenate(parts).astype(np.float32)


def integers_of(kind: HalfKind, size: int | st.SearchStrategy[int] = 64) -> st.SearchStrategy[Int16]:
    return hnp.arrays(np.int16, size, elements=st.integers(-LARGEST[kind], LARGEST[kind]))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, 0),
        (-0.0, 0),
        (1.0, 0x3C00),
        (-1.0, -0x3C00),
        (2.0**-24, 1),  # the smallest subnormal
        (-(2.0**-24), -1),
        (2.0**-25, 0),  # a tie, to the even 0
        (2049.0, 0x6800),  # a tie between 2048 and 2050, to the even one
        (65504.0, 0x7BFF),
        (1e6, 0x7BFF),
        (-3e38, -0x7BFF),
    ],
)
def test_binary16_as_integers(value: float, expected: int) -> None:
    assert to_ordered(floats(value), kind="fp16").tolist() == [expected]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, 0),
        (-0.0, 0),
        (1.0, 0x3F80),
        (-1.0, -0x3F80),
        (1 + 2.0**-8, 0x3F80),  # ties, to the even ones
        (1 + 3 * 2.0**-8, 0x3F82),
        (1 + 2.0**-8 + 2.0**-20, 0x3F81),
        (2.0**-133, 1),  # the smallest subnormal
        (1e-45, 0),
        (float(np.finfo(np.float32).max), 0x7F7F),
        (-float(np.finfo(np.float32).max), -0x7F7F),
    ],
)
def test_bfloat16_as_integers(value: float, expected: int) -> None:
    assert to_ordered(floats(value), kind="bf16").tolist() == [expected]


@pytest.mark.parametrize("kind", KINDS)
def test_every_integer_of_a_finite_value_comes_back(kind: HalfKind) -> None:
    integers = np.arange(-LARGEST[kind], LARGEST[kind] + 1).astype(np.int16)
    values = from_ordered(integers, kind=kind)
    assert (to_ordered(values, kind=kind) == integers).all()
    # Strictly: the order of the integers is the order of the values.
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beyond", [1, 100])
def test_an_integer_of_no_finite_value_is_refused(kind: HalfKind, beyond: int) -> None:
    for integer in (LARGEST[kind] + beyond, -LARGEST[kind] - beyond, -(2**15)):
        with pytest.raises(PayloadError) as caught:
            from_ordered(np.array([integer], dtype=np.int16), kind=kind)
        assert caught.value.kind == "not_finite"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(kind: HalfKind, value: float) -> None:
    with pytest.raises(PayloadError) as caught:
        to_ordered(floats(1, value), kind=kind)
    assert caught.value.kind == "not_finite"


@given(hnp.arrays(np.float32, 20, elements=finite))
def test_bfloat16_rounds_as_torch_does(values: Floats) -> None:
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    beyond = ~np.isfinite(expected)
    mine = from_ordered(to_ordered(values, kind="bf16"), kind="bf16")
    assert (mine[~beyond] == expected[~beyond]).all()
    assert np.isfinite(mine).all()


@pytest.mark.parametrize("kind", KINDS)
@given(values=hnp.arrays(np.float32, 20, elements=finite))
def test_rounding_keeps_the_order(kind: HalfKind, values: Floats) -> None:
    integers = to_ordered(np.sort(values), kind=kind).astype(np.int32)
    assert (np.diff(integers) >= 0).all()


def test_halves_are_little_endian() -> None:
    integers = to_ordered(floats(1, -2.5), kind="fp16")
    coded = encode_halves(integers, kind="fp16")
    assert (coded.codec, coded.data.hex()) == (pb.CODEC_FLOAT16, "003c" + "00c1")
    assert (decode_halves(coded, 2, kind="fp16") == integers).all()
    assert encode_halves(to_ordered(floats(1), kind="bf16"), kind="bf16").data.hex() == "803f"


def test_a_negative_zero_that_arrives_is_zero() -> None:
    coded = Coded(pb.CODEC_FLOAT16, bytes.fromhex("0080"))
    assert decode_halves(coded, 1, kind="fp16").tolist() == [0]


@pytest.mark.parametrize(("data", "kind"), [("00", "malformed"), ("007c", "not_finite"), ("00fe", "not_finite")])
def test_damaged_halves_are_refused(data: str, kind: str) -> None:
    with pytest.raises(PayloadError) as caught:
        decode_halves(Coded(pb.CODEC_FLOAT16, bytes.fromhex(data)), 1, kind="fp16")
    assert caught.value.kind == kind


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_versions_come_back(kind: HalfKind, data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 40), max_size=5))
    version = data.draw(integers_of(kind, sum(groups)))
    base = data.draw(st.none() | integers_of(kind, sum(groups)))
    coded = encode_ordered(version, kind=kind, base=base, groups=groups)
    assert (decode_ordered(coded, version.size, kind=kind, base=base, groups=groups) == version).all()


@pytest.mark.parametrize("kind", KINDS)
def test_large_differences_wrap_around_and_come_back(kind: HalfKind) -> None:
    base = np.tile(np.array([LARGEST[kind], -LARGEST[kind]], dtype=np.int16), 300)
    version = base.copy()
    version[::50] = -base[::50]
    coded = encode_ordered(version, kind=kind, base=base, groups=[600])
    assert (coded.codec, coded.parameter) == ((pb.CODEC_ORDERED16, pb.CODEC_ORDERED_BFLOAT16)[kind == "bf16"], 0)
    assert (decode_ordered(coded, 600, kind=kind, base=base, groups=[600]) == version).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_version_costs_nothing(kind: HalfKind) -> None:
    version = to_ordered(network(), kind=kind)
    coded = encode_ordered(version, kind=kind, base=version, groups=GROUPS)
    assert coded.data == b""


def test_a_tensor_that_stays_costs_half_a_byte() -> None:
    base = to_ordered(network(), kind="bf16")
    version = base.copy()
    version[:64] += np.tile(np.array([1, -1], dtype=np.int16), 32)
    coded = encode_ordered(version, kind="bf16", base=base, groups=GROUPS)
    # One bit a value in the first tensor, the lowest scale, 9 scales, and little else.
    assert len(coded.data) <= 8 + 1 + 5 + 10
    # The first half byte is above 0, the others 0.
    assert coded.data[1] >> 4 == 1
    assert coded.data[1] & 15 == 0
    assert not any(coded.data[2:6])


@pytest.mark.parametrize(("kind", "share", "bits"), [("fp16", 0.01, 6.8), ("bf16", 0.01, 4.0), ("bf16", 0.05, 6.1)])
def test_a_drift_costs_what_its_entropy_says(kind: HalfKind, share: float, bits: float) -> None:
    before = network()
    after = before + (share * np.random.default_rng(1).standard_normal(before.size)).astype(np.float32) * np.float32(
        0.3
    )
    base, version = to_ordered(before, kind=kind), to_ordered(after, kind=kind)
    coded = encode_ordered(version, kind=kind, base=base, groups=GROUPS)
    assert coded.parameter == 0
    assert 8 * len(coded.data) / before.size < bits
    # The lowest scale, 9 scales, and tables of a few contexts.
    assert len(coded.data) <= 1.05 * coded.entropy + 1 + 5 + 12


def test_tensors_that_moved_differently_cost_no_more_than_each_alone() -> None:
    before, generator = np.ones(4000, dtype=np.float32), np.random.default_rng(0)
    sizes = np.repeat(2.0 ** np.array([-10, -8, -6, -4]), 1000)
    after = (before + sizes * generator.standard_normal(4000)).astype(np.float32)
    base, version = to_ordered(before, kind="fp16"), to_ordered(after, kind="fp16")
    together = encode_ordered(version, kind="fp16", base=base, groups=[1000] * 4)
    alone = 0
    for start in range(0, 4000, 1000):
        part = slice(start, start + 1000)
        alone += len(encode_ordered(version[part], kind="fp16", base=base[part], groups=[1000]).data)
    assert len(together.data) <= 1.01 * alone


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_version_is_smaller_than_its_halves(kind: HalfKind) -> None:
    version = to_ordered(network(), kind=kind)
    coded = encode_ordered(version, kind=kind, base=None, groups=GROUPS)
    assert coded.parameter == 1
    assert len(coded.data) < 0.9 * 2 * version.size
    assert len(coded.data) <= 1.05 * coded.entropy + 2 * len(GROUPS) + 1 + 5


def test_what_has_no_pattern_travels_raw() -> None:
    noise = np.random.default_rng(0).integers(-0x7BFF, 0x7BFF, 2000).astype(np.int16)
    coded = encode_ordered(noise, kind="fp16", base=noise[::-1].copy(), groups=[2000])
    assert coded.codec == pb.CODEC_FLOAT16
    assert (decode_ordered(coded, 2000, kind="fp16", base=None, groups=[2000]) == noise).all()


def test_a_difference_without_a_base_is_refused() -> None:
    base = to_ordered(network(), kind="bf16")
    coded = encode_ordered(base, kind="bf16", base=base, groups=GROUPS)
    with pytest.raises(PayloadError, match="does not hold") as caught:
        decode_ordered(coded, base.size, kind="bf16", base=None, groups=GROUPS)
    assert caught.value.kind == "mismatch"


@pytest.mark.parametrize("codec", [pb.CODEC_ORDERED16, pb.CODEC_FLOAT16, pb.CODEC_FLOAT32, pb.CODEC_UNSPECIFIED])
def test_a_version_of_another_kind_is_refused(codec: pb.Codec) -> None:
    base = to_ordered(network(), kind="bf16")
    with pytest.raises(PayloadError, match=f"codec {int(codec)}"):
        decode_ordered(Coded(codec, b""), base.size, kind="bf16", base=base, groups=GROUPS)


@pytest.mark.parametrize(
    ("data", "parameter", "kind"),
    [
        ("", 2, "bounds"),
        ("00", 1, "malformed"),  # medians of two tensors take 4 bytes
        ("00", 0, "malformed"),  # scales of two tensors take 2 bytes
        ("0000", 0, "malformed"),  # no values at all
        ("ff7f0000", 1, "not_finite"),
    ],
)
def test_damaged_versions_are_refused(data: str, parameter: int, kind: str) -> None:
    base = np.zeros(4, dtype=np.int16)
    coded = Coded(pb.CODEC_ORDERED16, bytes.fromhex(data), parameter)
    with pytest.raises(PayloadError) as caught:
        decode_ordered(coded, 4, kind="fp16", base=base, groups=[2, 2])
    assert caught.value.kind == kind


def test_padding_after_the_scales_has_to_be_zero() -> None:
    base = np.zeros(3, dtype=np.int16)
    with pytest.raises(PayloadError, match="padding"):
        decode_ordered(Coded(pb.CODEC_ORDERED16, bytes.fromhex("0001")), 3, kind="fp16", base=base, groups=[3])


def test_a_difference_that_leads_beyond_the_largest_is_refused() -> None:
    base = to_ordered(network(), kind="fp16")
    base[0] = 0x7BFF - 1
    version = base.copy()
    version[0] += 1
    coded = encode_ordered(version, kind="fp16", base=base, groups=GROUPS)
    assert coded.parameter == 0
    with pytest.raises(PayloadError) as caught:
        decode_ordered(coded, base.size, kind="fp16", base=version, groups=GROUPS)
    assert caught.value.kind == "not_finite"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150)
@given(data=st.data())
def test_mutants_are_finite_versions_or_refused(kind: HalfKind, data: st.DataObject) -> None:
    groups, seed = [40, 0, 25], data.draw(st.integers(0, 3))
    values = np.random.default_rng(seed).normal(0, 1, 65).astype(np.float32)
    base = to_ordered(values, kind=kind)
    version = to_ordered(values * np.float32(1.01), kind=kind)
    coded = encode_ordered(version, kind=kind, base=data.draw(st.sampled_from([base, None])), groups=groups)
    mutant = bytearray(coded.data)
    for _ in range(data.draw(st.integers(1, 3))):
        mutant[data.draw(st.integers(0, len(mutant) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode_ordered(
            Coded(coded.codec, bytes(mutant), coded.parameter), 65, kind=kind, base=base, groups=groups
        )
    except PayloadError:
        return
    assert read.shape == (65,)
    assert np.isfinite(from_ordered(read, kind=kind)).all()
