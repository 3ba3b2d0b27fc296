"""Fashion-MNIST: 60,000 and 10,000 grey images of 28x28, 10 classes, MIT licence."""

from __future__ import annotations

from pathlib import Path

from hedgerow.data.dataset import Dataset
from hedgerow.data.idx import load_idx
from hedgerow.errors import DataError

__all__ = ["FASHION_MNIST_FOLDER", "load_fashion_mnist"]

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package `dataset-fashion-mnist` puts its four files."""


def load_fashion_mnist(folder: Path = FASHION_MNIST_FOLDER) -> Dataset:
    """Load Fashion-MNIST: (1, 28, 28) uint8, in its published split.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST", arXiv:1708.07747.

    Raises:
        DataError: the files are missing or damaged.
    """
    if not folder.is_dir():
        raise DataError(
            f"Fashion-MNIST is not in {folder}: run 'apt install dataset-fashion-mnist', or give the folder of its "
            f"four idx files as the path"
        )
    # Of the 60,000 training images; fixed, so that a damaged copy cannot shift what a network was trained on.
    return load_idx(folder, name="fashion-mnist", mean=(0.2860,), std=(0.3530,))
