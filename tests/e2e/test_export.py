"""`hedgerow export` as its user sees it: files that other programs load, smaller, with the model's outputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from hedgerow import cli
from hedgerow.artifact import artifact_bytes, load_artifact
from hedgerow.assembly import dataset_of
from hedgerow.compaction import Program, compact_bytes, load
from hedgerow.config import load_experiment
from hedgerow.errors import ModelError
from hedgerow.models import build_model
from hedgerow.pruning import Mask
from hedgerow.server.export import exporting, formats
from tests.e2e.command import hedgerow, only_run

MODELS = {
    "resnet18": ("--recipe=hidenseek", "--density=0.01", "--set=model.norm=batch"),
    "mobilenetv2": ("--recipe=hidenseek", "--density=0.02", "--set=model.norm=batch"),
    "conv4": ("--recipe=hidenseek", "--density=0.02", "--set=model.norm=none"),
    "vgg11": ("--recipe=fedavg", "--density=0.02", "--set=pruning.saliency=synflow"),
}
"""Masks by SynFlow, which leaves channels dead."""
needs_onnx = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime comes with the extra `export`")
needs_executorch = pytest.mark.skipif(find_spec("executorch") is None, reason="executorch comes with its own extra")


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one of the models: real rounds, so norms and biases are as training leaves them."""
    cwd = tmp_path_factory.mktemp("run")
    settings = ("--rounds=1", "--set=fleet.clients=2", "--set=fleet.cohort=2", "--set=training.epochs=1")
    small = ("--set=training.batch_size=64", "--set=pruning.iterations=20")
    hedgerow("simulate", f"--model={request.param}", *MODELS[request.param], *settings, *small, "--workers=1", cwd=cwd)
    return only_run(cwd)


def normalised_images(run: Path, *, count: int = 8) -> Tensor:
    dataset = dataset_of(load_experiment(run / "experiment.toml"))
    return dataset.normalised(dataset.test.images[:count])


@torch.no_grad()
def outputs_of_the_run(run: Path, images: Tensor) -> Tensor:
    """By the model of the run itself, rebuilt from its settings."""
    experiment = load_experiment(run / "experiment.toml")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    model = build_model(experiment.model.name, input_shape=shape, classes=10, norm=experiment.model.norm, seed=0)
    model.load_state_dict(load_artifact(run / "model.safetensors"))
    outputs: Tensor = model.eval()(images)
    return outputs


def dense_size(run: Path) -> int:
    """Bytes of the dense network's tensors in float32, which any file of it has to hold."""
    return sum(4 * tensor.numel() for tensor in load_artifact(run / "model.safetensors").values())


def assert_same(found: Tensor, expected: Tensor) -> None:
    size = expected.abs().max().item()
    assert size > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * size)


def table(out: str) -> dict[str, list[str]]:
    """The rows of what was printed, by their first word."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines()[1:]}


def test_a_safetensors_file_is_smaller_and_loads_without_the_model(run: Path) -> None:
    out, err = hedgerow("export", run, cwd=run.parents[1])
    compact = run / "compact.safetensors"
    assert compact.stat().st_size < 0.8 * dense_size(run)
    assert out.startswith(f"{compact}: ")
    assert err.splitlines()[0] == f"reading {run / 'model.safetensors'} …"
    assert "%" in table(out)["file"][-1]
    images = normalised_images(run)
    expected = outputs_of_the_run(run, images)
    with torch.no_grad():
        assert_same(load(compact)(images), expected)
    with safe_open(compact, framework="np") as file:
        metadata = json.loads(file.metadata()["hedgerow"])
    assert metadata["experiment"]["model"]["name"] == metadata["model"]
    assert len(metadata["mean"]) == metadata["input_shape"][0], "how images are normalised"


@needs_onnx
def test_an_onnx_file_is_smaller_and_gives_the_same_outputs_in_onnxruntime(run: Path) -> None:
    import onnxruntime

    out, _ = hedgerow("export", run, "--to=onnx", "--out=small.onnx", cwd=run.parents[1])
    path = run.parents[1] / "small.onnx"
    assert path.stat().st_size < 0.8 * dense_size(run)
    assert sorted(p.name for p in path.parent.iterdir()) == ["runs", "small.onnx"], "weights are in the file itself"
    assert "onnxruntime" in out
    images = normalised_images(run)
    expected = outputs_of_the_run(run, images)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["hedgerow"].startswith("{")
    for count in (1, 8):
        (found,) = session.run(["logits"], {"images": images[:count].numpy()})
        assert_same(torch.from_numpy(found), expected[:count])


@needs_executorch
@pytest.mark.filterwarnings("ignore")  # its packages warn of each other's future while they are imported
def test_an_executorch_file_is_smaller_and_gives_the_same_outputs(run: Path) -> None:
    from executorch.runtime import Runtime

    hedgerow("export", run, "--to=executorch", cwd=run.parents[1])
    path = run / "compact.pte"
    assert path.stat().st_size < 0.8 * dense_size(run)
    images = normalised_images(run)
    expected = outputs_of_the_run(run, images)
    content = path.read_bytes()  # the program reads it as long as it lives
    program = Runtime.get().load_program(content)
    method = program.load_method("forward")
    for image, row in zip(images, expected, strict=True):
        assert_same(method.execute([image[None].contiguous()])[0].clone(), row[None])


OWN = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.hidden = nn.Linear(features, 20)
        self.out = nn.Linear(20, classes)

    def forward(self, x):
        x = self.hidden(x.flatten(1)).relu()
        return self.out(x if x.sum() >= 0 else -x)

def branching(input_shape, classes):
    return Branching(input_shape[0] * input_shape[1] * input_shape[2], classes)
"""


def test_what_cannot_be_traced_is_exported_whole_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_model_with_branches.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    name = "a_model_with_branches:branching"
    store(tmp_path / "model", build_model(name, input_shape=(1, 4, 4), classes=3, seed=0), name=name, density=0.3)
    assert ended(monkeypatch, "model", "--out=whole.safetensors") == 0
    out = capsys.readouterr().out
    assert "  note: exported whole: Branching cannot be traced by torch.export" in out
    assert "parameters" not in out
    with safe_open(tmp_path / "whole.safetensors", framework="pt") as file:
        for key, tensor in load_artifact(tmp_path / "model").items():
            assert torch.equal(file.get_tensor(key), tensor)


@needs_onnx
def test_what_cannot_be_traced_is_no_onnx_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a_model_with_paths.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    name = "a_model_with_paths:branching"
    store(tmp_path / "model", build_model(name, input_shape=(1, 4, 4), classes=3, seed=0), name=name, density=0.3)
    assert ended(monkeypatch, "model", "--to=onnx") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("hedgerow: the model cannot be written as ONNX (")
    assert last.endswith("--to safetensors takes any")
    assert not (tmp_path / "compact.onnx").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a run that was fetched: nothing but the file, and no data set."""
    path = tmp_path_factory.mktemp("small") / "fetched.safetensors"
    model = build_model("mlp", input_shape=(1, 4, 4), classes=3, seed=0)
    store(path, model, name="mlp", density=0.03)
    return path


def store(path: Path, model: nn.Module, *, name: str, density: float) -> None:
    """A run's model, pruned at random."""
    draw = torch.Generator().manual_seed(0)
    weights = {key: w for key, w in model.named_parameters() if w.ndim == 2}
    mask = Mask({key: torch.rand(w.shape, generator=draw) < density for key, w in weights.items()})
    tensors = {key: t * mask[key] if key in mask else t for key, t in model.state_dict().items()}
    metadata = {"model": name, "norm": "batch", "input_shape": (1, 4, 4), "classes": 3}
    path.write_bytes(artifact_bytes(tensors, mask, metadata=metadata))


def test_a_fetched_model_is_exported_without_its_run_and_data(small: Path) -> None:
    out, _ = hedgerow("export", small, cwd=small.parent)
    assert out.startswith(f"{small.parent / 'compact.safetensors'}: ")
    assert "(16 images of noise)" in out
    assert float(table(out)["parameters"][-1].rstrip("%")) < 20
    x = np.zeros((2, 1, 4, 4), np.float32)
    assert load(small.parent / "compact.safetensors")(torch.from_numpy(x)).shape == (2, 3)


def test_without_compaction_all_channels_are_there(small: Path) -> None:
    out, _ = hedgerow("export", small, "--no-compact", cwd=small.parent)
    assert out.startswith(f"{small.parent / 'dense.safetensors'}: ")
    assert [table(out)[row][-1] for row in ("file", "parameters", "multiply-adds", "channels")] == ["100%"] * 4
    with safe_open(small.parent / "dense.safetensors", framework="pt") as file:
        for name, tensor in load_artifact(small).items():
            if "num_batches" not in name:
                assert torch.equal(file.get_tensor(name), tensor)


def test_the_same_export_again_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        hedgerow("export", small, f"--out={tmp_path / name}", cwd=tmp_path)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The exit code of `hedgerow export` in this process, where torch is there already."""
    monkeypatch.setattr(sys, "argv", ["hedgerow", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["runs/nothing"], "runs/nothing: there is no such run; name its folder"),
        (["empty"], "empty is not the folder of a run; name one that holds a model.safetensors"),
        (["begun"], "begun: the run is not done and has no model yet; the command that started it goes on with it"),
        (["damaged"], "damaged: not a readable model file"),
        (["copy", "--out=copy"], "copy is the model that is exported; name another file"),
        (["copy", "--out=empty"], "empty is a folder; name the file to write, such as empty/compact.safetensors"),
        (["copy", "--out=copy/under/a/file"], "cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    arguments: list[str],
    saying: str,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "experiment.toml").write_text("rounds = 3")
    (tmp_path / "damaged").write_bytes(small.read_bytes()[:500])
    (tmp_path / "copy").write_bytes(small.read_bytes())
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert ended(monkeypatch, *arguments) == 1
    *stages, last = capsys.readouterr().err.splitlines()
    assert all(stage.endswith(" …") for stage in stages)
    assert last.startswith("hedgerow: ")
    assert saying in last
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(("to", "extra"), [("onnx", "export"), ("executorch", "executorch")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    to: str, extra: str, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> None:
        return None

    monkeypatch.setattr(formats, "find_spec", absent)
    assert ended(monkeypatch, small, f"--to={to}") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"hedgerow: --to {to} needs {to}")
    assert err.endswith(f"pip install 'hedgerow[{extra}]'\n")


def test_a_file_with_other_outputs_is_not_written(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(program: Program, *, metadata: Mapping[str, object]) -> bytes:
        tensors = {name: t * 1.0001 if t.ndim == 2 else t for name, t in program.tensors.items()}
        return compact_bytes(replace(program, tensors=tensors), metadata=metadata)

    monkeypatch.setattr(exporting, "compact_bytes", wrong)
    with pytest.raises(ModelError, match=r"outputs differ from the model's by \S+ of the largest, so it was not"):
        exporting.export_run(small, to="safetensors", out=tmp_path / "wrong")
    assert list(tmp_path.iterdir()) == []
