"""Names of data sets, the two that come ready, and functions of the user's own."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest

from hedgerow.data import dataset_names, load_dataset
from hedgerow.data.fashion import FASHION_MNIST_FOLDER
from hedgerow.errors import ConfigError, DataError, HedgerowError
from hedgerow.references import resolve_reference

OWN = """
import numpy as np
from hedgerow.data import Dataset, Samples

IMAGES, LABELS = np.zeros((4, 8, 8, 3)), np.array([0, 1, 0, 1])

def arrays():
    import {name}_helper  # only found while the current directory is importable
    return IMAGES, LABELS, IMAGES[:2], LABELS[:2]

def ready():
    split = Samples(np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 1]))
    return Dataset("ready", train=split, test=split, classes=2, mean=(0.0,), std=(1.0,))

def broken():
    raise KeyError("a key")

def needy(argument):
    return argument

def three():
    return IMAGES, LABELS, IMAGES

number = 3

class Holder:
    ready = staticmethod(ready)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current directory; another for each test, as modules stay imported."""
    name = f"own_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(OWN.format(name=name))
    (tmp_path / f"{name}_helper.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return name


def test_the_digits_keep_their_levels_and_their_split() -> None:
    from sklearn.datasets import load_digits as bundled

    data = load_dataset("digits")
    assert (data.input_shape, data.classes, len(data.train), len(data.test)) == ((1, 8, 8), 10, 1438, 359)
    images = np.concatenate([data.train.images, data.test.images])
    assert images.dtype == np.uint8
    assert set(np.unique(images)) == {round(level * 255 / 16) for level in range(17)}
    assert sorted(image.tobytes() for image in images) == sorted(
        np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in bundled().images
    )
    assert np.bincount(data.test.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    np.testing.assert_array_equal(load_dataset("digits").test.images, data.test.images)


def test_digits_come_out_normalised() -> None:
    data = load_dataset("digits")
    batch = data.normalised(data.train.images)
    assert batch.mean().item() == pytest.approx(0, abs=1e-5)
    assert batch.std().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.skipif(not FASHION_MNIST_FOLDER.is_dir(), reason="the Debian package dataset-fashion-mnist is absent")
def test_fashion_mnist_is_whole() -> None:
    data = load_dataset("fashion-mnist")
    assert (data.input_shape, data.classes) == ((1, 28, 28), 10)
    assert np.bincount(data.train.labels).tolist() == [6000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.images.mean() / 255 == pytest.approx(data.mean[0], abs=5e-5)
    assert (data.mean, data.std) == ((0.2860,), (0.3530,))


def test_without_fashion_mnist_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist"):
        load_dataset("fashion-mnist", path=tmp_path / "nothing")


def test_an_unknown_name_gets_the_closest_and_all_that_are_allowed() -> None:
    with pytest.raises(DataError, match=r"'fashion' .*did you mean 'fashion-mnist'.*digits, fashion-mnist, folder"):
        load_dataset("fashion")


@pytest.mark.parametrize("name", ["folder", "idx", "npz"])
def test_files_need_a_path_that_exists(name: str, tmp_path: Path) -> None:
    assert name in dataset_names()
    with pytest.raises(DataError, match="needs a path"):
        load_dataset(name)
    with pytest.raises(DataError, match="nothing"):
        load_dataset(name, path=tmp_path / "nothing")


@pytest.mark.parametrize("name", ["digits", "some.module:function"])
def test_a_path_that_would_be_ignored_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="takes no path"):
        load_dataset(name, path=Path("somewhere"))


def test_a_function_in_the_current_directory_may_return_arrays_or_a_data_set(own: str) -> None:
    before = list(sys.path)
    assert load_dataset(f"{own}:arrays").input_shape == (3, 8, 8)
    assert load_dataset(f"{own}:ready").name == "ready"
    assert load_dataset(f"{own}:Holder.ready").name == "ready"
    assert sys.path == before


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "failed with KeyError: 'a key'"),
        ("needy", "failed with TypeError.*without arguments"),
        ("three", "returned a tuple; return a Dataset or"),
        ("number", "is a int, not a function"),
        ("arays", "did you mean 'arrays'"),
    ],
)
def test_a_function_that_fails_or_returns_something_else_is_named(own: str, function: str, message: str) -> None:
    with pytest.raises(HedgerowError, match=f"{own}:{function}.*{message}"):
        load_dataset(f"{own}:{function}")


@pytest.mark.parametrize("text", ["", "module", "module:", ":function", "a:b:c", "a..b:c", "a b:c", "../a:b", "a:1"])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write it as package\.module:function"):
        resolve_reference(text)


def test_a_module_that_is_missing_is_told_from_one_that_misses_something(own: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no module 'no_such_module'"):
        resolve_reference("no_such_module:f")
    with pytest.raises(ConfigError, match=r"there is no module 'hedgerow\.no_such_module'"):
        resolve_reference("hedgerow.no_such_module:f")
    (tmp_path / f"{own}_needs.py").write_text("import another_missing_module")
    with pytest.raises(ConfigError, match="failed because it needs 'another_missing_module'"):
        resolve_reference(f"{own}_needs:f")
    (tmp_path / f"{own}_fails.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match="failed with ZeroDivisionError"):
        resolve_reference(f"{own}_fails:f")


def test_pillow_and_scikit_learn_are_imported_only_when_they_are_needed() -> None:
    code = "import sys, hedgerow.data; sys.exit(bool({'PIL', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
