"""Bad input: one clear message, exit code not 0, no traceback, nothing half-written."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.command import TINY, hedgerow


def refused(cwd: Path, *arguments: str | Path, saying: str, code: int) -> None:
    out, err = hedgerow("simulate", *TINY, *arguments, cwd=cwd, code=code)
    assert "Traceback" not in out + err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("hedgerow: ")
    assert saying in err
    assert not (cwd / "runs").exists(), "nothing was written"


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["--recipe=hidensek"], "unknown recipe 'hidensek' (did you mean 'hidenseek'?)"),
        (["--set=prunning.density=0.1"], "prunning: unknown key (did you mean 'pruning'?)"),
        (["--set=pruning.densty=0.1"], "pruning.densty: unknown key (did you mean 'density'?)"),
        (["--set=pruning.saliency=magic"], "allowed are synflow, magnitude, random, lamp"),
        (["--density=0"], "pruning.density: found 0"),
        (["--density=1.5"], "pruning.density: found 1.5"),
        (["--set=seed=many"], "seed: found 'many'"),
        (["--set=nonsense"], "expected key=value"),
        (["--set=fleet.cohort=7"], "fleet.cohort is 7, but fleet.clients is only 6"),
        (["absent.toml"], "absent.toml: no such experiment file"),
    ],
)
def test_mistakes_in_settings(arguments: list[str], saying: str, tmp_path: Path) -> None:
    refused(tmp_path, *arguments, saying=saying, code=2)


def test_toml_that_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("rounds = = 3")
    refused(tmp_path, "bad.toml", saying="bad.toml: not valid TOML", code=2)


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["--model=conv5"], "conv5"),
        (["--data=cifar"], "cifar"),
        (["--data=npz", "--data-path=absent.npz"], "absent.npz"),
        (["--data=fashion-mnist", "--data-path=absent"], "absent"),
        (["--set=fleet.clients=2000", "--set=fleet.cohort=3"], "client"),
        (["--set=fleet.clients=1000", "--set=data.partition=shards"], "client"),
        (["--model=nowhere:model"], "nowhere"),
        (["--density=0.00001"], "density"),
    ],
)
def test_mistakes_in_data_and_model(arguments: list[str], saying: str, tmp_path: Path) -> None:
    code = 2 if "--model=nowhere:model" in arguments else 1
    refused(tmp_path, *arguments, saying=saying, code=code)


def test_a_corrupt_idx_file(tmp_path: Path) -> None:
    folder = tmp_path / "idx"
    folder.mkdir()
    labels = struct.pack(">BBBBI", 0, 0, 8, 1, 20) + bytes([0, 1] * 10)
    images = struct.pack(">BBBBIII", 0, 0, 8, 3, 20, 8, 8) + np.random.default_rng(0).bytes(20 * 64)
    for split in ("train", "t10k"):
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images)[:40])
    refused(tmp_path, "--data=idx", f"--data-path={folder}", saying="images-idx3-ubyte.gz", code=1)


def test_a_corrupt_image(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for kind in ("a", "b"):
            folder = tmp_path / "images" / split / kind
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "1.png")
    (tmp_path / "images" / "train" / "b" / "2.png").write_bytes(b"no image")
    refused(tmp_path, "--data=folder", f"--data-path={tmp_path / 'images'}", saying="2.png", code=1)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    out, err = hedgerow(
        "simulate", "--recipe=fedavg", *TINY, "--density=1", "--set=weights.learning_rate=1e30", cwd=tmp_path, code=1
    )
    assert "Traceback" not in out + err
    assert "0 of 3 clients gave a usable reply" in err
    assert "the loss became nan" in err
    assert "client-000" in err
    hedgerow("simulate", "--recipe=fedavg", *TINY, "--density=1", "--workers=1", cwd=tmp_path)


def test_debug_shows_where(tmp_path: Path) -> None:
    _, err = hedgerow("--debug", "simulate", "--density=0", cwd=tmp_path, code=1)
    assert "Traceback" in err
