"""Differences, and differences of logarithms for variances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import Bits, Floats
from hedgerow.codec.updates import applied, update_of
from hedgerow.errors import PayloadError

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
variances = st.floats(0, width=32, allow_nan=False, allow_infinity=False)


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def everywhere(size: int) -> Bits:
    return np.ones(size, dtype=np.bool_)


def test_an_update_is_a_difference() -> None:
    assert update_of(floats(3, -1), floats(1, 1)).tolist() == [2.0, -2.0]
    assert applied(floats(1, 1), floats(2, -2)).tolist() == [3.0, -1.0]


def test_the_update_of_a_variance_is_a_difference_of_logarithms() -> None:
    update = update_of(floats(2, 0.01, 8), floats(1, 0.01, 1), relative=everywhere(3))
    assert update == pytest.approx([np.log(2), 0, np.log(8)])
    assert applied(floats(1, 0.01, 1), update, relative=everywhere(3)) == pytest.approx([2, 0.01, 8])


def test_each_value_has_its_own_domain() -> None:
    relative = np.array([True, False])
    update = update_of(floats(4, 4), floats(1, 1), relative=relative)
    assert update == pytest.approx([np.log(4), 3])
    assert applied(floats(1, 1), update, relative=relative) == pytest.approx([4, 4])


def test_a_variance_of_zero_is_taken_for_the_floor() -> None:
    update = update_of(floats(1, 0), floats(0, 1), relative=everywhere(2))
    assert update == pytest.approx([12 * np.log(10), -12 * np.log(10)])
    assert applied(floats(0, 1), update, relative=everywhere(2)) == pytest.approx([1, 1e-12])


def test_a_variance_whose_update_is_zero_stays_to_the_bit() -> None:
    old = floats(0, 1e-30, 0.3)
    assert applied(old, floats(0, 0, 0), relative=everywhere(3)).tolist() == old.tolist()


def test_a_sum_beyond_float32_is_refused() -> None:
    with pytest.raises(PayloadError, match="largest float32") as caught:
        applied(floats(3e38), floats(3e38))
    assert caught.value.kind == "bounds"


@given(hnp.arrays(np.float32, 6, elements=variances), hnp.arrays(np.float32, 6, elements=finite))
def test_a_variance_stays_finite_and_is_never_negative_whatever_arrives(old: Floats, update: Floats) -> None:
    new = applied(old, update, relative=everywhere(6))
    assert np.isfinite(new).all()
    assert (new >= 0).all()


@given(hnp.arrays(np.float32, 6, elements=variances), hnp.arrays(np.float32, 6, elements=variances))
def test_variances_come_back(new: Floats, old: Floats) -> None:
    back = applied(old, update_of(new, old, relative=everywhere(6)), relative=everywhere(6))
    # The update is rounded to 2**-24 of at most 117, and a value below the floor to it.
    assert np.allclose(back, np.where(new == old, new, np.maximum(new, 1e-12)), rtol=2e-5, atol=1.01e-12)


def test_a_difference_beyond_float32_becomes_the_largest() -> None:
    largest = float(np.finfo(np.float32).max)
    assert update_of(floats(largest, -largest), floats(-largest, largest)).tolist() == [largest, -largest]


@given(hnp.arrays(np.float32, 6, elements=finite), hnp.arrays(np.float32, 6, elements=finite))
def test_any_two_values_have_a_finite_update(new: Floats, old: Floats) -> None:
    assert np.isfinite(update_of(new, old)).all()


def test_arguments_stay_what_they_were() -> None:
    old, update = floats(1, 2), floats(1, 1)
    applied(old, update, relative=np.array([True, False]))
    update_of(old, update, relative=np.array([True, False]))
    assert old.tolist() == [1, 2]
    assert update.tolist() == [1, 1]
