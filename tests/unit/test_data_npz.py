"""NumPy archives: both conventions, and nothing in them is trusted."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.data.npz import load_npz
from hedgerow.errors import DataError

IMAGES = np.arange(10 * 8 * 8 * 3, dtype=np.uint8).reshape(10, 8, 8, 3)
LABELS = np.arange(10) % 2


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def save_members(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_four_arrays_are_two_splits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:4], y_test=LABELS[:4, None])
    data = load_npz(path)
    assert (data.name, data.input_shape, len(data.train), len(data.test)) == ("a", (3, 8, 8), 10, 4)
    np.testing.assert_array_equal(data.train.images[:, 2], IMAGES[..., 2])


def test_two_arrays_are_split_in_the_same_way_each_time(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x=IMAGES, y=LABELS)
    first, second = load_npz(path), load_npz(path)
    assert (len(first.train), len(first.test)) == (8, 2)
    np.testing.assert_array_equal(first.test.images, second.test.images)


def test_arrays_in_fortran_order_and_compressed_archives_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.asfortranarray(IMAGES), y=LABELS)
    plain = load_npz(save(tmp_path / "b.npz", x=IMAGES, y=LABELS))
    np.testing.assert_array_equal(load_npz(tmp_path / "a.npz").train.images, plain.train.images)


class MakesFolder:
    """Unpickling it makes a folder, as it could do anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_objects_are_refused_and_never_run(tmp_path: Path) -> None:
    folder = tmp_path / "made by the file"
    objects = np.empty(10, dtype=object)
    objects[0] = MakesFolder(folder)
    path = save(tmp_path / "a.npz", x=IMAGES, y=objects)
    with pytest.raises(DataError, match=r"a\.npz: y holds Python objects"):
        load_npz(path)
    assert not folder.exists()
    with np.load(path, allow_pickle=True) as archive:
        assert len(archive["y"]) == 10
    assert folder.exists()  # so the file was armed


def member(shape: str, body: bytes) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


def test_a_member_written_byte_by_byte_is_read(tmp_path: Path) -> None:
    images = member("(10, 2, 2)", bytes(range(40)))
    data = load_npz(save_members(tmp_path / "a.npz", x=images, y=npy(LABELS)))
    assert data.input_shape == (1, 2, 2)
    assert data.train.images[0].ravel()[0] % 4 == 0


@pytest.mark.parametrize("shape", ["(10, 100000, 100000)", "(10, 2, 1)", "(10, 2, 3)", "(-1, 2, 2)", "(10.0, 2, 2)"])
def test_a_header_that_lies_about_its_shape_is_refused_before_anything_is_allocated(tmp_path: Path, shape: str) -> None:
    path = save_members(tmp_path / "a.npz", x=member(shape, bytes(40)), y=npy(LABELS))
    with pytest.raises(DataError, match=r"a\.npz(: x has 40 bytes where its header| is not a readable)"):
        load_npz(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 50])
def test_a_file_that_is_no_archive_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.npz is not a readable"):
        load_npz(tmp_path / "broken.npz")


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x05\x00{'a'(", b"\x93NUMPY\x09\x00" + b" " * 99]
)
def test_a_damaged_member_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"broken\.npz is not a readable"):
        load_npz(save_members(tmp_path / "broken.npz", x=content, y=npy(LABELS)))


def test_a_flipped_byte_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = save(tmp_path / "broken.npz", x=IMAGES, y=LABELS)
    content = bytearray(path.read_bytes())
    content[600] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"broken\.npz is not a readable"):
        load_npz(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = save(tmp_path / "a.npz", x=IMAGES[:4, :2, :2], y=LABELS[:4]).read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "cut.npz").write_bytes(content[:length])
        with pytest.raises(DataError, match=r"cut\.npz"):
            load_npz(tmp_path / "cut.npz")


def test_missing_arrays_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds x_train, y_train; it must hold x_train, y_train, x_test, y_test"):
        load_npz(save(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS))
    with pytest.raises(DataError, match=r"nothing\.npz does not exist"):
        load_npz(tmp_path / "nothing.npz")


def test_nan_is_refused(tmp_path: Path) -> None:
    images = IMAGES.astype(np.float32)
    images[3, 1, 1, 1] = np.nan
    path = save(tmp_path / "a.npz", x_train=images, y_train=LABELS, x_test=images[:2], y_test=LABELS[:2])
    with pytest.raises(DataError, match="training split: images hold NaN"):
        load_npz(path)
