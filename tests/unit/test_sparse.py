"""Layers that hold kept positions only: the same numbers as the dense layer under a mask, and nothing of full size."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hedgerow.errors import ModelError
from hedgerow.models import build_model
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.sparse import (
    KeptNetwork,
    SparseConv2d,
    SparseLayer,
    SparseLinear,
    SparseOther,
    float_names,
    float_tensors,
    gather_kept,
    read_vector,
    scatter_kept,
    sparsify,
    variance_positions,
    write_vector,
)

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], type[SparseLayer]]] = {
    "conv": (lambda: nn.Conv2d(3, 4, 3), (2, 3, 7, 6), SparseConv2d),
    "conv without bias": (lambda: nn.Conv2d(3, 4, 3, bias=False), (2, 3, 7, 6), SparseConv2d),
    "stride and padding": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 3, 7, 6), SparseConv2d),
    "dilation": (lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2), (2, 3, 7, 6), SparseConv2d),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 6), SparseConv2d),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 7, 6), SparseConv2d),
    "linear": (lambda: nn.Linear(5, 4), (3, 5), SparseLinear),
    "linear without bias": (lambda: nn.Linear(5, 4, bias=False), (3, 5), SparseLinear),
    "linear of sequences": (lambda: nn.Linear(5, 4), (3, 2, 5), SparseLinear),
    "linear of one vector": (lambda: nn.Linear(5, 4), (5,), SparseLinear),
    "same padding": (lambda: nn.Conv2d(3, 4, 3, padding="same"), (2, 3, 7, 6), SparseOther),
    "circular padding": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 7, 6), SparseOther),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), (2, 3, 4, 4), SparseOther),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), (2, 3, 9), SparseOther),
}


def assert_near(found: Tensor | None, expected: Tensor | None, *, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def random_mask(model: nn.Module, *, density: float = 0.4, seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask(
        {name: torch.rand(w.shape, generator=generator) < density for name, w in prunable_tensors(model).items()}
    )


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Conv2d(5, 5, 3, padding="same"),
        nn.Flatten(),
        nn.Linear(5 * 16, 7),
        nn.BatchNorm1d(7),
        nn.Linear(7, 3),
    )


def sparse_with_weights_of(model: nn.Module, mask: Mask) -> KeptNetwork:
    network = sparsify(model, mask)
    write_vector(network.kept, gather_kept(dict(prunable_tensors(model)), mask))
    return network


def values_of(network: KeptNetwork) -> dict[str, Tensor]:
    return {name.replace(".layer.", "."): t for name, t in network.module.state_dict().items()}


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_are_those_of_the_dense_layer_under_the_mask(name: str) -> None:
    build, shape, kind = LAYERS[name]
    torch.manual_seed(1)
    dense, mask = build(), random_mask(build())
    network = sparse_with_weights_of(dense, mask)
    assert type(network.module) is kind
    with torch.no_grad():
        dense.get_parameter("weight").mul_(mask["weight"])
    x = torch.randn(shape)
    x_dense, x_sparse = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, got = dense(x_dense), network.module(x_sparse)
    assert_near(got, expected)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    got.backward(upstream)
    assert_near(x_sparse.grad, x_dense.grad)
    dense_grad = dense.get_parameter("weight").grad
    assert dense_grad is not None
    assert_near(network.kept[0].grad, dense_grad[mask["weight"]])
    for parameter, bias in zip(network.floats, [p for n, p in dense.named_parameters() if n == "bias"], strict=True):
        assert_near(parameter.grad, bias.grad)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_without_kept_weights_gives_its_bias_and_trains(name: str) -> None:
    build, shape, _ = LAYERS[name]
    dense = build()
    network = sparsify(dense, random_mask(dense, density=0))
    x = torch.randn(shape, requires_grad=True)
    out = network.module(x)
    out.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()
    assert network.kept[0].numel() == 0
    biases = [p for n, p in dense.named_parameters() if n == "bias"]
    expected = biases[0] if biases else torch.zeros(4)
    assert set(out.flatten().tolist()) <= {*expected.tolist(), 0.0}


def test_an_input_that_needs_no_gradient_costs_none_and_the_values_still_train() -> None:
    dense = nn.Conv2d(2, 3, 3)
    network = sparse_with_weights_of(dense, random_mask(dense))
    network.module(torch.randn(1, 2, 5, 5)).sum().backward()
    assert network.kept[0].grad is not None
    assert network.kept[0].grad.abs().sum() > 0


def test_channels_last_inputs_give_the_same_gradients() -> None:
    dense = nn.Conv2d(4, 6, 3, padding=1)
    mask = random_mask(dense)
    x, grads = torch.randn(2, 4, 5, 5), []
    for layout in (torch.contiguous_format, torch.channels_last):
        network = sparse_with_weights_of(dense, mask)
        out = network.module(x.contiguous(memory_format=layout))
        (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        grads.append(network.kept[0].grad)
    assert_near(grads[0], grads[1], rtol=1e-4, atol=1e-2)


def test_a_sign_layer_has_the_weight_magnitude_times_sign_and_zero_is_positive() -> None:
    mask = Mask({"weight": torch.tensor([[True, True, False, True, True]])})
    network = sparsify(nn.Linear(5, 1, bias=False), mask, magnitudes={"weight": torch.tensor(0.5)})
    write_vector(network.kept, np.array([0.0, -0.0, -1e-30, 3.0], dtype=np.float32))
    assert network.module(torch.eye(5)).flatten().tolist() == [0.5, 0.5, 0.0, -0.5, 0.5]


def test_each_kept_weight_may_have_its_own_magnitude() -> None:
    mask = Mask({"weight": torch.tensor([[True, False, True]])})
    network = sparsify(nn.Linear(3, 1, bias=False), mask, magnitudes={"weight": torch.tensor([2.0, 3.0])})
    write_vector(network.kept, np.array([-1.0, 1.0], dtype=np.float32))
    assert network.module(torch.eye(3)).flatten().tolist() == [-2.0, 0.0, 3.0]


def test_the_identity_estimator_passes_the_gradient_times_the_magnitude() -> None:
    mask = Mask.dense({"weight": (1, 2)})
    network = sparsify(nn.Linear(2, 1, bias=False), mask, magnitudes={"weight": torch.tensor([2.0, 3.0])})
    write_vector(network.kept, np.array([0.7, -0.1], dtype=np.float32))
    network.module(torch.tensor([[10.0, 100.0]])).backward(torch.tensor([[0.5]]))
    assert network.kept[0].grad is not None
    assert network.kept[0].grad.tolist() == [0.5 * 10 * 2, 0.5 * 100 * 3]


def test_the_tanh_estimator_multiplies_by_one_minus_tanh_squared_of_the_score() -> None:
    mask = Mask.dense({"weight": (1, 3)})
    network = sparsify(nn.Linear(3, 1, bias=False), mask, magnitudes={"weight": torch.tensor(2.0)}, estimator="tanh")
    write_vector(network.kept, np.array([1.0, -1.0, 0.0], dtype=np.float32))
    network.module(torch.ones(1, 3)).backward()
    # 1 - tanh²(1) = 0.41997434
    assert network.kept[0].grad is not None
    assert_near(network.kept[0].grad, torch.tensor([0.83994868, 0.83994868, 2.0]))


@pytest.mark.parametrize("signed", [False, True])
def test_sparsify_and_training_leave_the_given_model_as_it_was(signed: bool) -> None:
    model = small_network()
    before = copy.deepcopy(model.state_dict())
    modules = [type(m) for m in model.modules()]
    mask = random_mask(model)
    magnitudes = {name: torch.tensor(0.3) for name in mask} if signed else None
    network = sparsify(model, mask, magnitudes=magnitudes)
    optimiser = torch.optim.SGD(network.module.parameters(), lr=1.0)
    network.module(torch.randn(4, 2, 4, 4)).square().sum().backward()
    optimiser.step()
    assert [type(m) for m in model.modules()] == modules
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_whole_layers_of_a_mask_stay_dense_and_are_copies() -> None:
    model = small_network()
    mask = Mask.dense({name: tuple(w.shape) for name, w in prunable_tensors(model).items()})
    network = sparsify(model, mask)
    assert [type(m) for m in network.module.children()] == [type(m) for m in model]
    assert not {id(p) for p in network.module.parameters()} & {id(p) for p in model.parameters()}
    storages = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert not {p.untyped_storage().data_ptr() for p in network.module.parameters()} & storages


@pytest.mark.parametrize("signed", [False, True])
def test_nothing_of_a_dense_weight_is_stored_in_a_sparse_network(signed: bool) -> None:
    model = small_network()
    mask = random_mask(model, density=0.2)
    sizes = {w.numel() for w in prunable_tensors(model).values()}
    assert sizes == {90, 225, 560, 21}
    magnitudes = {name: torch.tensor(0.3) for name in mask} if signed else None
    network = sparsify(model, mask, magnitudes=magnitudes)
    stored = [*network.module.parameters(), *network.module.buffers()]
    held = [t for t in stored if t.device.type != "meta"]
    assert not sizes & {t.numel() for t in held}
    assert not sizes & {t.untyped_storage().nbytes() // 4 for t in held}


@pytest.mark.parametrize("estimator", [None, "identity", "tanh"])
def test_autograd_saves_no_dense_weight_of_a_convolution_or_linear_layer(estimator: str | None) -> None:
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 7))
    mask = random_mask(model, density=0.2)
    magnitudes = None if estimator is None else {name: torch.tensor(0.3) for name in mask}
    network = sparsify(model, mask, magnitudes=magnitudes, estimator="tanh" if estimator == "tanh" else "identity")
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = network.module(torch.randn(3, 2, 4, 4))
    assert mask.layer_kept()["0.weight"] in saved  # the hook does see what the layers save
    assert not {90, 560} & set(saved)
    out.sum().backward()


def test_the_vectors_of_a_network_round_trip() -> None:
    model = small_network()
    network = sparsify(model, random_mask(model))
    for tensors in (network.kept, network.floats):
        vector = np.arange(sum(t.numel() for t in tensors), dtype=np.float32)
        write_vector(tensors, vector)
        assert np.array_equal(read_vector(tensors), vector)


def test_writing_a_vector_copies_it() -> None:
    vector, tensor = np.ones(3, dtype=np.float32), torch.zeros(3)
    write_vector([tensor], vector)
    vector[:] = 9
    assert tensor.tolist() == [1, 1, 1]


def test_a_vector_of_no_tensors_is_empty() -> None:
    assert read_vector([]).shape == (0,)
    assert read_vector([]).dtype == np.float32


def test_floats_are_named_in_their_order_and_neither_pruned_weights_nor_counters_are_among_them() -> None:
    model = small_network()
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = float_names(model)
    assert [id(named[name]) for name in names] == [id(tensor) for tensor in float_tensors(model)]
    assert not set(names) & set(prunable_tensors(model))
    assert {"1.weight", "1.running_var", "3.bias"} <= set(names)
    assert "1.num_batches_tracked" not in names


@pytest.mark.parametrize("signed", [False, True])
def test_floats_have_the_same_order_in_the_dense_and_the_sparse_network(signed: bool) -> None:
    model = small_network()
    mask = random_mask(model)
    magnitudes = {name: torch.tensor(0.3) for name in mask} if signed else None
    network = sparsify(model, mask, magnitudes=magnitudes)
    size = sum(t.numel() for t in float_tensors(model))
    write_vector(float_tensors(model), np.arange(size, dtype=np.float32))
    write_vector(network.floats, read_vector(float_tensors(model)))
    dense, sparse = model.state_dict(), values_of(network)
    for name in (
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "3.bias",
        "5.bias",
        "6.running_var",
        "7.bias",
    ):
        assert torch.equal(sparse[name], dense[name]), name
    assert dense["1.weight"].tolist() == [0, 1, 2, 3, 4]
    # Two batch norms of 5 and 7 (weight, bias, mean, variance), biases of 5, 7 and 3; the count of batches is no float.
    assert size == 4 * (5 + 7) + 5 + 7 + 3


def test_kept_weights_scattered_back_give_the_masked_model() -> None:
    model = small_network()
    mask = random_mask(model)
    weights = {name: w.detach().clone() for name, w in prunable_tensors(model).items()}
    scatter_kept(model, mask, gather_kept(weights, mask))
    for name, weight in prunable_tensors(model).items():
        assert torch.equal(weight, weights[name] * mask[name])


def test_a_sparse_network_evaluates_like_the_masked_model() -> None:
    model = small_network()
    mask = random_mask(model)
    network = sparse_with_weights_of(model, mask)
    scatter_kept(model, mask, read_vector(network.kept))
    x = torch.randn(4, 2, 4, 4)
    assert_near(network.module.eval()(x), model.eval()(x))
    assert_near(network.module.train()(x), model.train()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("signed", [False, True])
def test_bf16_autocast_trains_with_float32_gradients_near_those_of_float32(signed: bool) -> None:
    model = small_network()
    mask = random_mask(model)
    x, grads = torch.randn(4, 2, 4, 4), []
    for half in (False, True):
        magnitudes = {name: torch.tensor(0.3) for name in mask} if signed else None
        network = sparsify(model, mask, magnitudes=magnitudes)
        write_vector(network.kept, gather_kept(dict(prunable_tensors(model)), mask))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = network.module(x)
        assert out.dtype == (torch.bfloat16 if half else torch.float32)
        out.float().logsumexp(1).sum().backward()
        assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in network.kept)
        grads.append(torch.cat([t.grad.flatten() for t in network.kept if t.grad is not None]))
    cosine = torch.nn.functional.cosine_similarity(grads[0], grads[1], dim=0)
    assert cosine > 0.98


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


class TiedToEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.output = nn.Linear(3, 4)
        self.output.weight = self.embedding.weight


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first


@pytest.mark.parametrize("model", [Tied(), TiedToEmbedding(), Twice()], ids=["tied", "embedding", "module"])
def test_a_weight_that_two_layers_share_is_refused(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="are one weight"):
        sparsify(model, random_mask(model))


def test_a_sparse_layer_prints_its_density() -> None:
    dense = nn.Linear(4, 2)
    mask = Mask({"weight": torch.arange(8).view(2, 4) < 3})
    assert "(2, 4), kept=3 of 8" in repr(sparsify(dense, mask).module)


def test_the_places_of_variances_in_the_floats_are_found() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    # Bias, scale and shift of the norm, its mean, its variance.
    assert variance_positions(model).tolist() == [False] * 8 + [True] * 2


@pytest.mark.parametrize("density", [0.3, 1.0])
def test_a_hollow_model_gives_the_network_of_the_whole_one_once_its_values_are_written(density: float) -> None:
    whole = build_model("lenet5", input_shape=(1, 8, 8), classes=10, seed=0)
    mask = random_mask(whole, density=density)
    hollow = build_model("lenet5", input_shape=(1, 8, 8), classes=10, seed=0, hollow=True)
    networks = [sparsify(model, mask, kernels="dense") for model in (whole, hollow)]
    values = gather_kept({name: w.detach() for name, w in prunable_tensors(whole).items()}, mask)
    for network in networks:
        write_vector(network.kept, values)
        write_vector(network.floats, read_vector(float_tensors(whole)))
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(networks[0].module(x), networks[1].module(x))
