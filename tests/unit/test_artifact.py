"""The model that a run delivers: small, readable without hedgerow, the same outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from hedgerow.artifact import ARTIFACT_FORMAT, artifact_bytes, load_artifact
from hedgerow.errors import ModelError
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.sparse import gather_kept, scatter_kept


def stored(path: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        return tensors, json.loads(file.metadata()["hedgerow"])


def network(*, density: float = 0.3, size: float | None = None) -> tuple[nn.Sequential, Mask]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    weights = {name: w.detach().clone() for name, w in prunable_tensors(model).items()}
    mask = Mask({name: torch.rand(w.shape) < density for name, w in weights.items()})
    kept = gather_kept(weights, mask)
    if size is not None:
        kept = np.where(kept >= 0, np.float32(size), np.float32(-size))
    scatter_kept(model, mask, kept)
    return model, mask


def saved(path: Path, model: nn.Module, mask: Mask) -> Path:
    path.write_bytes(artifact_bytes(model.state_dict(), mask, metadata={"seed": "7"}))
    return path


def test_kept_weights_are_packed_bits_and_values(tmp_path: Path) -> None:
    weight = torch.tensor([[0.5, 0, -0.25], [0, 0, 3]])
    mask = Mask({"w": torch.tensor([[True, False, True], [False, False, True]])})
    path = tmp_path / "model.safetensors"
    path.write_bytes(artifact_bytes({"w": weight, "bias": torch.tensor([1.0, 2.0])}, mask, metadata={"seed": "7"}))
    tensors, metadata = stored(path)
    assert set(tensors) == {"w.mask", "w.values", "bias"}
    assert tensors["w.mask"].tobytes() == bytes([0b10100100])
    assert tensors["w.values"].tolist() == [0.5, -0.25, 3]
    assert tensors["bias"].tolist() == [1, 2]
    assert metadata == {
        "seed": "7",
        "format": ARTIFACT_FORMAT,
        "shapes": {"w": [2, 3]},
        "mask_digest": mask.digest.hex(),
    }
    assert torch.equal(load_artifact(path)["w"], weight)


def test_weights_of_one_size_are_one_bit_each(tmp_path: Path) -> None:
    weight = torch.tensor([[0.5, 0, -0.5], [0, 0, 0.5]])
    mask = Mask({"w": torch.tensor([[True, False, True], [False, False, True]])})
    path = tmp_path / "model.safetensors"
    path.write_bytes(artifact_bytes({"w": weight}, mask, metadata={}))
    tensors, _ = stored(path)
    assert set(tensors) == {"w.mask", "w.signs", "w.magnitude"}
    assert tensors["w.signs"].tobytes() == bytes([0b10100000])
    assert tensors["w.magnitude"].tolist() == [0.5]
    assert torch.equal(load_artifact(path)["w"], weight)


def test_a_tensor_that_is_kept_whole_is_stored_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weight = torch.tensor([[0.5, -0.5]])
    path.write_bytes(artifact_bytes({"w": weight}, Mask.dense({"w": (1, 2)}), metadata={}))
    assert set(stored(path)[0]) == {"w"}
    assert torch.equal(load_artifact(path)["w"], weight)


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [None, 0.25, 0.0])
def test_a_loaded_model_gives_the_same_outputs(tmp_path: Path, density: float, size: float | None) -> None:
    model, mask = network(density=density, size=size)
    again, _ = network(density=1.0)
    again.load_state_dict(load_artifact(saved(tmp_path / "m", model, mask)))
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_signs_make_the_file_about_32_times_smaller_than_the_kept_weights(tmp_path: Path) -> None:
    bits = torch.rand(100, 1000) < 0.5
    weight = torch.where(torch.rand(100, 1000) < 0.5, 0.1, -0.1) * bits
    kept = int(bits.sum())
    size = len(artifact_bytes({"w": weight}, Mask({"w": bits}), metadata={}))
    assert size < 100_000 / 8 + kept / 8 + 600


def test_saving_changes_neither_tensors_nor_mask() -> None:
    model, mask = network()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    first = artifact_bytes(model.state_dict(), mask, metadata={})
    assert artifact_bytes(model.state_dict(), mask, metadata={}) == first
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a readable model file"):
        load_artifact(tmp_path / "missing")


def test_a_folder_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a readable model file"):
        load_artifact(tmp_path)


def test_another_format_is_a_model_error(tmp_path: Path) -> None:
    save_file({"w": np.zeros(2, dtype=np.float32)}, tmp_path / "m", metadata={"hedgerow": '{"format": "pt"}'})
    with pytest.raises(ModelError, match="format 'pt'; this version reads hedgerow-model-1"):
        load_artifact(tmp_path / "m")


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", ""])
def test_metadata_that_is_no_object_is_a_model_error(tmp_path: Path, text: str) -> None:
    save_file({"w": np.zeros(2, dtype=np.float32)}, tmp_path / "m", metadata={"hedgerow": text})
    with pytest.raises(ModelError):
        load_artifact(tmp_path / "m")


def test_a_file_of_others_is_a_model_error(tmp_path: Path) -> None:
    save_file({"w": np.zeros(2, dtype=np.float32)}, tmp_path / "m")
    with pytest.raises(ModelError, match="format None; this version reads hedgerow-model-1"):
        load_artifact(tmp_path / "m")


def test_every_truncation_is_a_model_error(tmp_path: Path) -> None:
    model, mask = network()
    whole = saved(tmp_path / "m", model, mask).read_bytes()
    for length in range(0, len(whole), 11):
        (tmp_path / "m").write_bytes(whole[:length])
        with pytest.raises(ModelError):
            load_artifact(tmp_path / "m")


PARTS: dict[str, np.ndarray] = {
    "w.mask": np.array([0b10100100], dtype=np.uint8),
    "w.signs": np.array([0b10100000], dtype=np.uint8),
    "w.magnitude": np.array([0.5], dtype=np.float32),
}


@pytest.mark.parametrize(
    ("change", "shapes"),
    [
        ({"w.mask": np.array([0, 0], dtype=np.uint8)}, '{"w": [2, 3]}'),
        ({"w.signs": np.zeros(0, dtype=np.uint8)}, '{"w": [2, 3]}'),
        ({"w.signs": None}, '{"w": [2, 3]}'),
        ({"w.magnitude": None}, '{"w": [2, 3]}'),
        ({"w.magnitude": np.zeros(2, dtype=np.float32)}, '{"w": [2, 3]}'),
        ({"w.values": np.zeros(2, dtype=np.float32)}, '{"w": [2, 3]}'),
        ({}, '{"w": [2, 30]}'),
        ({}, '{"w": [1000000, 1000000]}'),
        ({}, "[]"),
        ({}, "{"),
        ({}, None),
    ],
    ids=str,
)
def test_parts_that_do_not_fit_are_a_model_error(
    tmp_path: Path, change: dict[str, np.ndarray | None], shapes: str | None
) -> None:
    def write(parts: dict[str, np.ndarray | None], shapes: str | None) -> None:
        described = f'{{"format": "{ARTIFACT_FORMAT}"' + ("}" if shapes is None else f', "shapes": {shapes}}}')
        arrays = {k: v for k, v in parts.items() if v is not None}
        save_file(arrays, tmp_path / "m", metadata={"hedgerow": described})

    write({**PARTS}, '{"w": [2, 3]}')
    assert load_artifact(tmp_path / "m")["w"].tolist() == [[0.5, 0, -0.5], [0, 0, 0.5]]
    write({**PARTS, **change}, shapes)
    with pytest.raises(ModelError):
        load_artifact(tmp_path / "m")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 2**20))
def test_a_flipped_bit_is_read_or_a_model_error(tmp_path: Path, bit: int) -> None:
    model, mask = network()
    data = bytearray(artifact_bytes(model.state_dict(), mask, metadata={}))
    bit %= 8 * len(data)
    data[bit // 8] ^= 1 << bit % 8
    path = tmp_path / "m"
    path.write_bytes(data)
    try:
        tensors: dict[str, Tensor] = load_artifact(path)
    except ModelError:
        return
    assert tensors


def test_the_metadata_tells_others_the_shapes(tmp_path: Path) -> None:
    model, mask = network()
    _, metadata = stored(saved(tmp_path / "m", model, mask))
    assert metadata["shapes"] == {"0.weight": [4, 2, 3, 3], "3.weight": [3, 16]}
