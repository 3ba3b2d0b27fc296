"""Folders of images: ``train/<class>/*.png`` and ``test/<class>/*.png``, or only ``<class>/*.png``, which we split."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hedgerow.data.arrays import from_arrays, split_arrays
from hedgerow.data.dataset import Dataset
from hedgerow.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["load_folder"]

_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no others: Pillow's EPS, for one, starts a program
_GREY_MODES = frozenset({"1", "L", "LA", "La"})
_DEEP_MODES = ("I", "F")
_MAX_PIXELS = 1 << 24
"""4096 x 4096; a larger image is refused as a decompression bomb."""


def load_folder(path: Path) -> Dataset:
    """Load a folder of images as uint8, (1, H, W) if the first training image is grey and (3, H, W) if it has colours.

    The classes are the sorted names of the training class folders; files are read in sorted order. Hidden files and
    files of other types are passed over. Alpha channels and EXIF orientation are ignored.

    Raises:
        DataError: a folder is missing or empty, `test` has a class that `train` has not, an image is damaged, of
            another size or too large; the message names the folder or file.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; give one that holds train/<class> and test/<class> folders of images")
    try:
        return _load(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check that you may read all folders in it") from error


def _load(path: Path) -> Dataset:
    name = path.resolve().name
    train, test = path / "train", path / "test"
    if train.is_dir() != test.is_dir():
        there, missing = (train, test) if train.is_dir() else (test, train)
        raise DataError(f"{path} has a folder {there.name} but no folder {missing.name}; add it, or give {there}")
    if not train.is_dir():
        classes = _class_names(path)
        files, labels = _list_files(path, classes=classes)
        return replace(split_arrays(name, images=_read_images(files), labels=labels), class_names=tuple(classes))
    classes = _class_names(train)
    unknown = sorted(set(_class_names(test)) - set(classes))
    if unknown:
        raise DataError(f"{test / unknown[0]}: train has no class {unknown[0]!r}; add it there or remove it from test")
    train_files, train_labels = _list_files(train, classes=classes)
    test_files, test_labels = _list_files(test, classes=classes, names=_class_names(test))
    images = _read_images([*train_files, *test_files])  # together: all must be of one size and mode
    dataset = from_arrays(
        name,
        train=(images[: len(train_files)], train_labels),
        test=(images[len(train_files) :], test_labels),
        classes=len(classes),
    )
    return replace(dataset, class_names=tuple(classes))


def _class_names(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise DataError(f"{folder} holds no class folders; put the images of each class into a folder of its name")
    return names


def _list_files(
    folder: Path, *, classes: Sequence[str], names: Sequence[str] | None = None
) -> tuple[list[Path], list[int]]:
    files: list[Path] = []
    labels: list[int] = []
    for name in classes if names is None else names:
        found = sorted(
            entry
            for entry in (folder / name).iterdir()
            if entry.suffix.lower() in _SUFFIXES and not entry.name.startswith(".")
        )
        if not found:
            raise DataError(f"{folder / name} holds no images; add some ({', '.join(sorted(_SUFFIXES))}) or remove it")
        files += found
        labels += [classes.index(name)] * len(found)
    return files, labels


def _read_images(files: Sequence[Path]) -> npt.NDArray[np.uint8]:
    """All files as (N, C, H, W); the first decides C, H and W."""
    from PIL import Image  # only needed here

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", message="Palette images with Transparency")  # alpha is dropped anyway
        first = _read_image(files[0], mode=None, size=None)
        channels, height, width = first.shape
        try:
            images = np.empty((len(files), channels, height, width), dtype=np.uint8)
        except MemoryError as error:
            raise DataError(
                f"{len(files)} images of {width}x{height} such as {files[0]} do not fit into memory; make them smaller"
            ) from error
        images[0] = first
        for index, file in enumerate(files[1:], start=1):
            images[index] = _read_image(file, mode="L" if channels == 1 else "RGB", size=(width, height))
    return images


def _read_image(file: Path, *, mode: str | None, size: tuple[int, int] | None) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(file, formats=_FORMATS) as image:
            _check_image(image, file=file, size=size)  # before anything is decoded
            wanted = mode if mode is not None else "L" if image.mode in _GREY_MODES else "RGB"
            pixels = np.asarray(image.convert(wanted), dtype=np.uint8)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{file} is refused as a decompression bomb ({error}); remove it or make it smaller") from error
    except DataError:
        raise
    # Pillow lets the errors of its decoders through.
    except (OSError, SyntaxError, EOFError, OverflowError, ValueError, struct.error) as error:
        raise DataError(f"{file} is not a readable image ({error}); replace or remove it") from error
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _check_image(image: Image.Image, *, file: Path, size: tuple[int, int] | None) -> None:
    width, height = image.size
    if width * height > _MAX_PIXELS:
        raise DataError(
            f"{file} declares {width}x{height} pixels and is refused as a decompression bomb; make it at most "
            f"{_MAX_PIXELS} pixels"
        )
    if image.mode.startswith(_DEEP_MODES):
        raise DataError(f"{file} has more than 8 bits a pixel (mode {image.mode}); convert it to 8 bits")
    if size is not None and image.size != size:
        raise DataError(
            f"{file} is {width}x{height} where the first image is {size[0]}x{size[1]}; make all images one size"
        )
