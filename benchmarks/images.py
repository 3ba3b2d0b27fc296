"""The JPEG copy of CIFAR-10, which its owner brings: `train/<class>/*.jpg` and `test/<class>/*.jpg` in an archive."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from hedgerow.data import load_dataset
from hedgerow.errors import DataError
from hedgerow.files import write_atomically

__all__ = ["ARCHIVE", "archive_there", "converted"]

ARCHIVE = "HEDGEROW_CIFAR10_JPEG"
"""The environment variable that says where the archive is."""


def archive_there() -> bool:
    """Whether the variable names a file."""
    return Path(os.environ.get(ARCHIVE, "")).is_file()


def converted(out: Path) -> Path:
    """The images as an uncompressed `.npz` file in `out`, made once.

    Raises:
        DataError: the archive cannot be read, or holds no images in that layout.
    """
    path = out / "cifar10-jpeg.npz"
    if path.exists():
        return path
    archive = Path(os.environ[ARCHIVE])
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(name, filter="data")
        except (OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
            raise DataError(f"{archive} is not a readable archive ({error}); give the whole file") from error
        images = load_dataset("folder", path=Path(name))
    content = io.BytesIO()
    np.savez(
        content,
        x_train=images.train.images,
        y_train=images.train.labels,
        x_test=images.test.images,
        y_test=images.test.labels,
    )
    write_atomically(path, content.getvalue())
    return path
