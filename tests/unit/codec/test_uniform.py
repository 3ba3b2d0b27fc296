"""Updates and versions as multiples of a step: what it costs, what it loses, and what error feedback brings back."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import Floats
from hedgerow.codec.coded import Coded
from hedgerow.codec.integers import encode_integers
from hedgerow.codec.uniform import (
    decode_multiples,
    decode_update,
    encode_multiples,
    encode_update,
    multiples_of,
    values_of,
)
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

ZEROS = np.zeros(4, dtype=np.int32)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
GROUPS = [108] * 33 + [116]
"""3,680 values in 34 tensors."""


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def normal(seed: int = 0, groups: list[int] = GROUPS) -> Floats:
    """Normal values, of another size in each tensor."""
    generator = np.random.default_rng(seed)
    sizes = np.repeat(10.0 ** generator.uniform(-6, 1, len(groups)), groups)
    return (sizes * generator.standard_normal(sum(groups))).astype(np.float32)


def cosine(a: Floats, b: Floats) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def entropy_of_integers(update: Floats, reconstruction: Floats, groups: list[int]) -> float:
    """Order-0 entropy in bytes of the multiples that `reconstruction` consists of."""
    ends = np.cumsum([0, *groups])
    multiples = []
    for a, b in pairwise(ends):
        part = np.abs(reconstruction[a:b])
        multiples.append(np.rint(reconstruction[a:b] / part[part > 0].min()))
    _, counts = np.unique(np.concatenate(multiples), return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def test_a_step_is_the_root_mean_square_to_two_bits_of_fraction() -> None:
    # sqrt((16 + 16 + 9) / 3) = 3.70 is between the steps 3.5 and 4, nearer to 3.5.
    coded, reconstruction = encode_update(floats(4, -4, 3), groups=[3], step=1.0)
    assert reconstruction.tolist() == [3.5, -3.5, 3.5]
    # The upper 11 bits of binary32 3.5 = 0x40600000 are 515; code 1 is 2**-40, whose upper 11 bits are 348.
    assert coded.data[0] == 515 - 347


def test_each_tensor_has_its_own_step() -> None:
    _, reconstruction = encode_update(floats(1024, -1024, 0.5, 0.5, 0.5, -0.5), groups=[2, 4], step=1.0)
    assert reconstruction.tolist() == [1024, -1024, 0.5, 0.5, 0.5, -0.5]


def test_a_smaller_step_is_finer() -> None:
    _, reconstruction = encode_update(floats(1.0, 0.3), groups=[2], step=0.1)
    # The root mean square is 0.738, and a tenth of it is nearest to 0.078125 of the steps 0.0625, 0.078125.
    assert reconstruction.tolist() == [13 * 0.078125, 4 * 0.078125]


def test_a_tensor_without_an_update_costs_one_byte() -> None:
    lone, _ = encode_update(floats(1, -1), groups=[2], step=1.0)
    beside, reconstruction = encode_update(floats(1, -1, *[0] * 100), groups=[2, 100], step=1.0)
    assert len(beside.data) == len(lone.data) + 1
    assert beside.data[1] == 0
    assert reconstruction.tolist() == [1, -1] + [0] * 100


def test_no_update_at_all_costs_nothing() -> None:
    coded, reconstruction = encode_update(np.zeros(5, dtype=np.float32), groups=[2, 3], step=1.0)
    assert coded.data == b""
    assert reconstruction.tolist() == [0] * 5
    assert decode_update(coded, 5, groups=[2, 3]).tolist() == [0] * 5


@pytest.mark.parametrize(("step", "least"), [(0.5, 0.985), (1.0, 0.955), (2.0, 0.85)])
def test_normal_updates_come_within_five_per_cent_of_their_entropy(step: float, least: float) -> None:
    groups = GROUPS
    update = np.random.default_rng(0).standard_normal(3680).astype(np.float32)
    coded, reconstruction = encode_update(update, groups=groups, step=step)
    entropy = entropy_of_integers(update, reconstruction, groups)
    assert coded.entropy <= 1.01 * entropy
    assert len(coded.data) <= 1.05 * entropy + 2 * len(groups)
    assert cosine(update, reconstruction) > least


def test_tensors_of_different_sizes_cost_the_same() -> None:
    same = np.random.default_rng(0).standard_normal(3680).astype(np.float32)
    one, _ = encode_update(same, groups=GROUPS, step=1.0)
    other, _ = encode_update(normal(), groups=GROUPS, step=1.0)
    assert len(other.data) == pytest.approx(len(one.data), rel=0.05)


def test_error_feedback_sums_to_the_truth() -> None:
    groups, residual = [40, 60], np.zeros(100, dtype=np.float32)
    truth, sent = np.zeros(100), np.zeros(100)
    for round in range(100):
        update = normal(round, groups) + np.float32(0.001)
        truth += update
        _, reconstruction = encode_update(update + residual, groups=groups, step=2.0)
        residual = update + residual - reconstruction
        sent += reconstruction
    assert np.abs(residual).max() > 0
    assert np.allclose(sent + residual, truth, rtol=1e-4, atol=1e-4)
    ends = (slice(0, 40), slice(40, 100))
    for part in ends:
        # What is left is about a step of one round, and does not grow with the rounds.
        assert np.linalg.norm(residual[part]) < 0.2 * np.linalg.norm(truth[part])


@settings(max_examples=60)
@given(
    hnp.arrays(np.float32, st.integers(0, 60), elements=finite), st.integers(0, 60), st.sampled_from([0.03, 0.5, 1, 3])
)
def test_both_ends_get_the_same_bits(update: Floats, cut: int, step: float) -> None:
    groups = [min(cut, update.size), 0, update.size - min(cut, update.size)]
    coded, reconstruction = encode_update(update, groups=groups, step=step)
    assert np.isfinite(reconstruction).all()
    assert decode_update(coded, update.size, groups=groups).tobytes() == reconstruction.tobytes()


@settings(max_examples=60)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1000, 1000, width=32)))
def test_an_error_is_at_most_half_a_step(update: Floats) -> None:
    _, reconstruction = encode_update(update, groups=[update.size], step=0.5)
    root = float(np.sqrt(np.mean(update.astype(np.float64) ** 2)))
    # Rounding the step takes it up by at most an eighth, and steps start at 2**-40.
    assert np.abs(reconstruction - update).max() <= max(0.5 * root * 1.13, 2.0**-40) / 2 * 1.0001


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(PayloadError) as caught:
        encode_update(floats(1, value), groups=[2], step=1.0)
    assert caught.value.kind == "not_finite"


@pytest.mark.parametrize("step", [1.0, 4.0])
def test_the_largest_update_stays_finite(step: float) -> None:
    largest = float(np.finfo(np.float32).max)
    coded, reconstruction = encode_update(floats(largest, -largest), groups=[2], step=step)
    assert np.isfinite(reconstruction).all()
    assert reconstruction[0] == -reconstruction[1] > 1e11
    assert decode_update(coded, 2, groups=[2]).tolist() == reconstruction.tolist()


def test_fewer_bytes_than_steps_are_refused() -> None:
    with pytest.raises(PayloadError, match="steps of 3 tensors"):
        decode_update(Coded(pb.CODEC_UNIFORM, bytes(2)), 3, groups=[1, 1, 1])


def test_another_codec_is_refused() -> None:
    with pytest.raises(PayloadError, match="codec 2"):
        decode_update(Coded(pb.CODEC_FLOAT32, b""), 0, groups=[])


def test_every_cut_is_refused() -> None:
    groups = [50, 50]
    coded, _ = encode_update(normal(groups=groups), groups=groups, step=0.05)
    for length in range(1, len(coded.data)):
        with pytest.raises(PayloadError):
            decode_update(Coded(coded.codec, coded.data[:length]), 100, groups=groups)


@settings(max_examples=200)
@given(st.data())
def test_mutants_are_finite_values_or_refused(data: st.DataObject) -> None:
    groups = [30, 0, 34]
    coded, _ = encode_update(normal(groups=groups), groups=groups, step=data.draw(st.sampled_from([0.01, 1.0])))
    mutant = bytearray(coded.data)
    for _ in range(data.draw(st.integers(1, 3))):
        mutant[data.draw(st.integers(0, len(mutant) - 1))] = data.draw(st.integers(0, 255))
    try:
        values = decode_update(Coded(coded.codec, bytes(mutant)), 64, groups=groups)
    except PayloadError:
        return
    assert values.size == 64
    assert np.isfinite(values).all()


def test_a_multiple_is_the_code_of_a_step_above_an_integer() -> None:
    # As above: the step is 3.5, whose upper 11 bits are 515. -1 has all 16 bits.
    multiples = multiples_of(floats(4, -4, 3, 0), groups=[3, 1], step=1.0)
    assert multiples.tolist() == [168 << 16 | 1, 168 << 16 | 0xFFFF, 168 << 16 | 1, 0]
    assert values_of(multiples).tolist() == [3.5, -3.5, 3.5, 0]


def test_what_changed_by_no_step_takes_a_byte_a_tensor_and_a_few_more() -> None:
    values = normal()
    multiples = multiples_of(values, groups=GROUPS, step=0.25)
    whole = encode_multiples(multiples, groups=GROUPS)
    against = encode_multiples(multiples, groups=GROUPS, base=values)
    assert (whole.parameter, against.parameter) == (0, 1)
    assert len(whole.data) > 1700
    assert len(against.data) < len(GROUPS) + 10


def test_a_base_in_other_steps_is_rounded_to_those_of_the_version() -> None:
    # 7 and -7 are 2 steps of 3.5, 1.75 is half a step, which is even at 0, and 10.5 is 3.
    multiples = multiples_of(floats(4, -4, 3, 3), groups=[4], step=1.0)
    base = floats(7, -7, 1.75, 10.5)
    # What is sent is 1 - 2, -1 + 2, 1 - 0 and 1 - 3.
    section = Coded(
        pb.CODEC_UNIFORM, bytes([168]) + encode_integers(np.array([-1, 1, 1, -2], dtype=np.int16), scales=ZEROS)[0], 1
    )
    found = decode_multiples(section, 4, groups=[4], base=base)
    assert found.tolist() == multiples.tolist()
    assert decode_multiples(encode_multiples(multiples, groups=[4], base=base), 4, groups=[4], base=base).tolist() == (
        multiples.tolist()
    )


@settings(max_examples=60)
@given(
    hnp.arrays(np.float32, st.integers(0, 60), elements=finite),
    st.integers(0, 60),
    st.sampled_from([0.03, 0.5, 1, 3]),
    st.integers(0, 2**32 - 1),
)
def test_a_version_is_the_same_whatever_it_is_told_against(values: Floats, cut: int, step: float, seed: int) -> None:
    groups = [min(cut, values.size), 0, values.size - min(cut, values.size)]
    multiples = multiples_of(values, groups=groups, step=step)
    random = np.random.default_rng(seed)
    far = random.choice(np.array([0, 1, -1e30, 3e38], dtype=np.float32), values.size)
    for base in (None, values, far):
        coded = encode_multiples(multiples, groups=groups, base=base)
        assert decode_multiples(coded, values.size, groups=groups, base=base).tobytes() == multiples.tobytes()


def test_a_version_against_a_base_is_refused_without_it_and_as_an_update() -> None:
    values = normal()
    coded = encode_multiples(multiples_of(values, groups=GROUPS, step=0.25), groups=GROUPS, base=values)
    for read in (decode_multiples, decode_update):
        with pytest.raises(PayloadError, match="does not hold") as caught:
            read(coded, values.size, groups=GROUPS)
        assert caught.value.kind == "mismatch"


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(PayloadError, match="unknown layout 2") as caught:
        decode_multiples(Coded(pb.CODEC_UNIFORM, b"", 2), 1, groups=[1], base=floats(1))
    assert caught.value.kind == "bounds"
