"""idx files: what is written comes back, and a damaged file is refused by name without a large allocation."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.data.idx import load_idx, read_idx
from hedgerow.errors import DataError

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def encode(array: npt.NDArray[Any]) -> bytes:
    header = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def write_set(folder: Path, *, end: str = "", mark: str = "-") -> None:
    for prefix, count in (("train", 6), ("t10k", 3)):
        for part, array in (
            ("images{}idx3", np.arange(count * 64, dtype=np.uint8).reshape(count, 8, 8)),
            ("labels{}idx1", np.arange(count, dtype=np.uint8) % 3),
        ):
            content = encode(array)
            write(
                folder / f"{prefix}-{part.format(mark)}-ubyte{end}",
                gzip.compress(content) if end == ".gz" else content,
            )


def test_a_file_written_byte_by_byte_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a", bytes([0, 0, 0x0B, 2, 0, 0, 0, 1, 0, 0, 0, 2, 1, 0, 255, 255]))
    assert read_idx(path).tolist() == [[256, -1]]


@settings(max_examples=40, deadline=None)
@given(
    array=st.sampled_from(sorted(CODES)).flatmap(
        lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(max_dims=4, max_side=4))
    ),
    zipped=st.booleans(),
)
def test_every_type_and_shape_comes_back(
    tmp_path_factory: pytest.TempPathFactory, array: npt.NDArray[Any], zipped: bool
) -> None:
    content = encode(array)
    path = write(tmp_path_factory.mktemp("idx") / "a", gzip.compress(content) if zipped else content)
    found = read_idx(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


GOOD = encode(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends after 0 of 4"),
        (b"\0\0\x08", "ends after 3 of 4|is not an idx"),
        (b"\1\0" + GOOD[2:], "is not an idx file"),
        (b"\0\0\x0a" + GOOD[3:], "is not an idx file"),
        (b"\0\0\x08\0", "is not an idx file"),
        (b"\0\0\x08\xff" + GOOD[4:], "is not an idx file"),
        (GOOD[:9], "ends after 5 of 12"),
        (GOOD[:-1], "has 39 bytes where|ends after 23 of 24"),
        (GOOD + b"\0", "has 41 bytes where|goes on after the 24"),
        (bytes([0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0, 4]), "is empty"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str, zipped: bool) -> None:
    path = write(tmp_path / "damaged-file", gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=rf"damaged-file.*({message})"):
        read_idx(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_header_that_lies_allocates_nothing_of_what_it_says(tmp_path: Path, zipped: bool) -> None:
    content = bytes([0, 0, 0x0E, 4]) + b"\xff" * 16 + b"\0" * 100
    path = write(tmp_path / "liar", gzip.compress(content) if zipped else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="liar"):
            read_idx(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_gzip_bomb_is_read_only_as_far_as_its_header_declares(tmp_path: Path) -> None:
    bomb = gzip.compress(encode(np.zeros(10, np.uint8)) + bytes(64 << 20), compresslevel=1)
    path = write(tmp_path / "bomb.gz", bomb)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="goes on after the 10"):
            read_idx(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_every_truncation_of_a_gzip_file_is_refused_by_name(tmp_path: Path) -> None:
    content = gzip.compress(GOOD)
    for length in range(2, len(content)):
        with pytest.raises(DataError, match=r"cut\.gz"):
            read_idx(write(tmp_path / "cut.gz", content[:length]))


def test_a_flipped_bit_in_a_gzip_file_is_found_by_its_checksum(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(GOOD))
    content[-5] ^= 1  # of the length and checksum at the end
    with pytest.raises(DataError, match=r"flipped\.gz is truncated or damaged"):
        read_idx(write(tmp_path / "flipped.gz", bytes(content)))


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing does not exist"):
        read_idx(tmp_path / "nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_a_folder_named_as_mnist_is_loaded(tmp_path: Path, end: str, mark: str) -> None:
    write_set(tmp_path, end=end, mark=mark)
    data = load_idx(tmp_path)
    assert (data.input_shape, data.classes, len(data.train), len(data.test)) == ((1, 8, 8), 3, 6, 3)
    assert data.train.images[1, 0, 0].tolist() == list(range(64, 72))
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.name == tmp_path.name


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"no test labels: put t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte\.gz"):
        load_idx(tmp_path)


def test_images_and_labels_of_different_number_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    write(tmp_path / "train-labels-idx1-ubyte", encode(np.zeros(5, np.uint8)))
    with pytest.raises(DataError, match="training split: 6 images come with labels of shape"):
        load_idx(tmp_path)
