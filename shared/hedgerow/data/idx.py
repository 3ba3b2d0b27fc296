"""idx files, the format of MNIST and its relatives, plain or gzipped.

Format (Y. LeCun, "The MNIST database"): two zero bytes, a byte for the type, a byte for the number of axes, each
length as a big-endian uint32, then the values, big-endian, last axis fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from hedgerow.data.arrays import from_arrays
from hedgerow.data.dataset import Dataset
from hedgerow.errors import DataError

__all__ = ["find_idx_files", "load_idx", "read_idx"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 4
_CHUNK = 1 << 20
_PARTS = {
    "train images": "train-images{}idx3-ubyte",
    "train labels": "train-labels{}idx1-ubyte",
    "test images": "t10k-images{}idx3-ubyte",
    "test labels": "t10k-labels{}idx1-ubyte",
}


def read_idx(path: Path) -> npt.NDArray[Any]:
    """Read one idx file; whether it is gzipped is seen from its first bytes.

    Memory is bounded by what the file really holds and by what its header declares, whichever is smaller.

    Returns:
        An array of the declared shape and type, in the byte order of this machine.

    Raises:
        DataError: missing, not an idx file, truncated, damaged, or longer than its header says; the message names
            the file.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _parse(raw, path=path, size=path.stat().st_size)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _parse(cast(BinaryIO, stream), path=path, size=None)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); check that it is a file that you may read"
        ) from error


def find_idx_files(folder: Path) -> dict[str, Path]:
    """The four files of a data set that is named as MNIST is, by part: "train images", "train labels", "test …".

    `train-images-idx3-ubyte` and `train-images.idx3-ubyte`, plain before `.gz`.

    Raises:
        DataError: a part is missing.
    """
    found: dict[str, Path] = {}
    for part, pattern in _PARTS.items():
        candidates = [folder / (pattern.format(mark) + end) for end in ("", ".gz") for mark in ("-", ".")]
        existing = next((path for path in candidates if path.is_file()), None)
        if existing is None:
            raise DataError(f"{folder} holds no {part}: put {candidates[0].name} or {candidates[2].name} there")
        found[part] = existing
    return found


def load_idx(
    folder: Path,
    *,
    name: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Dataset:
    """Load a folder of four idx files: see `find_idx_files` for their names and `from_arrays` for `mean` and `std`.

    Raises:
        DataError: a file is missing or damaged, or images and labels do not fit.
    """
    arrays = {part: read_idx(path) for part, path in find_idx_files(folder).items()}
    return from_arrays(
        name if name is not None else folder.resolve().name,
        train=(arrays["train images"], arrays["train labels"]),
        test=(arrays["test images"], arrays["test labels"]),
        mean=mean,
        std=std,
    )


def _parse(stream: BinaryIO, *, path: Path, size: int | None) -> npt.NDArray[Any]:
    magic = _read_exactly(stream, 4, path=path)
    if magic[:2] != b"\0\0" or magic[2] not in _DTYPES or not 1 <= magic[3] <= _MAX_AXES:
        raise DataError(f"{path} is not an idx file: it begins with the bytes {magic.hex(' ')}; check the path")
    dtype, axes = np.dtype(_DTYPES[magic[2]]), magic[3]
    shape = struct.unpack(f">{axes}I", _read_exactly(stream, 4 * axes, path=path))
    declared = math.prod(shape) * dtype.itemsize  # Python's integers: it cannot overflow
    if size is not None and size != 4 + 4 * axes + declared:
        raise DataError(
            f"{path} has {size} bytes where its header, for the shape {shape}, says {4 + 4 * axes + declared}; it is "
            f"truncated or damaged, so fetch it again"
        )
    if declared == 0:
        raise DataError(f"{path} declares the shape {shape}, which is empty; check the path")
    values = _read_exactly(stream, declared, path=path)
    if stream.read(1):
        raise DataError(f"{path} goes on after the {declared} bytes that its header declares; fetch it again")
    return np.frombuffer(values, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_exactly(stream: BinaryIO, count: int, *, path: Path) -> bytearray:
    # A piece at a time: a header that lies must not make us allocate what it says.
    values = bytearray()
    while len(values) < count:
        piece = stream.read(min(_CHUNK, count - len(values)))
        if not piece:
            raise DataError(f"{path} ends after {len(values)} of {count} declared bytes; fetch it again")
        values += piece
    return values
