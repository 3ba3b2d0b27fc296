"""Standardised weights: their numbers, their gradients, and networks of them from building to what is handed over."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from hedgerow.config import AggregationSettings, Experiment, SignSettings
from hedgerow.errors import ModelError
from hedgerow.models import StandardConv2d, StandardLinear, StandardModule, build_model
from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors, synflow_scores
from hedgerow.representation import Signs
from hedgerow.sparse import (
    KeptNetwork,
    SparseLayer,
    SparseLinear,
    SparseOther,
    float_names,
    float_tensors,
    folded,
    gather_kept,
    largest_gradients,
    read_vector,
    sparsify,
    write_vector,
)
from hedgerow.sparse.standardising import row_factor, standardised

Statistics = Literal["kept", "all"]
BOTH: tuple[Statistics, ...] = ("kept", "all")
SHAPE = (1, 8, 8)


def of_rows(*rows: Sequence[float], fan_in: int, statistics: Statistics, gain: float = 1.0) -> list[float]:
    ends = torch.tensor([0, *np.cumsum([len(row) for row in rows])])
    values = torch.tensor([value for row in rows for value in row], dtype=torch.float32)
    gains = torch.full((len(rows),), gain)
    return standardised(values, gains, rows=ends, fan_in=fan_in, statistics=statistics).tolist()


def by_the_formula(weight: Tensor, gain: Tensor, mask: Tensor, *, statistics: Statistics) -> Tensor:
    """Row by row as it is written, on a dense weight; (k,)."""
    rows = []
    for w, g, kept in zip(weight, gain, mask, strict=True):
        counted = w * kept if statistics == "all" else w[kept]
        several = counted.numel() >= 2
        mean = counted.mean() if several else torch.zeros((), dtype=w.dtype)
        size = counted.numel() * counted.var() if several else counted.square().sum()
        rows.append(g * (w[kept] - mean) / size.clamp(min=1e-4).sqrt())
    return torch.cat(rows)


def random_mask(model: nn.Module, *, density: float = 0.3) -> Mask:
    generator = torch.Generator().manual_seed(0)
    return Mask(
        {name: torch.rand(w.shape, generator=generator) < density for name, w in prunable_tensors(model).items()}
    )


def model_of(name: str = "lenet5", *, statistics: Statistics = "kept", gain: float = 1.0) -> nn.Module:
    return build_model(name, input_shape=SHAPE, classes=4, norm="nsconv", statistics=statistics, gain=gain, seed=0)


def filled(model: nn.Module, mask: Mask, *, kernels: Literal["native", "dense", "auto"] = "auto") -> KeptNetwork:
    network = sparsify(model, mask, kernels=kernels)
    write_vector(network.kept, gather_kept({**prunable_tensors(model)}, mask))
    write_vector(network.floats, read_vector(float_tensors(model)))
    return network


def test_two_kept_weights_of_an_output_lie_opposite_each_other() -> None:
    # μ = 2, the unbiased variance is 2, and √(2 · 2) = 2.
    assert of_rows([1, 3], fan_in=9, statistics="kept") == [-0.5, 0.5]
    assert of_rows([1, 3], fan_in=9, statistics="kept", gain=4.0) == [-2.0, 2.0]


def test_pruned_zeros_count_where_all_weights_do() -> None:
    # 1, 3, 0, 0: μ = 1, squares 0 + 4 + 1 + 1, unbiased variance 2, √(4 · 2).
    assert of_rows([1, 3], fan_in=4, statistics="all") == pytest.approx([0, 2 / math.sqrt(8)])


@pytest.mark.parametrize("statistics", BOTH)
def test_an_output_without_kept_weights_gives_none_and_leaves_the_others_alone(statistics: Statistics) -> None:
    alone = of_rows([1, 3, 5], fan_in=4, statistics=statistics)
    assert of_rows([], [1, 3, 5], [], [], fan_in=4, statistics=statistics) == alone
    assert of_rows([], [], fan_in=4, statistics=statistics) == []


def test_one_kept_weight_is_as_large_as_the_gain_and_keeps_its_sign() -> None:
    assert of_rows([-7], [0.5], [0.005], fan_in=9, statistics="kept", gain=2.0) == pytest.approx([-2, 2, 1])


def test_weights_that_hardly_differ_are_not_blown_up() -> None:
    # 2 · var = 4 · 10⁻⁶ counts as 10⁻⁴, so they are multiplied by 100 and no more.
    assert of_rows([0.001, -0.001], fan_in=9, statistics="kept") == pytest.approx([0.1, -0.1])


@given(
    seed=st.integers(0, 2**32 - 1),
    density=st.sampled_from([0.0, 0.15, 0.5, 1.0]),
    scale=st.sampled_from([1.0, 1e-3]),
    outputs=st.integers(1, 6),
    fan_in=st.integers(1, 7),
    statistics=st.sampled_from(BOTH),
)
@settings(max_examples=60)
def test_values_and_gradients_are_those_of_the_formula(
    seed: int, density: float, scale: float, outputs: int, fan_in: int, statistics: Statistics
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (scale * torch.randn(outputs, fan_in, generator=generator, dtype=torch.float64)).requires_grad_()
    gain = torch.rand(outputs, generator=generator, dtype=torch.float64).requires_grad_()
    mask = torch.rand(outputs, fan_in, generator=generator) < density
    rows = torch.cat((torch.zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)))
    kept = weight[mask].detach().requires_grad_()
    found = standardised(kept, gain, rows=rows, fan_in=fan_in, statistics=statistics)
    expected = by_the_formula(weight, gain, mask, statistics=statistics)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn(kept.numel(), generator=generator, dtype=torch.float64)
    mine = torch.autograd.grad(found, (kept, gain), upstream)
    theirs = torch.autograd.grad(expected, (weight, gain), upstream, materialize_grads=True, allow_unused=True)
    torch.testing.assert_close(mine[0], theirs[0][mask], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(mine[1], theirs[1], rtol=1e-7, atol=1e-7)


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 100))
@settings(max_examples=25)
def test_kept_weights_sum_to_0_and_only_their_proportions_count(seed: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, rows = torch.randn(12, generator=generator), torch.tensor([0, 5, 12])
    found = standardised(values, torch.ones(2), rows=rows, fan_in=20, statistics="kept")
    assert found[:5].sum().item() == pytest.approx(0, abs=1e-5)
    assert found[5:].sum().item() == pytest.approx(0, abs=1e-5)
    scaled = standardised(factor * values, torch.ones(2), rows=rows, fan_in=20, statistics="kept")
    torch.testing.assert_close(scaled, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("statistics", BOTH)
def test_where_nothing_is_pruned_a_sparse_layer_is_the_dense_one(statistics: Statistics) -> None:
    torch.manual_seed(0)
    dense = StandardConv2d(3, 4, 3, padding=1)
    dense.statistics = statistics
    x = torch.randn(2, 3, 5, 5)
    network = filled(dense, random_mask(dense, density=2))
    assert isinstance(network.module, SparseLayer)
    torch.testing.assert_close(network.module(x), dense(x), rtol=1e-5, atol=1e-5)


def test_a_dense_layer_of_one_weight_an_output_keeps_its_sign() -> None:
    layer = StandardLinear(1, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-3.0], [0.001]]))
    assert layer(torch.ones(1, 1)).tolist() == [pytest.approx([-1.0, 0.1])]


@pytest.mark.parametrize("name", ["mlp", "lenet5", "conv4", "resnet20", "mobilenetv2"])
def test_all_but_the_output_is_standardised_and_stays_so_in_a_sparse_network(name: str) -> None:
    dense = build_model(name, input_shape=SHAPE, classes=4, norm="nsconv", seed=0, hollow=True)
    weighted = {n: m for n, m in dense.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert [n for n, m in weighted.items() if not isinstance(m, StandardModule)] == ["output"]
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in dense.modules())
    network = sparsify(dense, random_mask(dense))
    layers = {n: m for n, m in network.module.named_modules() if isinstance(m, SparseLayer)}
    assert [n for n, m in layers.items() if not m.standard] == ["output"]
    assert not any(isinstance(m, SparseOther) for m in network.module.modules())


def test_floats_have_one_order_in_dense_and_sparse_networks() -> None:
    model = model_of("resnet20")
    pruned = {f"{name}.kept" for name, _ in model.named_modules()}
    network = filled(model, random_mask(model))
    names = [n for n, _ in network.module.named_parameters() if n not in pruned]
    assert names == float_names(model)
    assert names[:3] == ["stem.bias", "stem.gain", "stage1_block1.main.conv1.bias"]


def test_a_layer_that_the_mask_keeps_whole_is_standardised_too() -> None:
    model = model_of("mlp")
    network = sparsify(model, random_mask(model, density=2))
    assert isinstance(network.module.get_submodule("linear1"), SparseLinear)
    assert type(network.module.get_submodule("output")).__name__ in ("Linear", "WholeLinear")


def test_a_layer_of_the_users_own_that_standardises_is_refused() -> None:
    class Own(StandardLinear):
        pass

    for layer in (Own(3, 2), StandardConv2d(1, 1, 3, padding="same")):
        with pytest.raises(
            ModelError, match=r"standardises its weights and cannot be pruned as it is: use StandardConv2d"
        ):
            sparsify(layer, random_mask(layer))


@pytest.mark.skipif(not status().available, reason=status().reason)
@pytest.mark.parametrize("statistics", BOTH)
@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_native_kernels_give_the_numbers_of_the_dense_path(name: str, statistics: Statistics) -> None:
    model = model_of(name, statistics=statistics, gain=1.5)
    mask, x = random_mask(model), torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    results = []
    for kernels in ("native", "dense"):
        network = filled(model, mask, kernels=kernels)
        output = network.module(x)
        output.square().mean().backward()
        results.append((output.detach(), [p.grad for p in network.module.parameters()]))
    torch.testing.assert_close(*(output for output, _ in results), rtol=1e-4, atol=1e-4)
    largest = max(float(grad.abs().max()) for grad in results[1][1] if grad is not None)
    for native, dense in zip(*(grads for _, grads in results), strict=True):
        assert native is not None
        assert dense is not None
        torch.testing.assert_close(native, dense, rtol=1e-3, atol=1e-5 * largest)


def test_a_batch_in_parts_gives_its_own_gradients_as_it_does_not_with_batch_norms() -> None:
    x = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(2))
    difference = {}
    for norm in ("nsconv", "batch"):
        model = build_model("conv4", input_shape=SHAPE, classes=4, norm=norm, seed=0)
        found = []
        for parts in (1, 2):
            network = filled(model, random_mask(model))
            for part in x.chunk(parts):
                (network.module(part).square().mean() / parts).backward()
            found.append(torch.cat([p.grad.flatten() for p in network.kept if p.grad is not None]))
        difference[norm] = float((found[0] - found[1]).norm() / found[0].norm())
    assert difference["nsconv"] < 1e-5
    assert difference["batch"] > 5e-4


@pytest.mark.parametrize("statistics", BOTH)
def test_what_is_handed_over_computes_the_same_in_layers_of_torch_and_without_gains(statistics: Statistics) -> None:
    model = model_of("resnet20", statistics=statistics, gain=1.25)
    mask, x = random_mask(model), torch.randn(3, *SHAPE)
    network = filled(model, mask)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = folded(model, mask, kept=read_vector(network.kept), floats=read_vector(network.floats))
    assert not any(isinstance(m, StandardModule) for m in plain.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, weight in prunable_tensors(plain).items():
        assert not weight.detach()[~mask[name]].any()
    rebuilt = build_model("resnet20", input_shape=SHAPE, classes=4, norm="none", seed=0)
    rebuilt.load_state_dict(plain.state_dict())
    torch.testing.assert_close(rebuilt(x), network.module(x), rtol=1e-4, atol=1e-4)


def test_networks_without_standardised_weights_are_handed_over_as_they_are() -> None:
    model = build_model("mlp", input_shape=SHAPE, classes=4, norm="batch", seed=0)
    mask = random_mask(model)
    kept, floats = gather_kept({**prunable_tensors(model)}, mask), read_vector(float_tensors(model)) + 1
    plain = folded(model, mask, kept=kept, floats=floats)
    assert gather_kept({**prunable_tensors(plain)}, mask).tobytes() == kept.tobytes()
    assert read_vector(float_tensors(plain)).tobytes() == floats.tobytes()


def test_synflow_counts_the_paths_of_the_weights_as_they_are() -> None:
    standard = model_of("conv4", gain=3.0)
    plain = build_model("conv4", input_shape=SHAPE, classes=4, norm="none", seed=0)
    found, expected = synflow_scores(standard, SHAPE), synflow_scores(plain, SHAPE)
    for name, scores in expected.items():
        assert torch.equal(found[name], scores)


def test_signs_are_standardised_over_their_magnitudes() -> None:
    model = nn.Sequential(StandardLinear(4, 1))
    mask = Mask({"0.weight": torch.tensor([[True, True, True, False]])})
    network = Signs(settings=SignSettings(), aggregation=AggregationSettings()).network(model, mask)
    write_vector(network.kept, np.array([0.3, 0.1, -0.2], dtype=np.float32))
    write_vector(network.floats, np.array([0, 1], dtype=np.float32))
    layer = network.module.get_submodule("0")
    assert isinstance(layer, SparseLayer)
    # Two thirds from one sign to the mean of all three, and the unbiased variance of +, +, - is 4/3 magnitudes squared.
    assert layer.values().tolist() == pytest.approx([1 / 3, 1 / 3, -2 / 3])
    network.module(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    assert network.kept[0].grad is not None
    assert network.kept[0].grad.abs().min() > 0


def grown_and_exact(statistics: Statistics) -> tuple[Tensor, Tensor, Tensor]:
    """Of the pruned weights of one linear layer: what is found, and autograd's gradients as if they were kept at 0."""
    torch.manual_seed(3)
    layer, x, target = StandardLinear(6, 3), torch.randn(5, 6), torch.randn(5, 3)
    layer.statistics = statistics
    mask = torch.rand(3, 6) < 0.5
    network = filled(layer, Mask({"weight": mask}))
    found = largest_gradients(network.module, {"weight": 18}, lambda: (network.module(x) * target).mean())
    positions, gradients = found["weight"]
    weight = torch.where(mask, layer.weight.detach(), 0.0).requires_grad_()
    everywhere = torch.arange(4) * 6
    whole = standardised(weight.flatten(), layer.gain, rows=everywhere, fan_in=6, statistics="all").view(3, 6)
    # Pruned weights are 0 in the forward pass, and have a gradient all the same.
    output = nn.functional.linear(x, whole - torch.where(mask, 0.0, whole.detach()), layer.bias)
    (output * target).mean().backward()  # type: ignore[no-untyped-call]  # torch does not type it
    assert weight.grad is not None
    dense = torch.zeros(18)
    dense[torch.from_numpy(positions)] = torch.from_numpy(gradients)
    return dense.view(3, 6), weight.grad, mask


def test_gradients_of_pruned_weights_leave_out_only_what_an_output_shares() -> None:
    found, exact, mask = grown_and_exact("all")
    for row, gradient, kept in zip(found, exact, mask, strict=True):
        difference = (row - gradient)[~kept]
        assert not row[kept].any()
        assert float(difference.max() - difference.min()) == pytest.approx(0, abs=1e-6)


def test_the_factor_of_an_output_is_its_gain_over_its_deviation() -> None:
    values, rows, gain = torch.tensor([1.0, 3.0, -4.0]), torch.tensor([0, 2, 2, 3]), torch.tensor([2.0, 3.0, 1.0])
    factor = row_factor(values, gain, rows=rows, fan_in=9, statistics="kept")
    # Deviations are 2 and 4; where there is no kept weight it is taken to be as elsewhere, (1/2 + 1/4) / 2.
    assert factor.tolist() == pytest.approx([2 / 2, 3 * 3 / 8, 1 / 4])
    nothing = row_factor(torch.zeros(0), gain, rows=torch.zeros(4, dtype=torch.int32), fan_in=9, statistics="all")
    assert nothing.tolist() == [2, 3, 1]


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        (
            {"model": {"statistics": "all"}},
            r"model\.statistics is 'all', but model\.norm is 'batch', which standardises",
        ),
        ({"model": {"norm": "none", "gain": 1.7}}, r"model\.gain is 1\.7, but model\.norm is 'none'"),
        ({"model": {"name": "mine:net", "norm": "nsconv"}}, r"does nothing to a model of your own such as 'mine:net'"),
        (
            {"model": {"norm": "nsconv"}, "selection": {"candidates": 2}},
            r"selection\.candidates asks devices for batch",
        ),
        ({"model": {"norm": "nsconv"}, "evaluation": {"recalibrate": True}}, r"evaluation\.recalibrate asks devices"),
        ({"training": {"topk_layers": "standardised", "activations": "topk"}}, r"model\.norm is 'batch' and training"),
        (
            {"model": {"norm": "nsconv"}, "training": {"topk_layers": "standardised"}},
            r"training\.activations is 'exact'",
        ),
    ],
)
def test_settings_of_standardised_weights_that_would_do_nothing_are_refused(
    settings_: dict[str, dict[str, object]], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        Experiment.model_validate(settings_)


def test_the_settings_of_standardised_weights_rename_no_older_run() -> None:
    spelled = {"model": {"statistics": "kept", "gain": 1.0}, "training": {"topk_layers": "all"}}
    assert Experiment.model_validate(spelled).digest() == Experiment().digest()
    assert Experiment.model_validate({"model": {"norm": "nsconv"}}).digest() != Experiment().digest()
