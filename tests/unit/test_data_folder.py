"""Image folders: order and mode are decided once, and each bad file is refused by its name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hedgerow.data.folder import load_folder
from hedgerow.errors import DataError


def save(path: Path, value: Any, *, mode: str = "L", size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("test", 2)):
        for value, name in ((10, "cat"), (20, "ant")):
            for index in range(count):
                save(tmp_path / split / name / f"{index}.png", value + index)
    return tmp_path


def test_classes_and_files_come_in_sorted_order(grey: Path) -> None:
    data = load_folder(grey)
    assert (data.input_shape, data.classes, data.name) == ((1, 6, 8), 2, grey.name)
    assert data.train.images[:, 0, 0, 0].tolist() == [20, 21, 22, 10, 11, 12]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.images[:, 0, 5, 7].tolist() == [20, 21, 10, 11]


def test_colours_are_kept_if_the_first_image_has_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(tmp_path / split / "a" / "0.png", (1, 2, 3), mode="RGB")
        save(tmp_path / split / "a" / "1.png", 7)
        save(tmp_path / split / "b" / "0.bmp", (4, 5, 6), mode="RGB")
    images = load_folder(tmp_path).train.images
    assert images[:, :, 0, 0].tolist() == [[1, 2, 3], [7, 7, 7], [4, 5, 6]]
    assert images.flags.c_contiguous


@pytest.mark.parametrize(("mode", "value", "channels"), [("RGBA", (9, 9, 9, 0), 3), ("LA", (9, 0), 1), ("1", 1, 1)])
def test_alpha_is_dropped_and_one_bit_is_grey(tmp_path: Path, mode: str, value: Any, channels: int) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            save(tmp_path / split / name / "0.png", value, mode=mode)
    images = load_folder(tmp_path).train.images
    assert images.shape == (2, channels, 6, 8)
    assert set(np.unique(images)) == {255 if mode == "1" else 9}


def test_a_palette_with_transparency_is_read_as_colours(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image = Image.new("P", (8, 6), 1)
        image.putpalette([0, 0, 0, 50, 60, 70])
        for index in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            image.save(tmp_path / name / f"{index}.png", transparency=bytes([0, 128]))
    assert load_folder(tmp_path).train.images[0, :, 0, 0].tolist() == [50, 60, 70]


def test_jpeg_files_are_read(tmp_path: Path) -> None:
    for name, value in (("a", 40), ("b", 200)):
        for index in range(2):
            save(tmp_path / name / f"{index}.JPG", value)
    data = load_folder(tmp_path)
    np.testing.assert_allclose(data.train.images[:, 0].mean(axis=(1, 2)), [40, 200], atol=2)


def test_a_folder_of_classes_alone_is_split_in_the_same_way_each_time(tmp_path: Path) -> None:
    for label, name in enumerate(("a", "b")):
        for index in range(10):
            save(tmp_path / name / f"{index}.png", 100 * label + index)
    first, second = load_folder(tmp_path), load_folder(tmp_path)
    assert (len(first.train), len(first.test)) == (16, 4)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert (first.test.images[:, 0, 0, 0] // 100 == first.test.labels).all()


def test_hidden_files_and_other_files_are_passed_over(grey: Path) -> None:
    (grey / "train" / "ant" / ".hidden.png").write_bytes(b"no image")
    (grey / "train" / "ant" / "notes.txt").write_text("no image")
    (grey / "train" / ".cache").mkdir()
    assert len(load_folder(grey).train) == 6


def test_a_class_may_be_missing_from_test_but_not_from_train(grey: Path) -> None:
    save(grey / "train" / "bee" / "0.png", 1)
    data = load_folder(grey)
    assert (data.classes, data.test.labels.tolist()) == (3, [0, 0, 2, 2])
    save(grey / "test" / "dog" / "0.png", 1)
    with pytest.raises(DataError, match="train has no class 'dog'"):
        load_folder(grey)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_refused_by_name(grey: Path, content: bytes) -> None:
    (grey / "train" / "ant" / "1.png").write_bytes(content)
    with pytest.raises(DataError, match=r"ant.1\.png is not a readable image"):
        load_folder(grey)


def test_a_truncated_image_is_refused_by_name(grey: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
    path = grey / "test" / "cat" / "1.png"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"cat.1\.png is not a readable image"):
        load_folder(grey)


def test_an_image_of_another_size_is_refused_by_name(grey: Path) -> None:
    save(grey / "test" / "cat" / "1.png", 1, size=(6, 8))
    with pytest.raises(DataError, match=r"cat.1\.png is 6x8 where the first image is 8x6"):
        load_folder(grey)


@pytest.mark.parametrize("side", [5_000, 12_000, 60_000])  # over our limit, and where Pillow warns and refuses
def test_a_decompression_bomb_is_refused_before_it_is_decoded(grey: Path, side: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    (grey / "train" / "ant" / "0.png").write_bytes(bomb)
    with pytest.raises(DataError, match=r"ant.0\.png .*decompression bomb"):
        load_folder(grey)


def test_sixteen_bits_a_pixel_are_refused_and_not_clipped(grey: Path) -> None:
    Image.fromarray(np.full((6, 8), 1000, np.uint16)).save(grey / "train" / "ant" / "0.png")
    with pytest.raises(DataError, match=r"ant.0\.png has more than 8 bits"):
        load_folder(grey)


def test_an_empty_class_folder_is_refused_by_name(grey: Path) -> None:
    (grey / "train" / "bee").mkdir()
    with pytest.raises(DataError, match=r"train.bee holds no images"):
        load_folder(grey)


def test_a_missing_folder_an_empty_one_and_half_a_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is not a folder"):
        load_folder(tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no class folders"):
        load_folder(tmp_path)
    save(tmp_path / "train" / "a" / "0.png", 1)
    with pytest.raises(DataError, match="has a folder train but no folder test"):
        load_folder(tmp_path)
