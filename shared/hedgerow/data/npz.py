"""NumPy archives: ``x_train, y_train, x_test, y_test``, or ``x, y`` that we split."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hedgerow.data.arrays import from_arrays, split_arrays
from hedgerow.data.dataset import Dataset
from hedgerow.errors import DataError

__all__ = ["load_npz"]

_SPLIT = ("x_train", "y_train", "x_test", "y_test")
_WHOLE = ("x", "y")
_DAMAGE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # an encrypted member, or (NotImplementedError) an unknown compression
    ValueError,  # this and the rest: NumPy's parser of headers
    SyntaxError,
    tokenize.TokenError,
    MemoryError,
)


def load_npz(path: Path) -> Dataset:
    """Load a `.npz` file; for layouts and dtypes of its arrays see `hedgerow.data.arrays.from_arrays`.

    Nothing in the file is ever unpickled, and no array is allocated before its header agrees with the size of the
    archive's member.

    Raises:
        DataError: missing, damaged, or without the arrays that are needed; the message names the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            present = {name.removesuffix(".npy") for name in archive.namelist()}
            names = _SPLIT if present.issuperset(_SPLIT) else _WHOLE
            if not present.issuperset(names):
                raise DataError(
                    f"{path} holds {', '.join(sorted(present)) or 'nothing'}; it must hold {', '.join(_SPLIT)}, or x, y"
                )
            arrays = {name: _read_member(archive, name, path=path) for name in names}
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path") from error
    except _DAMAGE as error:
        raise DataError(f"{path} is not a readable .npz file ({error}); save it again with numpy.savez") from error
    name = path.stem
    if names == _WHOLE:
        return split_arrays(name, images=arrays["x"], labels=arrays["y"])
    return from_arrays(name, train=(arrays["x_train"], arrays["y_train"]), test=(arrays["x_test"], arrays["y_test"]))


def _read_member(archive: zipfile.ZipFile, name: str, *, path: Path) -> npt.NDArray[Any]:
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as stream:
        shape, dtype = _read_header(stream)
        header_bytes = stream.tell()
    if dtype.hasobject:
        raise DataError(f"{path}: {name} holds Python objects, which could run code; save plain numeric arrays")
    declared = math.prod(shape) * dtype.itemsize
    if entry.file_size != header_bytes + declared:
        raise DataError(
            f"{path}: {name} has {entry.file_size - header_bytes} bytes where its header, for the shape {shape}, says "
            f"{declared}; the file is damaged, so save it again"
        )
    with archive.open(entry) as stream:
        array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:  # 3.0 exists for names of fields, and images have none
        raise ValueError(f"version {version} of the .npy format")
    return shape, dtype
