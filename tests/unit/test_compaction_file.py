"""A compact network as a file: read without the code of its model, and never more than a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.compaction import COMPACT_FORMAT, DENSE_FORMAT, compact, compact_bytes, dense_bytes, load
from hedgerow.errors import ModelError
from hedgerow.models import build_model

SHAPE = (3, 8, 8)


class Own(nn.Module):
    """A user's network, with arguments of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.register_buffer("shift", torch.tensor(0.5))
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.shift, Tensor)
        x = F.hardtanh(self.first(x), -1.0, float("inf")) + self.shift
        x = x.to(torch.float64).mean((2, 3)).to(torch.float32)
        logits: Tensor = self.out(x.contiguous().view(x.size(0), -1))
        return logits


def written(path: Path, model: nn.Module) -> bytes:
    content = compact_bytes(compact(model, SHAPE).program, metadata={"seed": 7})
    path.write_bytes(content)
    return content


def own() -> Own:
    torch.manual_seed(0)
    model = Own()
    with torch.no_grad():
        model.out.weight[:, 2] = 0
    return model.eval()


@pytest.mark.parametrize("make", [own, lambda: build_model("resnet20", input_shape=SHAPE, classes=4, seed=0).eval()])
def test_a_loaded_network_gives_the_same_outputs_for_any_batch(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    model = make()
    written(tmp_path / "m", model)
    network = load(tmp_path / "m")
    assert not network.training
    for count in (1, 2, 5):
        x = torch.randn(count, *SHAPE)
        torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_same_network_gives_the_same_bytes_and_its_tensors_keep_their_names(tmp_path: Path) -> None:
    first = written(tmp_path / "m", own())
    assert written(tmp_path / "n", own()) == first
    with safe_open(tmp_path / "m", framework="pt") as file:
        assert set(file.keys()) == {"first.weight", "first.bias", "out.weight", "out.bias", "shift"}
        assert file.get_tensor("out.weight").shape == (4, 6), "an operator without a rule keeps the channels"
        metadata = json.loads(file.metadata()["hedgerow"])
    assert metadata["seed"] == 7
    assert metadata["format"] == COMPACT_FORMAT
    assert metadata["input"] == {"name": "x", "shape": ["batch", 3, 8, 8]}
    assert metadata["steps"][1] == {
        "name": "conv2d",
        "op": "aten.conv2d.default",
        "arguments": {
            "input": {"value": "x"},
            "weight": {"tensor": "first.weight"},
            "bias": {"tensor": "first.bias"},
            "stride": [1, 1],
            "padding": [1, 1],
        },
        "shape": ["batch", 6, 8, 8],
    }
    network = load(tmp_path / "m")
    assert set(network.state_dict()) == {"first.weight", "first.bias", "out.weight", "out.bias", "shift"}
    assert {name for name, _ in network.named_buffers()} == {"shift"}


def changed(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> Path:
    written(path, own())
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        metadata = json.loads(file.metadata()["hedgerow"])
    change(metadata, tensors)
    save_file(tensors, path, metadata={"hedgerow": json.dumps(metadata)})
    return path


@pytest.mark.parametrize(
    "op",
    [
        "os.system",
        "builtins.eval",
        "operator.call",
        "aten.from_file.default",
        "aten.relu_.default",
        "aten.relu.__class__",
        "aten._assert_async.msg",
        "aten.relu.default.__init__",
        "aten.relu",
        "prims.add.default",
        "",
    ],
)
def test_a_file_cannot_name_what_is_no_computation(tmp_path: Path, op: str) -> None:
    def change(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        metadata["steps"][1]["op"] = op

    with pytest.raises(ModelError, match=r"damaged \("):
        load(changed(tmp_path / "m", change))


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], object]] = {
    "a tensor that is missing": lambda metadata, tensors: tensors.pop("out.bias"),
    "a tensor of another shape": lambda metadata, tensors: tensors.update({"out.weight": torch.zeros(4, 5)}),
    "no steps": lambda metadata, tensors: metadata.pop("steps"),
    "steps that are none": lambda metadata, tensors: metadata.update(steps=[3]),
    "a step that reads a later one": lambda metadata, tensors: metadata["steps"].reverse(),
    "an output that is not there": lambda metadata, tensors: metadata.update(output="nothing"),
    "an input of two axes": lambda metadata, tensors: metadata["input"].update(shape=["n", 3]),
    "an argument that is nothing": lambda metadata, tensors: metadata["steps"][1]["arguments"].update(input={"a": 1}),
    "an argument with two": lambda metadata, tensors: metadata["steps"][1]["arguments"].update(input={"a": 1, "b": 2}),
    "a type that is none": lambda metadata, tensors: metadata["steps"][1]["arguments"].update(input={"dtype": "save"}),
    "an argument that no one takes": lambda metadata, tensors: metadata["steps"][1]["arguments"].update(shape=3),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_damaged_file_is_a_model_error(tmp_path: Path, what: str) -> None:
    def change(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        CHANGES[what](metadata, tensors)

    with pytest.raises(ModelError, match=r"m: damaged \(.*\); export it again"):
        load(changed(tmp_path / "m", change))


def test_every_truncation_is_a_model_error(tmp_path: Path) -> None:
    whole = written(tmp_path / "m", own())
    for length in range(0, len(whole), 97):
        (tmp_path / "m").write_bytes(whole[:length])
        with pytest.raises(ModelError):
            load(tmp_path / "m")


def test_a_missing_file_and_files_of_others_are_model_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a readable model file"):
        load(tmp_path / "absent")
    save_file({"w": torch.zeros(2)}, tmp_path / "m")
    with pytest.raises(ModelError, match=r"format None; this reads hedgerow-compact-1, and hedgerow\.artifact reads"):
        load(tmp_path / "m")


def whole_file(path: Path, model: nn.Module, *, name: str) -> Path:
    metadata = {"model": name, "norm": "batch", "input_shape": SHAPE, "classes": 4}
    path.write_bytes(dense_bytes(model.state_dict(), metadata=metadata))
    return path


def test_a_built_in_model_that_is_stored_whole_is_built_again(tmp_path: Path) -> None:
    model = build_model("lenet5", input_shape=SHAPE, classes=4, seed=0).eval()
    x = torch.randn(3, *SHAPE)
    assert torch.equal(load(whole_file(tmp_path / "m", model, name="lenet5"))(x), model(x))
    with safe_open(tmp_path / "m", framework="pt") as file:
        assert json.loads(file.metadata()["hedgerow"])["format"] == DENSE_FORMAT


def test_a_model_of_ones_own_that_is_stored_whole_is_filled_and_never_imported(tmp_path: Path) -> None:
    path = whole_file(tmp_path / "m", own(), name="os:system")
    with pytest.raises(ModelError, match=r"holds only the tensors of os:system; pass load\(path, model=os:system"):
        load(path)
    x = torch.randn(3, *SHAPE)
    torch.manual_seed(5)
    assert torch.equal(load(path, model=Own())(x), own()(x))
    with pytest.raises(ModelError, match="does not fit its model"):
        load(path, model=nn.Linear(2, 2))
