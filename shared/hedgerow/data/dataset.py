"""What every data set is once it is loaded: two splits of images and labels in memory, and how to normalise them."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hedgerow.errors import DataError

__all__ = ["Dataset", "Images", "Labels", "Samples"]

Images: TypeAlias = npt.NDArray[np.uint8 | np.float32]
"""(N, C, H, W); uint8 from 0 to 255, or float32 that is used as it is."""

Labels: TypeAlias = npt.NDArray[np.int64]
"""(N,), each from 0 to classes - 1."""


@dataclass(frozen=True, slots=True, eq=False)  # eq=False: arrays have no single truth value
class Samples:
    """One split.

    Raises:
        DataError: no sample, a wrong shape or dtype, as many labels as images are not there, or a float that is not
            finite.
    """

    images: Images
    """(N, C, H, W) uint8 or float32."""
    labels: Labels
    """(N,) int64."""

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4:
            raise DataError(f"images have the shape {images.shape}; they must be (N, C, H, W)")
        if labels.shape != (len(images),):
            raise DataError(f"{len(images)} images come with labels of shape {labels.shape}; give one label an image")
        if images.dtype not in (np.uint8, np.float32):
            raise DataError(f"images are {images.dtype}; give uint8 from 0 to 255, or float32")
        if labels.dtype != np.int64:
            raise DataError(f"labels are {labels.dtype}; they must be int64")
        if images.size == 0:
            raise DataError(f"images have the shape {images.shape}, which is empty; give at least one image")
        if images.dtype == np.float32 and not _is_finite(images):
            raise DataError("images hold NaN or infinity; remove or replace those values")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A training and a test split of one shape.

    Raises:
        DataError: the splits differ in shape or dtype, a label is outside 0 to classes - 1, or `mean` and `std` do
            not fit the channels.

    >>> pixels = np.zeros((4, 1, 8, 8), np.uint8)
    >>> split = Samples(pixels, np.array([0, 1, 0, 1]))
    >>> Dataset("tiny", train=split, test=split, classes=2, mean=(0.5,), std=(0.25,)).input_shape
    (1, 8, 8)
    """

    name: str
    _: KW_ONLY
    train: Samples
    test: Samples
    classes: int
    mean: tuple[float, ...]
    """A value a channel, of images scaled to [0, 1] where they are uint8."""
    std: tuple[float, ...]
    """A value a channel, on the same scale, > 0."""
    class_names: tuple[str, ...] | None = None
    """What the classes are called, in the order of their labels; None where the labels are only numbers."""

    def __post_init__(self) -> None:
        train, test = self.train.images, self.test.images
        if self.classes < 1:
            raise DataError(f"{self.name}: there are {self.classes} classes; give at least 1")
        if self.class_names is not None and len(set(self.class_names)) != self.classes:
            raise DataError(f"{self.name}: {self.class_names} do not name {self.classes} classes; give one name each")
        if train.shape[1:] != test.shape[1:]:
            raise DataError(
                f"{self.name}: training images are {train.shape[1:]} and test images {test.shape[1:]} (C, H, W); "
                f"make them one shape"
            )
        if train.dtype != test.dtype:
            raise DataError(
                f"{self.name}: training images are {train.dtype} and test images {test.dtype}; make them one dtype"
            )
        for split, samples in (("training", self.train), ("test", self.test)):
            low, high = int(samples.labels.min()), int(samples.labels.max())
            if low < 0 or high >= self.classes:
                raise DataError(
                    f"{self.name}: {split} labels go from {low} to {high}; with {self.classes} classes they must "
                    f"lie from 0 to {self.classes - 1}"
                )
        channels = train.shape[1]
        if len(self.mean) != channels or len(self.std) != channels:
            raise DataError(
                f"{self.name}: {len(self.mean)} means and {len(self.std)} standard deviations do not fit "
                f"{channels} channels; give one of each a channel"
            )
        if not all(map(math.isfinite, self.mean)) or not all(math.isfinite(s) and s > 0 for s in self.std):
            raise DataError(f"{self.name}: mean {self.mean} and std {self.std} must be finite, and std above 0")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def normalised(self, images: Images) -> torch.Tensor:
        """A batch as the network wants it: uint8 scaled to [0, 1], then (x - mean) / std of each channel.

        Done a batch at a time, so that a data set of bytes stays bytes in memory.

        Args:
            images: (N, C, H, W), uint8 or float32; it is not changed.

        Returns:
            (N, C, H, W) float32, contiguous.

        Raises:
            DataError: other shape or dtype.
        """
        if images.shape[1:] != self.input_shape or images.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"{self.name}: cannot normalise {images.dtype} images of shape {images.shape}; give uint8 or float32 "
                f"of shape (N, {', '.join(map(str, self.input_shape))})"
            )
        batch = torch.from_numpy(images.astype(np.float32, order="C"))  # a copy: in-place from here on
        if images.dtype == np.uint8:
            batch.div_(255)
        return batch.sub_(_per_channel(self.mean)).div_(_per_channel(self.std))


def _per_channel(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def _is_finite(images: Images) -> bool:
    # NaN and infinity survive min and max, so no boolean array of the size of the images is made.
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(images.min()) and np.isfinite(images.max()))
