"""`Samples` and `Dataset` refuse what no training could use, and normalise as the formula says."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.data import Dataset, Samples
from hedgerow.errors import DataError

LABELS = np.array([0, 1, 1])


def pixels(*shape: int) -> npt.NDArray[np.uint8]:
    return np.zeros(shape, np.uint8)


def dataset(train: Samples, *, test: Samples | None = None, **changes: Any) -> Dataset:
    channels = train.images.shape[1]
    fields: dict[str, Any] = {"classes": 2, "mean": (0.0,) * channels, "std": (1.0,) * channels} | changes
    return Dataset("tiny", train=train, test=train if test is None else test, **fields)


def test_a_data_set_knows_the_shape_of_its_images() -> None:
    assert dataset(Samples(pixels(3, 2, 5, 7), LABELS)).input_shape == (2, 5, 7)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (pixels(3, 8, 8), LABELS, r"must be \(N, C, H, W\)"),
        (pixels(4, 1, 8, 8), LABELS, "4 images come with labels of shape"),
        (pixels(3, 1, 8, 8), LABELS[:, None], "one label an image"),
        (pixels(3, 1, 8, 8).astype(np.float64), LABELS, "float64"),
        (pixels(3, 1, 8, 8), LABELS.astype(np.int32), "int32"),
        (pixels(0, 1, 8, 8), LABELS[:0], "empty"),
        (pixels(3, 1, 0, 8), LABELS, "empty"),
    ],
)
def test_samples_of_a_wrong_shape_or_dtype_are_refused(images: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Samples(images, labels)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_float_that_is_not_finite_is_refused(value: float) -> None:
    images = np.zeros((3, 1, 8, 8), np.float32)
    images[1, 0, 3, 4] = value
    with pytest.raises(DataError, match="NaN or infinity"):
        Samples(images, LABELS)


@pytest.mark.parametrize("labels", [np.array([0, 1, 2]), np.array([0, -1, 1])])
def test_a_label_outside_the_classes_is_refused_with_the_name_of_its_split(labels: npt.NDArray[np.int64]) -> None:
    good, bad = Samples(pixels(3, 1, 8, 8), LABELS), Samples(pixels(3, 1, 8, 8), labels)
    with pytest.raises(DataError, match="tiny: training labels go from"):
        dataset(bad, test=good)
    with pytest.raises(DataError, match="tiny: test labels go from"):
        dataset(good, test=bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 0}, "at least 1"),
        ({"class_names": ("a", "a")}, "one name each"),
        ({"mean": (0.5, 0.5)}, "do not fit 1 channels"),
        ({"std": ()}, "do not fit 1 channels"),
        ({"std": (0.0,)}, "std above 0"),
        ({"mean": (float("nan"),)}, "must be finite"),
    ],
)
def test_classes_and_statistics_must_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(Samples(pixels(3, 1, 8, 8), LABELS), **changes)


def test_both_splits_must_be_of_one_shape_and_one_dtype() -> None:
    train = Samples(pixels(3, 1, 8, 8), LABELS)
    with pytest.raises(DataError, match="one shape"):
        dataset(train, test=Samples(pixels(3, 1, 8, 9), LABELS))
    with pytest.raises(DataError, match="one dtype"):
        dataset(train, test=Samples(np.zeros((3, 1, 8, 8), np.float32), LABELS))


def test_bytes_are_scaled_and_normalised_channel_by_channel() -> None:
    images = np.zeros((3, 2, 1, 1), np.uint8)
    images[:, 0], images[:, 1] = 255, 51
    data = dataset(Samples(images, LABELS), mean=(0.5, 0.1), std=(0.25, 0.05))
    batch = data.normalised(images[:1])
    # (255/255 - 0.5) / 0.25 = 2 and (51/255 - 0.1) / 0.05 = 2
    torch.testing.assert_close(batch, torch.full((1, 2, 1, 1), 2.0))
    assert batch.dtype == torch.float32


def test_floats_are_not_scaled() -> None:
    images = np.full((3, 1, 1, 1), 200, np.float32)
    data = dataset(Samples(images, LABELS), mean=(100.0,), std=(50.0,))
    assert data.normalised(images).flatten().tolist() == [2.0, 2.0, 2.0]


@given(value=st.floats(-100, 100, width=32), dtype=st.sampled_from([np.uint8, np.float32]))
def test_normalising_leaves_the_images_as_they_are(value: float, dtype: Any) -> None:
    images = np.full((3, 1, 2, 2), abs(value), dtype)
    data = dataset(Samples(images, LABELS), mean=(0.3,), std=(0.5,))
    before = images.copy()
    data.normalised(images).add_(1)
    np.testing.assert_array_equal(images, before)


def test_read_only_and_strided_images_can_be_normalised() -> None:
    images = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4, 1).transpose(0, 3, 1, 2)
    images.flags.writeable = False
    batch = dataset(Samples(images, LABELS)).normalised(images)
    assert batch.is_contiguous()
    torch.testing.assert_close(batch.flatten(), torch.arange(48) / 255)


@pytest.mark.parametrize("images", [pixels(2, 1, 8, 9), np.zeros((2, 1, 8, 8))])
def test_a_batch_of_another_shape_or_dtype_is_not_normalised(images: Any) -> None:
    with pytest.raises(DataError, match="cannot normalise"):
        dataset(Samples(pixels(3, 1, 8, 8), LABELS)).normalised(images)
