"""Arrays as people keep them become (N, C, H, W); the split is the same each time; statistics are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.data.arrays import channel_statistics, from_arrays, split_arrays, stratified_split
from hedgerow.data.dataset import Dataset
from hedgerow.errors import DataError

LABELS = np.array([0, 1, 2, 1])


def both(images: Any, *, labels: Any = LABELS, **options: Any) -> Dataset:
    return from_arrays("mine", train=(images, labels), test=(images, labels), **options)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 28, 20), (1, 28, 20)),
        ((4, 32, 30, 3), (3, 32, 30)),
        ((4, 3, 32, 30), (3, 32, 30)),
        ((4, 28, 28, 1), (1, 28, 28)),
        ((4, 2, 9, 9), (2, 9, 9)),
        ((4, 3, 5, 3), (3, 5, 3)),  # as many in the second and the last axis: the second is C
    ],
)
def test_the_layout_is_read_from_the_shape(shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    assert both(np.zeros(shape, np.uint8)).input_shape == expected


def test_the_channels_of_an_nhwc_image_stay_together() -> None:
    images = np.zeros((4, 6, 6, 3), np.uint8)
    images[..., 1] = 7
    images[:, 2, 5, 0] = 9
    data = both(images)
    assert (data.train.images[:, 1] == 7).all()
    assert (data.train.images[:, 0, 2, 5] == 9).all()
    assert data.train.images.flags.c_contiguous


def test_doubles_become_floats_and_are_taken_as_they_are() -> None:
    data = both(np.full((4, 8, 8), 300.0))
    assert data.train.images.dtype == np.float32
    assert (data.mean, data.std) == ((0.0,), (1.0,))
    assert (data.train.images == 300).all()


@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_a_double_that_no_float_can_hold_is_refused(value: float) -> None:
    with pytest.raises(DataError, match="mine, training split: images hold NaN or infinity"):
        both(np.full((4, 8, 8), value))


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.complex64, np.object_])
def test_images_of_another_dtype_are_refused(dtype: Any) -> None:
    with pytest.raises(DataError, match=r"mine, training split: images are .*; give uint8"):
        both(np.zeros((4, 8, 8), dtype))


@pytest.mark.parametrize("labels", [LABELS.astype(float), LABELS.reshape(2, 2), np.array(["a", "b", "a", "b"])])
def test_labels_that_are_not_one_integer_an_image_are_refused(labels: Any) -> None:
    with pytest.raises(DataError, match="mine, training split: labels are"):
        both(np.zeros((4, 8, 8), np.uint8), labels=labels)


def test_labels_of_any_integer_type_and_of_shape_n_1_are_taken() -> None:
    data = both(np.zeros((4, 8, 8), np.uint8), labels=LABELS.astype(np.uint8)[:, None])
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert data.train.labels.dtype == np.int64
    assert data.classes == 3


def test_the_arguments_of_the_caller_are_left_alone() -> None:
    images = np.arange(4 * 8 * 8, dtype=np.float64).reshape(4, 8, 8)
    before = images.copy()
    both(images)
    np.testing.assert_array_equal(images, before)


def test_statistics_of_bytes_by_hand() -> None:
    images = np.zeros((2, 2, 1, 2), np.uint8)
    images[0, 0] = 255  # half of channel 0 is 1, the other half 0; channel 1 is constant
    assert channel_statistics(images) == ((0.5, 0.0), (0.5, 1.0))


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))))
def test_statistics_of_bytes_are_those_of_numpy(images: npt.NDArray[np.uint8]) -> None:
    mean, std = channel_statistics(images)
    scaled = images / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), atol=1e-12)
    expected = scaled.std(axis=(0, 2, 3))
    np.testing.assert_allclose(std, np.where(expected > 1e-9, expected, 1), atol=1e-9)


def test_statistics_count_every_block_of_a_large_set() -> None:
    images = np.zeros((3000, 1, 1, 1), np.uint8)
    images[2000:] = 255
    mean, _ = channel_statistics(images)
    assert mean == pytest.approx((1 / 3,))


@given(hnp.arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 6)))
def test_a_fifth_of_each_class_is_for_testing_and_nothing_is_lost(labels: npt.NDArray[np.int64]) -> None:
    train, test = stratified_split(labels)
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert list(train) == sorted(train)
    for label in np.unique(labels):
        members, tested = int((labels == label).sum()), int((labels[test] == label).sum())
        assert tested == (max(1, round(members / 5)) if members > 1 else 0)
    again = stratified_split(labels)
    np.testing.assert_array_equal(test, again[1])


def test_data_that_nobody_has_split_keeps_images_and_labels_together() -> None:
    labels = np.repeat(np.arange(4), 10)
    images = np.broadcast_to(labels[:, None, None], (40, 8, 8)).astype(np.uint8)
    data = split_arrays("mine", images=images, labels=labels)
    assert (len(data.train), len(data.test)) == (32, 8)
    for split in (data.train, data.test):
        assert (split.images[:, 0, 0, 0] == split.labels).all()


@pytest.mark.parametrize("count", [3, 5])
def test_more_or_fewer_images_than_labels_cannot_be_split(count: int) -> None:
    with pytest.raises(DataError, match=f"mine: {count} images come with 4 labels"):
        split_arrays("mine", images=np.zeros((count, 8, 8), np.uint8), labels=LABELS)


@pytest.mark.parametrize("labels", [[0, 1], []])
def test_classes_of_one_sample_cannot_be_split(labels: list[int]) -> None:
    with pytest.raises(DataError, match="no class has 2 samples"):
        split_arrays("mine", images=np.zeros((len(labels), 8, 8), np.uint8), labels=np.array(labels, np.int64))
