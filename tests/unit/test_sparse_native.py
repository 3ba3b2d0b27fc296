"""Networks on the native kernels: the numbers of the dense network in float64, whatever is fused."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hedgerow.models import Norm, build_model
from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.sparse import KeptNetwork, float_tensors, gather_kept, scatter_kept, sparsify, write_vector
from hedgerow.sparse.conversion import kernel_layers, set_paths
from hedgerow.sparse.fusion import Chain, FusedBasicBlock
from hedgerow.sparse.layout import is_batch_last

pytestmark = pytest.mark.skipif(not status().available, reason=status().reason)

MODELS = ("resnet18", "resnet20", "conv4", "vgg11", "mobilenetv2", "lenet5", "mlp")


def random_mask(model: nn.Module, *, density: float = 0.2, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask(
        {name: torch.rand(w.shape, generator=generator) < density for name, w in prunable_tensors(model).items()}
    )


@torch.no_grad()
def away_from_kinks(model: nn.Module) -> nn.Module:
    """Shifts all that ReLUs see far from 0, up in even channels and down in odd ones.

    Where a sum is near 0, rounding alone decides whether its gradient flows, in float32 of any path.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.bias.copy_(torch.where(torch.arange(len(module.bias)) % 2 == 0, 3.5, -3.5))
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.copy_(torch.where(torch.arange(len(module.bias)) % 2 == 0, 9.0, -200.0))
            module.weight.mul_(0.05)
    return model


def native_of(model: nn.Module, mask: Mask, *, magnitudes: dict[str, Tensor] | None = None) -> KeptNetwork:
    network = sparsify(model, mask, magnitudes=magnitudes, kernels="native")
    write_vector(network.kept, gather_kept(dict(prunable_tensors(model)), mask))
    return network


def float64_of(model: nn.Module, mask: Mask) -> nn.Module:
    reference = copy.deepcopy(model)
    scatter_kept(reference, mask, gather_kept(dict(prunable_tensors(model)), mask))
    return reference.double()


def distance(found: Tensor | None, expected: Tensor | None) -> float:
    """Relative error in the root mean square."""
    assert found is not None
    assert expected is not None
    error = (found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)
    return float(error.detach())


def assert_near(found: Tensor | None, expected: Tensor | None, *, what: str = "", limit: float = 1e-5) -> None:
    error = distance(found, expected)
    assert error <= limit, f"{what}: {error:.1e}"


def trained(module: nn.Module, kept: list[Tensor], floats: list[Tensor], x: Tensor) -> dict[str, Tensor]:
    """All that one forward and backward gives: output, gradients, buffers."""
    x = x.clone().requires_grad_()
    output = module(x)
    output.backward(torch.linspace(-1, 1, output.numel(), dtype=x.dtype).view_as(output))
    found = {"output": output, "gradient of the input": x.grad}
    found |= {f"gradient of kept {k}": t.grad for k, t in enumerate(kept)}
    found |= {f"float {k}": t for k, t in enumerate(floats)}
    found |= {f"gradient of float {k}": t.grad for k, t in enumerate(floats)}
    found |= {n: b for n, b in module.named_buffers() if n.endswith("num_batches_tracked")}
    return {name: t for name, t in found.items() if t is not None}


def excess(network: KeptNetwork, model: nn.Module, mask: Mask, x: Tensor, *, training: bool) -> tuple[float, str]:
    """How far beyond its limit the worst output, gradient or buffer is from float64, as a factor; and its name.

    The limit is 1e-5, or about what the dense path errs by in float32 where that is more.
    """
    reference = float64_of(model, mask).train(training)
    expected = trained(reference, list(prunable_tensors(reference).values()), float_tensors(reference), x.double())
    dense = sparsify(model, mask, kernels="dense")
    write_vector(dense.kept, gather_kept(dict(prunable_tensors(model)), mask))
    rounded = trained(dense.module.train(training), dense.kept, dense.floats, x)
    network = copy.deepcopy(network)
    found = trained(network.module.train(training), network.kept, network.floats, x)
    assert found.keys() == expected.keys()
    counts = [name for name in expected if name.endswith("num_batches_tracked")]
    assert all(torch.equal(found[name], expected[name]) for name in counts)
    kept = {f"gradient of kept {k}": bits for k, (_, bits) in enumerate(mask.items())}
    exact = {name: (t[kept[name]] if name in kept else t).detach() for name, t in expected.items()}
    # Behind a norm, a gradient may be nothing but rounding.
    exact = {name: t for name, t in exact.items() if t.is_floating_point() and t.numel() and t.abs().max() > 1e-9}
    limit = max(1e-5, 3 * max(distance(rounded[name].view(t.shape), t) for name, t in exact.items()))
    return max((distance(found[name].view(t.shape), t) / limit, name) for name, t in exact.items())


def assert_same_training(
    network: KeptNetwork, model: nn.Module, mask: Mask, shape: tuple[int, ...], *, training: bool = True
) -> None:
    """Outputs, gradients and buffers are those of float64.

    Of three inputs one may err, because rounding alone may decide which of two values is the larger.
    """
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    worst = sorted(excess(network, model, mask, x, training=training) for x in inputs)
    assert worst[1][0] <= 1, worst


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", MODELS)
def test_a_whole_network_computes_and_trains_like_the_dense_one_in_float64(
    name: str, norm: Norm, training: bool
) -> None:
    model = away_from_kinks(build_model(name, input_shape=(3, 8, 8), classes=10, norm=norm, seed=0))
    mask = random_mask(model)
    network = native_of(model, mask)
    assert network.native_share() == 1
    assert_same_training(network, model, mask, (9, 3, 8, 8), training=training)


@pytest.mark.parametrize("name", ["resnet20", "mlp"])
def test_signs_train_on_the_same_kernels(name: str) -> None:
    model = away_from_kinks(build_model(name, input_shape=(3, 8, 8), classes=10, norm="batch", seed=0))
    mask = random_mask(model, density=0.3)
    magnitudes = {n: torch.tensor(0.1 + 0.1 * k) for k, n in enumerate(mask)}
    network = native_of(model, mask, magnitudes=magnitudes)
    with torch.no_grad():
        for n, weight in prunable_tensors(model).items():
            weight.copy_(torch.where(weight >= 0, magnitudes[n], -magnitudes[n]))
    reference = float64_of(model, mask)
    x = torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    upstream = torch.linspace(-1, 1, 90).view(9, 10)
    network.module(x).backward(upstream)
    reference(x.double()).backward(upstream.double())
    weights = prunable_tensors(reference)
    for n, kept in zip(mask, network.kept, strict=True):
        grad = weights[n].grad
        assert grad is not None
        assert_near(kept.grad, grad[mask[n]] * magnitudes[n], what=n, limit=5e-5)


@pytest.mark.parametrize("batch", [2, 3, 7, 15, 16, 17, 33])
def test_every_batch_size_gives_the_numbers_of_the_dense_network(batch: int) -> None:
    model = away_from_kinks(build_model("resnet20", input_shape=(1, 8, 8), classes=5, norm="batch", seed=0))
    mask = random_mask(model)
    assert_same_training(native_of(model, mask), model, mask, (batch, 1, 8, 8))


@settings(max_examples=40)
@given(data=st.data())
def test_any_convolution_between_norms_is_that_of_torch(data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 2, 3]), label="groups")
    inputs, outputs = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(1, 3))
    kernel = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    stride, padding = (data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))), data.draw(st.integers(0, 2))
    dilation = data.draw(st.integers(1, 2))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    model = nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups=groups, bias=data.draw(st.booleans())),
        nn.BatchNorm2d(outputs, affine=data.draw(st.booleans())),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    nn.init.constant_(model.get_parameter("0.bias"), 9.0)
    density = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.9]))
    mask = random_mask(model, density=density)
    size = data.draw(st.integers(5, 9)), data.draw(st.integers(5, 9))
    x = torch.randn(data.draw(st.integers(2, 20)), inputs, *size)
    network, reference = native_of(model, mask), float64_of(model, mask)
    if not kernel_layers(network.module):
        return
    found, expected = network.module(x), reference(x.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream.double())
    wanted = model.get_parameter("2.weight")
    grad = prunable_tensors(reference)["2.weight"].grad
    assert grad is not None
    assert network.kept[0].grad is not None
    assert wanted.grad is None
    torch.testing.assert_close(network.kept[0].grad.flatten().double(), grad[mask["2.weight"]], rtol=1e-3, atol=1e-4)


class Stranger(nn.Module):
    """A model of a user's: its own forward, a layer that has no kernel, one that is called with three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.second = nn.Conv2d(8, 8, 3, padding="same", bias=False)
        self.batch_norm = nn.BatchNorm2d(8)
        self.tail = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Softplus(), nn.MaxPool2d(2), nn.Flatten(2))
        self.mix = nn.Linear(9, 4)
        self.output = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        y = torch.tanh(self.batch_norm(self.second(y)) + y)
        y = self.mix(self.tail(y))
        output: Tensor = self.output(y.flatten(1))
        return output


def test_a_model_with_layers_that_have_no_kernel_trains_the_same_and_says_which() -> None:
    torch.manual_seed(0)
    model = Stranger()
    mask = random_mask(model, density=0.4)
    network = native_of(model, mask)
    assert [reason.partition(":")[0] for reason in network.unconverted] == ["norm", "second", "tail.1"]
    assert network.unconverted[1] == "second: Conv2d with its settings has no kernel"
    assert network.converted == ("first", "batch_norm", "tail.0", "tail.2", "mix", "output")
    assert_same_training(network, model, mask, (4, 3, 8, 8))


def test_the_layout_stays_batch_last_between_layers_and_residual_sums() -> None:
    model = build_model("resnet20", input_shape=(3, 8, 8), classes=10, norm="batch", seed=0)
    network = native_of(model, random_mask(model))
    assert isinstance(network.module, Chain)
    seen = []
    for module in network.module.modules():
        if isinstance(module, FusedBasicBlock):
            module.register_forward_hook(lambda m, x, y: seen.append((is_batch_last(x[0]), is_batch_last(y))))
    network.module(torch.randn(4, 3, 8, 8))
    assert seen == [(True, True)] * 9


def test_a_hooked_module_is_called_and_the_numbers_stay() -> None:
    model = build_model("conv4", input_shape=(1, 8, 8), classes=3, norm="batch", seed=0)
    mask = random_mask(model)
    plain, hooked = native_of(model, mask), native_of(model, mask)
    seen: list[torch.Size] = []
    for module in hooked.module.modules():
        module.register_forward_hook(lambda m, x, y: seen.append(y.shape))
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(hooked.module(x), plain.module(x))
    assert len(seen) == len(list(model.modules()))


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_of_a_native_network_computes_the_same_and_shares_nothing(way: str) -> None:
    model = build_model("resnet20", input_shape=(3, 8, 8), classes=10, norm="batch", seed=0)
    network = native_of(model, random_mask(model)).module
    twin = copy.deepcopy(network) if way == "deepcopy" else pickle.loads(pickle.dumps(network))  # noqa: S301 - our own
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(network(x), twin(x))
    mine = {t.data_ptr() for t in (*network.parameters(), *network.buffers()) if t.numel()}
    assert not mine & {t.data_ptr() for t in (*twin.parameters(), *twin.buffers()) if t.numel()}


def test_the_state_of_a_network_has_the_names_of_the_dense_path() -> None:
    model = build_model("resnet20", input_shape=(3, 8, 8), classes=10, norm="batch", seed=0)
    mask = random_mask(model)
    dense = sparsify(model, mask, kernels="dense").module.state_dict()
    native = sparsify(model, mask, kernels="native").module.state_dict()
    assert list(native) == list(dense)


def test_paths_can_be_mixed_and_changed() -> None:
    model = away_from_kinks(build_model("resnet20", input_shape=(3, 8, 8), classes=10, norm="batch", seed=0))
    mask = random_mask(model)
    for every in (2, 3):
        network = native_of(model, mask)
        names = list(kernel_layers(network.module))
        set_paths(network.module, {n: "dense" if k % every == 0 else "native" for k, n in enumerate(names)})
        assert 0 < network.native_share() < 1
        assert_same_training(network, model, mask, (6, 3, 8, 8))


def test_the_dense_path_of_a_converted_network_is_bit_for_bit_the_network_without_kernels() -> None:
    model = build_model("resnet20", input_shape=(3, 8, 8), classes=10, norm="batch", seed=0)
    mask = random_mask(model)
    x, grads = torch.randn(6, 3, 8, 8), []
    for converted in (True, False):
        network = sparsify(model, mask, kernels="native" if converted else "dense")
        write_vector(network.kept, gather_kept(dict(prunable_tensors(model)), mask))
        set_paths(network.module, dict.fromkeys(kernel_layers(network.module), "dense"))
        out = network.module(x)
        out.square().sum().backward()
        grads.append([out, *[t.grad for t in network.kept], *[t.grad for t in network.floats]])
    assert all(a is b is None or (a is not None and torch.equal(a, b)) for a, b in zip(*grads, strict=True))


def test_whole_layers_of_a_sparse_network_take_the_kernels_too() -> None:
    model = away_from_kinks(build_model("lenet5", input_shape=(1, 12, 12), classes=4, norm="batch", seed=0))
    mask = random_mask(model)
    mask = Mask({name: torch.ones_like(bits) if k % 2 == 0 else bits for k, (name, bits) in enumerate(mask.items())})
    network = native_of(model, mask)
    assert network.native_share() == 1
    assert_same_training(network, model, mask, (5, 1, 12, 12))


@pytest.mark.parametrize("settings", [{"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_batch_norm_settings_mean_what_they_mean_in_torch(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4, **settings),
        nn.Flatten(),
        nn.Linear(64, 6),
        nn.BatchNorm1d(6, **settings),
    )
    mask = random_mask(model, density=0.5)
    network, reference = native_of(model, mask), float64_of(model, mask)
    for _ in range(3):
        x = torch.randn(5, 2, 6, 6)
        assert_near(network.module(x), reference(x.double()), limit=1e-4)
    for mine, theirs in zip(network.floats, float_tensors(reference), strict=True):
        assert_near(mine, theirs)
    assert_near(network.module.eval()(x), reference.eval()(x.double()))


def test_a_batch_norm_with_one_value_a_channel_refuses_to_train_as_in_torch() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    network = native_of(model, random_mask(model, density=0.5))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network.module(torch.randn(1, 3))
    assert network.module.eval()(torch.randn(1, 3)).shape == (1, 2)


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", ["resnet20", "conv4"])
def test_the_number_of_threads_does_not_change_a_bit(name: str, norm: Norm) -> None:
    model = build_model(name, input_shape=(3, 16, 16), classes=10, norm=norm, seed=0)
    mask = random_mask(model)
    x, found = torch.randn(16, 3, 16, 16), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            network = native_of(model, mask)
            found.append(trained(network.module, network.kept, network.floats, x))
        finally:
            torch.set_num_threads(1)
    assert all(torch.equal(t, found[1][name]) for name, t in found[0].items())


def test_autocast_leaves_the_kernels_in_float32() -> None:
    model = build_model("resnet20", input_shape=(3, 8, 8), classes=10, norm="batch", seed=0)
    network = native_of(model, random_mask(model))
    x = torch.randn(4, 3, 8, 8)
    expected = copy.deepcopy(network.module)(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = network.module(x)
    assert torch.equal(found, expected)
