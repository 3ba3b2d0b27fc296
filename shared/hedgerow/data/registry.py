"""The names of data sets, and what loads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from hedgerow.data.dataset import Dataset
from hedgerow.data.digits import load_digits
from hedgerow.data.fashion import FASHION_MNIST_FOLDER, load_fashion_mnist
from hedgerow.data.folder import load_folder
from hedgerow.data.idx import load_idx
from hedgerow.data.npz import load_npz
from hedgerow.data.user import load_reference
from hedgerow.errors import DataError
from hedgerow.references import is_reference, unknown_name

__all__ = ["dataset_names", "load_dataset"]

_FROM_PATH: MappingProxyType[str, Callable[[Path], Dataset]] = MappingProxyType(
    {"folder": load_folder, "idx": load_idx, "npz": load_npz}
)
_NAMES = ("digits", "fashion-mnist", *_FROM_PATH)


def dataset_names() -> tuple[str, ...]:
    """What `load_dataset` takes, besides ``package.module:function``.

    >>> dataset_names()
    ('digits', 'fashion-mnist', 'folder', 'idx', 'npz')
    """
    return _NAMES


def load_dataset(name: str, *, path: Path | None = None) -> Dataset:
    """Load a data set into memory.

    Args:
        name: one of `dataset_names()`, or ``package.module:function`` for the user's own (`hedgerow.data.user`).
        path: the folder or file of `folder`, `idx` and `npz`; for `fashion-mnist` a folder other than the usual one.

    Raises:
        DataError: unknown name, a path that is missing or not wanted, or files that are missing or damaged.
        ConfigError: ``package.module:function`` cannot be found.

    >>> load_dataset("digits").classes
    10
    """
    if is_reference(name) or name == "digits":
        if path is not None:
            raise DataError(f"data set {name!r} takes no path, but {path} was given; leave it out")
        return load_reference(name) if is_reference(name) else load_digits()
    if name == "fashion-mnist":
        return load_fashion_mnist(path if path is not None else FASHION_MNIST_FOLDER)
    if name not in _FROM_PATH:
        raise DataError(unknown_name("data set", found=name, allowed=_NAMES))
    if path is None:
        raise DataError(f"data set {name!r} needs a path; say where its files are")
    return _FROM_PATH[name](path)
