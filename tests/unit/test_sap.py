"""Scaled activation pruning: which layers store their largest inputs only, what that changes, and what it takes."""

from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from hedgerow.activations import Activations, Exact, Packed, TopK, activations
from hedgerow.models import Norm, StandardConv2d, StandardModule, build_model
from hedgerow.models.resnet import BasicBlock
from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.sparse import (
    KeptNetwork,
    SparseConv2d,
    SparseLayer,
    float_tensors,
    gather_kept,
    largest_gradients,
    read_vector,
    sparsify,
    write_vector,
)
from hedgerow.sparse.conversion import kernel_layers
from hedgerow.sparse.layers import Path
from hedgerow.telemetry.memory import allocation_peak

PATHS: tuple[Path, ...] = ("native", "dense") if status().available else ("dense",)
SHAPE = (1, 8, 8)
STANDARDISED = activations("topk", keep_ratio=0.5, seed=0, layers="standardised")


LARGEST = activations("topk", keep_ratio=0.5, seed=0)


@dataclass(frozen=True, slots=True)
class Spy:
    """Stores as another storage, and notes for whom."""

    storage: TopK
    name: str
    told: list[str] = field(default_factory=list)

    def pack(self, x: Tensor) -> Packed:
        self.told.append(self.name)
        return self.storage.pack(x)

    def reseed(self, seed: int) -> None:
        """Nothing."""


def random_mask(model: nn.Module, *, density: float = 0.3) -> Mask:
    generator = torch.Generator().manual_seed(0)
    return Mask(
        {name: torch.rand(w.shape, generator=generator) < density for name, w in prunable_tensors(model).items()}
    )


def network_of(model: nn.Module, *, path: Path, storage: Activations | None, recompute: bool = False) -> KeptNetwork:
    mask = random_mask(model)
    network = sparsify(model, mask, kernels=path, storage=storage, recompute=recompute)
    if not next(model.parameters()).is_meta:
        write_vector(network.kept, gather_kept({**prunable_tensors(model)}, mask))
        write_vector(network.floats, read_vector(float_tensors(model)))
    return network


def stored_by(name: str, *, norm: Norm, path: Path, storage: Activations) -> list[str]:
    """The layers that store their largest inputs only in one training pass."""
    model = build_model(name, input_shape=SHAPE, classes=4, norm=norm, seed=0, hollow=True)
    network = network_of(model, path=path, storage=storage)
    told: list[str] = []
    for layer_name, layer in kernel_layers(network.module).items():
        if isinstance(layer.activations.inputs, TopK):
            spy = Spy(layer.activations.inputs, layer_name, told)
            layer.activations = replace(layer.activations, inputs=spy)
    network.module(torch.ones(2, *SHAPE)).sum().backward()
    return told


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["mlp", "conv4", "resnet18", "mobilenetv2"])
def test_all_standardised_layers_store_so_but_for_the_one_that_reads_the_batch(name: str, path: Path) -> None:
    model = build_model(name, input_shape=SHAPE, classes=4, norm="nsconv", seed=0, hollow=True)
    standard = [n for n, m in model.named_modules() if isinstance(m, StandardModule)]
    told = stored_by(name, norm="nsconv", path=path, storage=STANDARDISED)
    assert sorted(told) == sorted(standard[1:])


@pytest.mark.parametrize("path", PATHS)
def test_none_does_where_none_is_standardised(path: Path) -> None:
    assert stored_by("conv4", norm="batch", path=path, storage=STANDARDISED) == []
    everywhere = stored_by("conv4", norm="none", path=path, storage=activations("topk", keep_ratio=0.5, seed=0))
    assert "output" in everywhere


def test_which_layers_are_meant_is_a_part_of_the_storage() -> None:
    assert STANDARDISED.of(standard=True).inputs == TopK(keep_ratio=0.5)
    assert STANDARDISED.of(standard=False).inputs == Exact()
    assert activations("topk", keep_ratio=0.5, seed=0).of(standard=False).inputs == TopK(keep_ratio=0.5)
    assert activations("exact", keep_ratio=0.5, seed=0, layers="standardised") == Activations()


def one_conv(*, path: Path, storage: Activations | None) -> KeptNetwork:
    torch.manual_seed(4)
    return network_of(nn.Sequential(StandardConv2d(4, 6, 3, padding=1)), path=path, storage=storage)


@pytest.mark.parametrize("path", PATHS)
def test_outputs_and_input_gradients_are_exact_and_weight_gradients_those_of_the_largest_inputs(path: Path) -> None:
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(5))
    upstream = torch.randn(3, 6, 6, 6, generator=torch.Generator().manual_seed(6))
    found = {}
    for kind, start in (("exact", x), ("topk", x), ("oracle", TopK(keep_ratio=0.5).pack(x).unpack())):
        network = one_conv(path=path, storage=STANDARDISED if kind == "topk" else None)
        z = start.clone().requires_grad_()
        output = network.module(z)
        output.backward(upstream)
        found[kind] = (output.detach(), z.grad, [p.grad for p in network.module.parameters()])
    assert torch.equal(found["topk"][0], found["exact"][0])
    assert found["topk"][1] is not None
    assert found["exact"][1] is not None
    assert torch.equal(found["topk"][1], found["exact"][1])
    for ours, oracle, exact in zip(found["topk"][2], found["oracle"][2], found["exact"][2], strict=True):
        assert ours is not None
        assert oracle is not None
        torch.testing.assert_close(ours, oracle, rtol=1e-5, atol=1e-5)
        assert exact is not None
    kept = [found[kind][2][0] for kind in ("topk", "exact")]
    assert not torch.allclose(kept[0], kept[1], rtol=1e-2, atol=1e-2)  # type: ignore[arg-type]  # checked above


@pytest.mark.parametrize("path", PATHS)
def test_an_input_takes_a_bit_an_element_and_two_bytes_a_kept_one(path: Path) -> None:
    network = one_conv(path=path, storage=STANDARDISED)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if tensor.dtype in (torch.uint8, torch.bfloat16):
            sizes.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        network.module(x)
    # 512 elements, of which 256 are kept in 2 bytes each.
    assert sorted(sizes) == [64, 512]


def gradients_of(network: KeptNetwork, x: Tensor, *, most: int = 50) -> dict[str, tuple[list[int], list[float]]]:
    names = [f"{n}.weight" for n, m in network.module.named_modules() if isinstance(m, SparseLayer)]
    found = largest_gradients(network.module, dict.fromkeys(names, most), lambda: network.module(x).square().mean())
    return {name: (positions.tolist(), values.tolist()) for name, (positions, values) in found.items()}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("norm", ["batch", "nsconv"])
@pytest.mark.parametrize("path", PATHS)
def test_what_is_found_at_pruned_weights_depends_on_no_recomputing_and_on_kernels_by_rounding_only(
    norm: Norm, path: Path, images: Tensor
) -> None:
    model = build_model("resnet20", input_shape=SHAPE, classes=4, norm=norm, seed=0)
    expected = gradients_of(network_of(model, path=path, storage=None), images)
    for name, (positions, values) in gradients_of(network_of(model, path="dense", storage=None), images).items():
        found = dict(zip(*expected[name], strict=True))
        shared = [(found[p], value) for p, value in zip(positions, values, strict=True) if p in found]
        assert len(shared) >= len(positions) - 1
        for ours, dense in shared:
            assert ours == pytest.approx(dense, rel=1e-3, abs=1e-3 * max(map(abs, values)))
    for recompute in (False, True):
        network = network_of(model, path=path, storage=None, recompute=recompute)
        paths = {n: layer.path for n, layer in kernel_layers(network.module).items()}
        assert gradients_of(network, images) == expected
        assert {n: layer.path for n, layer in kernel_layers(network.module).items()} == paths
        assert all(p.requires_grad and p.grad is None for p in network.module.parameters())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("recompute", [False, True])
def test_a_relu_before_pooling_keeps_bits_and_not_what_it_gives(path: Path, recompute: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    network = network_of(model, path=path, storage=LARGEST, recompute=recompute)
    kept: list[tuple[torch.dtype, int]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append((tensor.dtype, tensor.numel()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        network.module(torch.randn(2, *SHAPE))
    elements = 2 * 3 * 6 * 6
    assert (torch.uint8, elements // 8) in kept
    assert (torch.float32, elements) not in kept


@pytest.mark.parametrize("path", PATHS)
def test_what_both_branches_of_a_block_read_is_not_rectified_in_place(path: Path, images: Tensor) -> None:
    block = BasicBlock(main=nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1)), shortcut=nn.Identity())
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), block)
    dense = network_of(model, path="dense", storage=None).module(images)
    torch.testing.assert_close(network_of(model, path=path, storage=LARGEST).module(images), dense)


def test_gradients_at_pruned_weights_are_those_of_the_inputs_as_they_are_stored(images: Tensor) -> None:
    model = build_model("conv4", input_shape=SHAPE, classes=4, norm="nsconv", seed=0)
    storage = activations("topk", keep_ratio=0.1, seed=0, layers="standardised")
    exact = gradients_of(network_of(model, path="dense", storage=None), images)
    found = gradients_of(network_of(model, path="dense", storage=storage), images)
    # What reads the batch, and the output, which is not standardised, store exactly.
    assert found["conv1.weight"] == exact["conv1.weight"]
    assert found["output.weight"] == exact["output.weight"]
    for name in ("conv2.weight", "conv3.weight", "linear1.weight"):
        assert found[name] != exact[name]


def test_looking_for_gradients_holds_no_input_of_a_layer_that_nobody_asks() -> None:
    torch.manual_seed(8)
    model = nn.Sequential(*(layer for _ in range(8) for layer in (StandardConv2d(8, 8, 3, padding=1), nn.Identity())))
    network, x = network_of(model, path="dense", storage=None), torch.randn(4, 8, 16, 16)
    one = 4 * 8 * 16 * 16 * 4
    peaks = {}
    for asked in (("0.weight",), tuple(f"{n}.weight" for n in range(0, 16, 2))):
        counts = dict.fromkeys(asked, 1)
        _, peaks[len(asked)] = allocation_peak(
            lambda counts=counts: largest_gradients(network.module, counts, lambda: network.module(x).square().mean())  # type: ignore[misc]  # mypy does not infer lambdas with defaults
        )
    # Both go through all layers; seven inputs more are held where all are asked.
    assert peaks[8] - peaks[1] > 4 * one


@pytest.mark.parametrize("asked", ["first", "last"])
def test_a_layer_that_runs_again_in_the_backward_is_asked_once(asked: Literal["first", "last"], images: Tensor) -> None:
    model = build_model("conv4", input_shape=SHAPE, classes=4, norm="nsconv", seed=0)
    names = {"first": "conv1.weight", "last": "linear2.weight"}
    counts = {names[asked]: 5}
    results = []
    for recompute in (False, True):
        network = network_of(model, path="dense", storage=None, recompute=recompute)
        assert isinstance(network.module.get_submodule("conv1"), SparseConv2d)
        positions, values = largest_gradients(
            network.module,
            counts,
            lambda network=network: network.module(images).square().mean(),  # type: ignore[misc]  # as above
        )[names[asked]]
        results.append((positions.tolist(), values.tolist()))
    assert results[0] == results[1]
    assert len(results[0][0]) == 5
