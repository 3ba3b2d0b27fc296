"""From arrays as people keep them to a `Dataset`: layouts, dtypes, the split, and the statistics of the channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hedgerow.data.dataset import Dataset, Images, Labels, Samples
from hedgerow.errors import DataError

__all__ = ["channel_statistics", "from_arrays", "split_arrays", "stratified_split"]

_TEST_FRACTION = 0.2
_SPLIT_SEED = 1797  # any fixed number: a split must not depend on the seed of an experiment


def from_arrays(
    name: str,
    *,
    train: tuple[npt.ArrayLike, npt.ArrayLike],
    test: tuple[npt.ArrayLike, npt.ArrayLike],
    classes: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Dataset:
    """Make a data set of (images, labels) pairs.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float of any width (kept as float32). With four axes,
    the smaller of the second and the last is C, and the second where they are equal; the training images decide for
    both splits. Labels are integers, (N,) or (N, 1).

    Args:
        name: what errors and reports call it.
        train: images and labels.
        test: images and labels.
        classes: number of classes; by default the largest label + 1.
        mean: a value a channel; by default that of the training images where they are uint8, else 0.
        std: a value a channel; by default that of the training images where they are uint8, else 1.

    Raises:
        DataError: the arrays cannot be read that way; the message names the split.

    >>> pixels = np.zeros((6, 28, 28, 3), np.uint8)
    >>> labels = np.array([0, 1, 2, 0, 1, 2])
    >>> data = from_arrays("tiny", train=(pixels, labels), test=(pixels, labels))
    >>> data.input_shape, data.classes
    ((3, 28, 28), 3)
    """
    train_images, test_images = np.asarray(train[0]), np.asarray(test[0])
    channels_last = _is_channels_last(train_images.shape)
    splits = [
        _samples(images, np.asarray(labels), channels_last=channels_last, where=f"{name}, {split} split")
        for split, images, labels in (("training", train_images, train[1]), ("test", test_images, test[1]))
    ]
    default_mean, default_std = channel_statistics(splits[0].images)
    return Dataset(
        name,
        train=splits[0],
        test=splits[1],
        classes=classes if classes is not None else 1 + max(int(split.labels.max()) for split in splits),
        mean=mean if mean is not None else default_mean,
        std=std if std is not None else default_std,
    )


def split_arrays(name: str, *, images: npt.ArrayLike, labels: npt.ArrayLike) -> Dataset:
    """Like `from_arrays`, for data that nobody has split: `stratified_split` does, always in the same way."""
    all_images = np.asarray(images)
    all_labels = _as_labels(np.asarray(labels), where=name)
    if len(all_images) != len(all_labels):
        raise DataError(f"{name}: {len(all_images)} images come with {len(all_labels)} labels; give one an image")
    train, test = stratified_split(all_labels)
    if not len(test):
        raise DataError(f"{name}: no class has 2 samples, so no test split can be made; give more samples")
    return from_arrays(name, train=(all_images[train], all_labels[train]), test=(all_images[test], all_labels[test]))


def stratified_split(labels: Labels) -> tuple[Labels, Labels]:
    """Sorted indices of a training and a test split: a fifth of each class, rounded, is for testing.

    A class of 2 or more samples is in both splits; a single sample is for training. The same labels always give the
    same split.

    >>> train, test = stratified_split(np.array([0] * 10 + [1] * 5))
    >>> len(train), len(test)
    (12, 3)
    """
    rng = np.random.Generator(np.random.PCG64(_SPLIT_SEED))
    test: list[Labels] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = max(1, round(len(members) * _TEST_FRACTION)) if len(members) > 1 else 0
        test.append(members[:count])
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.concatenate(test) if test else []] = True
    return np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64)


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of uint8 images scaled to [0, 1]; 0 and 1 for float images.

    Exact up to the last division: the bytes are counted. A channel that is constant has std 1 here, so that dividing
    by it is harmless.

    Args:
        images: (N, C, H, W) uint8 or float32.

    >>> channel_statistics(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1))
    ((0.5,), (0.5,))
    """
    channels = images.shape[1]
    if images.dtype != np.uint8:
        return (0.0,) * channels, (1.0,) * channels
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(images), 1024):  # in pieces, because bincount makes int64 of its argument
        block = images[start : start + 1024]
        for channel in range(channels):
            counts[channel] += np.bincount(block[:, channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ levels
    std = np.sqrt(np.sum(weights * (levels - mean[:, None]) ** 2, axis=1))
    return tuple(mean.tolist()), tuple(np.where(std > 1e-12, std, 1.0).tolist())


def _samples(images: npt.NDArray[Any], labels: npt.NDArray[Any], *, channels_last: bool, where: str) -> Samples:
    if images.ndim not in (3, 4):
        raise DataError(f"{where}: images have the shape {images.shape}; give (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if images.ndim == 3:
        images = images[:, None]
    elif channels_last:
        images = np.moveaxis(images, -1, 1)
    numbers = _as_labels(labels, where=where)
    try:
        return Samples(_as_pixels(images), numbers)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _as_pixels(images: npt.NDArray[Any]) -> Images:
    if np.issubdtype(images.dtype, np.floating):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused by Samples
            images = images.astype(np.float32)
    return np.ascontiguousarray(images)


def _as_labels(labels: npt.NDArray[Any], *, where: str) -> Labels:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{where}: labels are {labels.dtype} of shape {labels.shape}; give integers of shape (N,)")
    return labels.astype(np.int64)


def _is_channels_last(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[3] < shape[1]
