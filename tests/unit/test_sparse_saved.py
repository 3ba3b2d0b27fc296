"""What native networks hold between forward and backward: one tensor a norm, and never anything of dense size."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from hedgerow.activations import Activations, Kind, activations
from hedgerow.models import Norm, build_model
from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.sparse import KeptNetwork, gather_kept, sparsify, write_vector
from hedgerow.sparse.layers import Path
from hedgerow.telemetry.memory import allocation_peak

pytestmark = pytest.mark.skipif(not status().available, reason=status().reason)


def random_mask(model: nn.Module, *, density: float = 0.2) -> Mask:
    generator = torch.Generator().manual_seed(0)
    return Mask(
        {name: torch.rand(w.shape, generator=generator) < density for name, w in prunable_tensors(model).items()}
    )


def network_of(
    model: nn.Module, *, storage: Activations | None = None, recompute: bool = False, path: Path = "native"
) -> KeptNetwork:
    mask = random_mask(model)
    network = sparsify(model, mask, kernels=path, storage=storage, recompute=recompute)
    write_vector(network.kept, gather_kept(dict(prunable_tensors(model)), mask))
    return network


def saved_by(module: nn.Module, x: Tensor) -> list[Tensor]:
    """What autograd saves, parameters left out, each storage once."""
    saved: dict[int, Tensor] = {}
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in parameters:
            saved[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        module(x).sum().backward()
    return list(saved.values())


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


def test_each_norm_saves_its_input_and_nothing_else_is_saved_of_activations() -> None:
    found = saved_by(network_of(chain()).module, torch.randn(4, 2, 8, 8))
    sizes = Counter((t.numel(), t.dtype) for t in found)
    assert sizes == {
        (4 * 2 * 64, torch.float32): 1,  # the batch, for the first convolution
        (4 * 6 * 64, torch.float32): 2,  # the two norms' inputs
        (4 * 6 * 16, torch.uint8): 1,  # the winners of the pooling
        (4 * 6 * 16, torch.float32): 1,  # the input of the first linear layer
        (4 * 5, torch.float32): 1,  # the input of the ReLU after it
    }


def test_a_residual_block_saves_the_inputs_of_its_norms_and_its_output() -> None:
    model = build_model("resnet20", input_shape=(3, 8, 8), classes=10, norm="batch", seed=0)
    block = network_of(model).module.get_submodule("stage1_block1")
    x = torch.randn(16, 8, 8, 4).permute(3, 0, 1, 2).requires_grad_()
    found = [t for t in saved_by(block, x) if t.numel() >= x.numel()]
    assert len(found) == 4  # the block's input, two inputs of norms, its output
    assert {t.numel() for t in found} == {x.numel()}


@pytest.mark.parametrize("signed", [False, True])
def test_nothing_of_a_dense_weights_size_is_ever_allocated(signed: bool) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(300, 700), nn.ReLU(), nn.Linear(700, 10))
    mask = Mask({n: torch.rand(w.shape) < 0.01 for n, w in prunable_tensors(model).items()})
    magnitudes = {name: torch.tensor(0.3) for name in mask} if signed else None
    network = sparsify(model, mask, kernels="native", magnitudes=magnitudes)
    x = torch.randn(2, 300)
    _, peak = allocation_peak(lambda: network.module(x).sum().backward())
    assert peak < 300 * 700 * 4 / 4


def test_values_made_of_signs_are_not_saved() -> None:
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 3))
    mask = Mask({n: torch.rand(w.shape) < 0.5 for n, w in prunable_tensors(model).items()})
    network = sparsify(model, mask, kernels="native", magnitudes={n: torch.tensor(0.3) for n in mask}, estimator="tanh")
    kept = set(mask.layer_kept().values())
    assert not kept & {t.numel() for t in saved_by(network.module, torch.randn(4, 40))}


def test_indices_take_two_bytes_a_kept_weight_and_are_registered() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU())
    network = sparsify(model, random_mask(model), kernels="native")
    kept = network.kept[0].numel()
    assert sum(b.nbytes for b in network.module.buffers()) == 2 * kept + 4 * 65


KINDS: tuple[Kind, ...] = ("int8", "int4", "topk")


@pytest.mark.parametrize("path", ["native", "dense"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_stored_activations_take_less_and_gradients_point_the_same_way(kind: Kind, norm: Norm, path: Path) -> None:
    model = build_model("resnet20", input_shape=(3, 16, 16), classes=10, norm=norm, seed=0)
    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    grads, sizes = [], []
    for storage in (None, activations(kind, keep_ratio=0.3, seed=0)):
        network = network_of(model, storage=storage, path=path)
        saved = saved_by(network.module, x)
        sizes.append(sum(t.nbytes for t in saved))
        grads.append(torch.cat([t.grad.flatten() for t in network.kept if t.grad is not None]))
    cosine = torch.nn.functional.cosine_similarity(grads[0], grads[1], dim=0)
    assert cosine > {"int8": 0.999, "int4": 0.97, "topk": 0.9}[kind]
    assert not torch.equal(grads[0], grads[1])
    assert sizes[1] < sizes[0] * {"int8": 0.5, "int4": 0.35, "topk": 0.95}[kind]


def test_stored_activations_give_the_same_bits_when_seeded_again() -> None:
    model = build_model("resnet20", input_shape=(3, 8, 8), classes=10, norm="batch", seed=0)
    storage = activations("int8", keep_ratio=0.3, seed=0)
    network, x, grads = network_of(model, storage=storage), torch.randn(4, 3, 8, 8), []
    for seed in (7, 7, 8):
        storage.reseed(seed)
        network.module.zero_grad()
        network.module(x).sum().backward()
        grads.append(torch.cat([t.grad.flatten() for t in network.kept if t.grad is not None]))
    assert torch.equal(grads[0], grads[1])
    assert not torch.equal(grads[0], grads[2])


@pytest.mark.parametrize("path", ["native", "dense"])
@pytest.mark.parametrize("name", ["resnet20", "conv4", "mobilenetv2", "vgg11"])
def test_recomputing_gives_the_same_bits_with_less_memory(name: str, path: Path) -> None:
    model = build_model(name, input_shape=(3, 16, 16), classes=10, norm="batch", seed=0)
    x, found, peaks = torch.randn(8, 3, 16, 16), [], []
    for recompute in (False, True):
        network = network_of(model, recompute=recompute, path=path)
        out, peak = allocation_peak(lambda n=network: _trained(n, x))  # type: ignore[misc]  # mypy does not infer such lambdas
        peaks.append(peak)
        buffers = [b for n, b in network.module.named_buffers() if "running" in n or "tracked" in n]
        found.append([out, *[t.grad for t in (*network.kept, *network.floats)], *buffers])
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(*found, strict=True))
    # Conv-4 has one stage to recompute, during which it holds what it would have held.
    assert peaks[1] < peaks[0] or name == "conv4"


def test_recomputing_keeps_all_names() -> None:
    model = build_model("resnet20", input_shape=(3, 8, 8), classes=10, norm="batch", seed=0)
    assert list(network_of(model, recompute=True).module.state_dict()) == list(network_of(model).module.state_dict())


def _trained(network: KeptNetwork, x: Tensor) -> Tensor:
    out: Tensor = network.module(x)
    out.square().sum().backward()  # type: ignore[no-untyped-call]  # torch does not type it
    return out.detach()
