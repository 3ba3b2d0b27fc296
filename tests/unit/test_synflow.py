"""SynFlow against a plain float64 reference, and the guarantee that no layer is ever cut off."""

import copy
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.errors import PruningError
from hedgerow.pruning import Mask, prunable_tensors, synflow, synflow_scores
from hedgerow.pruning.flow import PathNetwork
from hedgerow.pruning.synflow import _Search

Shape = tuple[int, ...]


class Residual(nn.Module):
    """x + branch(x): the branch may have little flow, and R does not vanish without it."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


class Functional(nn.Module):
    """Not a Sequential: takes the float64 way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).amax((2, 3)))
        return scores


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convnet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 4, 10)),
    )


def residual_net(channels: int = 8) -> nn.Sequential:
    c = channels
    depthwise = nn.Conv2d(c, c, 3, padding=1, groups=c, bias=False)
    return nn.Sequential(
        *(nn.Conv2d(1, c, 3, padding=1, bias=False), nn.ReLU6()),
        Residual(nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 1)),
        Residual(depthwise, nn.GroupNorm(1, c), nn.ReLU6(), nn.Conv2d(c, c, 1), nn.BatchNorm2d(c)),
        *(nn.MaxPool2d(2), nn.Sequential(nn.Flatten(), nn.Linear(c * 4, 5))),
    )


def plain(model: nn.Module) -> nn.Module:
    """The path-counting copy as the paper describes it, in float64, written without the code under test."""
    network = copy.deepcopy(model).double().eval()
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU())
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
            assert module.running_var is not None
            module.running_var.fill_(1 - module.eps)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
    for parameter in network.parameters():
        parameter.data.abs_()
    return network


def plain_scores(model: nn.Module, shape: Shape, mask: Mask | None = None) -> dict[str, Tensor]:
    network = plain(model)
    tensors = prunable_tensors(network)
    if mask is not None:
        for name, tensor in tensors.items():
            tensor.data.mul_(mask[name])
    total = network(torch.ones(1, *shape, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(total, list(tensors.values()))
    return {name: (t * g).detach() for (name, t), g in zip(tensors.items(), gradients, strict=True)}


def plain_synflow(model: nn.Module, shape: Shape, *, density: float, iterations: int) -> Mask:
    mask = Mask.dense({name: tuple(tensor.shape) for name, tensor in prunable_tensors(model).items()})
    for step in range(1, iterations + 1):
        scores = plain_scores(model, shape, mask)
        remove = mask.size - round(mask.size * density ** (step / iterations))
        threshold = torch.cat([s.flatten() for s in scores.values()]).kthvalue(remove).values
        mask = Mask({name: s > threshold for name, s in scores.items()})
    return mask


def flowing(scores: dict[str, Tensor]) -> set[str]:
    return {name for name, score in scores.items() if float(score.sum()) > 0}


def jaccard(a: Mask, b: Mask) -> float:
    x, y = (np.unpackbits(np.frombuffer(mask.packed(), np.uint8)).astype(bool) for mask in (a, b))
    return float((x & y).sum() / (x | y).sum())


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one entry with each forward and backward pass."""
    count: list[int] = []
    original = PathNetwork.evaluate

    def counted(self: PathNetwork) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        count.append(1)
        return original(self)

    monkeypatch.setattr(PathNetwork, "evaluate", counted)
    return count


def test_scores_of_a_two_layer_network_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
        model.get_parameter("2.weight").copy_(torch.tensor([[-4.0, 5.0]]))
    # Paths: 1·4, 2·4 and 3·5, so R = 27; the outermost Sequential scales it to the one output.
    scores = synflow_scores(model, (2,))
    assert (scores["0.weight"] * 27).flatten().tolist() == pytest.approx([4, 8, 15, 0])
    assert (scores["2.weight"] * 27).flatten().tolist() == pytest.approx([12, 15])


def test_one_step_keeps_the_weights_with_the_most_flow() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
        model.get_parameter("2.weight").copy_(torch.tensor([[-4.0, 5.0]]))
    # Scores 4, 8, 15, 2.5 and 12, 17.5: half of six weights is the top three.
    assert synflow(model, (2,), density=0.5, iterations=1) == Mask(
        {"0.weight": torch.tensor([[False, False], [True, False]]), "2.weight": torch.tensor([[True, True]])}
    )


@pytest.mark.parametrize(
    ("build", "shape"), [(lambda: mlp(64, 100, 50, 10), (1, 8, 8)), (convnet, (2, 8, 8)), (Functional, (1, 6, 6))]
)
def test_the_mask_agrees_with_the_plain_float64_reference(build: Callable[[], nn.Module], shape: Shape) -> None:
    torch.manual_seed(0)
    model = build()
    for density in (0.3, 0.1):
        mask = synflow(model, shape, density=density, iterations=50)
        assert jaccard(mask, plain_synflow(model, shape, density=density, iterations=50)) > 0.999


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.integers(0, 1000))
def test_in_a_chain_the_scores_of_each_layer_sum_to_the_same_total(widths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    sums = [float(score.sum()) for score in synflow_scores(mlp(*widths), (widths[0],)).values()]
    # With each layer's output scaled to mean 1, R is the number of outputs.
    assert sums == pytest.approx([widths[-1]] * len(sums))


@pytest.mark.parametrize(("build", "shape"), [(convnet, (2, 8, 8)), (residual_net, (1, 4, 4))])
def test_scores_match_the_reference_up_to_one_factor(build: Callable[[], nn.Module], shape: Shape) -> None:
    torch.manual_seed(1)
    model = build()
    expected, scores = plain_scores(model, shape), synflow_scores(model, shape)
    factor = expected["0.weight"].sum() / scores["0.weight"].sum()
    for name, score in scores.items():
        torch.testing.assert_close(score * factor, expected[name])


def test_a_single_step_leaves_every_layer_of_an_mlp_connected_where_the_plain_algorithm_empties_one() -> None:
    torch.manual_seed(0)
    model = mlp(784, 100, 50, 10)
    plain_mask = plain_synflow(model, (784,), density=0.05, iterations=1)
    assert plain_mask.layer_kept()["1.weight"] == 0
    for density in (0.05, 0.01, 0.001, 0.0001):
        mask = synflow(model, (784,), density=density, iterations=1)
        assert mask.kept == round(density * mask.size)
        assert flowing(plain_scores(model, (784,), mask)) == {"1.weight", "3.weight", "5.weight"}


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Shape]:
    torch.manual_seed(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["mlp", "conv", "residual", "functional", "projection"]))
    if kind == "mlp":
        widths = draw(st.lists(st.integers(1, 20), min_size=2, max_size=6))
        model, shape = mlp(*widths), (widths[0],)
        if draw(st.booleans()):  # some weights are 0 from the start, so that there may be dead ends
            for tensor in prunable_tensors(model).values():
                tensor.data.mul_(torch.rand_like(tensor) < 0.5)
        return model, shape
    if kind == "conv":
        return convnet(), (2, 8, 8)
    if kind == "functional":
        return Functional(), (1, 6, 6)
    c = draw(st.integers(1, 8))
    model = residual_net(c)
    if kind == "projection":
        model = nn.Sequential(
            nn.Conv2d(1, c, 1), Residual(nn.Conv2d(c, c, 3, 1, 1), Residual(nn.Conv2d(c, c, 1))), *list(model)[2:]
        )
    if draw(st.booleans()):  # a branch so faint that every global threshold would drop it first
        branch = model.get_submodule("2.branch")
        for tensor in prunable_tensors(branch).values():
            tensor.data.mul_(1e-4)
    return model, (1, 4, 4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.floats(0.001, 1), st.integers(1, 12))
def test_every_layer_that_had_flow_keeps_it_and_the_count_is_exact(
    network: tuple[nn.Module, Shape], density: float, iterations: int
) -> None:
    model, shape = network
    before = flowing(plain_scores(model, shape))
    size = sum(tensor.numel() for tensor in prunable_tensors(model).values())
    assume(before)
    assume(round(density * size) >= len(prunable_tensors(model)))
    try:
        mask = synflow(model, shape, density=density, iterations=iterations)
    except PruningError as error:
        assert "cutting a layer off" in str(error)  # noqa: PT017 - either outcome is right, but only for this reason
        assert round(density * size) < 10 * len(prunable_tensors(model))
        return
    assert mask.kept == round(density * size)
    assert before <= flowing(plain_scores(model, shape, mask))


def one_way_branch() -> nn.Sequential:
    """The branch's only path from input 1 to output 0 shares no weight with the heavy bypass from 0 to 1."""
    entry, inner, head = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        entry.weight.copy_(torch.tensor([[10.0, 0.0], [0.0, 0.01]]))
        inner.weight.copy_(torch.tensor([[0.0, 0.01], [0.0, 0.0]]))
        head.weight.copy_(torch.tensor([[10.0, 10.0]]))
    return nn.Sequential(entry, Residual(inner), head)


def test_a_faint_branch_pins_the_weights_that_feed_it() -> None:
    # Paths: 10·10 past the branch, 0.01·10 past it, and 0.01·0.01·10 through it. Kept are the three that carry the
    # branch, although two of them, and the branch itself, have less flow than the 10 they displace.
    mask = synflow(one_way_branch(), (2,), density=0.3, iterations=1)
    assert mask["0.weight"].tolist() == [[False, False], [False, True]]
    assert mask["1.branch.0.weight"].tolist() == [[False, True], [False, False]]
    assert mask["2.weight"].tolist() == [[True, False]]


def test_a_density_that_would_starve_a_layer_is_refused_with_the_least_that_works() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), Residual(first), Residual(second), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.eye(2))
        first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # needs channel 0
        second.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))  # needs channel 1
        model.get_parameter("3.weight").copy_(torch.eye(2))
    # Two on the way in, one in each branch, two on the way out: 6 of 16.
    with pytest.raises(PruningError, match=r"^5 weights cannot be kept .* reached is 0\.38$"):
        synflow(model, (2,), density=5 / 16, iterations=3)
    assert synflow(model, (2,), density=0.38, iterations=3).layer_kept() == {
        "0.weight": 2,
        "1.branch.0.weight": 1,
        "2.branch.0.weight": 1,
        "3.weight": 2,
    }


def test_a_layer_without_flow_from_the_start_may_be_emptied() -> None:
    torch.manual_seed(0)
    dead = nn.Conv2d(4, 4, 1, bias=False)
    nn.init.zeros_(dead.weight)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), Residual(dead, nn.Conv2d(4, 4, 1)), nn.Flatten(), nn.Linear(16, 3))
    mask = synflow(model, (1, 4, 4), density=0.2, iterations=4)
    assert mask.layer_kept()["1.branch.0.weight"] == 0
    assert mask.layer_kept()["1.branch.1.weight"] == 0
    assert flowing(plain_scores(model, (1, 4, 4), mask)) == {"0.weight", "3.weight"}


def test_flow_too_faint_for_float32_still_counts() -> None:
    torch.manual_seed(0)
    model = residual_net(4)
    for tensor in prunable_tensors(model.get_submodule("2.branch")).values():
        tensor.data.mul_(1e-30)
    mask = synflow(model, (1, 4, 4), density=0.2, iterations=3)
    assert flowing(plain_scores(model, (1, 4, 4), mask)) == set(prunable_tensors(model))


def test_work_is_one_evaluation_a_step_and_one_more(evaluations: list[int]) -> None:
    torch.manual_seed(0)
    synflow(convnet(), (2, 8, 8), density=0.05, iterations=20)
    assert len(evaluations) == 21


def test_extra_work_at_an_extreme_density_is_bounded(evaluations: list[int]) -> None:
    torch.manual_seed(0)
    model = mlp(784, 300, 100, 10)
    mask = synflow(model, (784,), density=3 / 266_200, iterations=1)
    assert mask.layer_kept() == {"1.weight": 1, "3.weight": 1, "5.weight": 1}
    assert len(evaluations) < 60


def test_scores_that_are_saved_or_computed_again_after_an_undone_step_give_one_mask(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = residual_net()
    saved = synflow(model, (1, 4, 4), density=0.02, iterations=1)
    drop = _Search._drop
    monkeypatch.setattr(_Search, "_drop", lambda self, dropped, *, careful: drop(self, dropped, careful=False))
    assert synflow(model, (1, 4, 4), density=0.02, iterations=1) == saved


def test_progress_is_reported_after_each_step() -> None:
    torch.manual_seed(0)
    seen: list[tuple[int, int]] = []
    synflow(mlp(8, 4, 2), (8,), density=0.5, iterations=3, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_neither_the_model_nor_the_global_random_state_changes() -> None:
    torch.manual_seed(0)
    model = convnet().train()
    model.get_parameter("0.weight").grad = torch.ones_like(model.get_parameter("0.weight"))
    before, random_state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    synflow(model, (2, 8, 8), density=0.001, iterations=1)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.get_parameter("0.weight").grad is not None
    assert model.get_parameter("4.weight").grad is None


def test_the_same_model_gives_the_same_mask_with_gradients_switched_off() -> None:
    torch.manual_seed(0)
    model = residual_net()
    mask = synflow(model, (1, 4, 4), density=0.1, iterations=5)
    with torch.no_grad():
        assert synflow(model, (1, 4, 4), density=0.1, iterations=5) == mask
    with torch.inference_mode():
        assert synflow(model, (1, 4, 4), density=0.1, iterations=5) == mask


def test_trained_normalisation_and_biases_do_not_matter() -> None:
    torch.manual_seed(0)
    model = convnet()
    mask = synflow(model, (2, 8, 8), density=0.1, iterations=5)
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            tensor.copy_(torch.randn_like(tensor).abs() + 1 if "var" in name else torch.randn_like(tensor))
    assert synflow(model, (2, 8, 8), density=0.1, iterations=5) == mask


def test_equal_weights_are_ranked_by_position() -> None:
    model = mlp(4, 4, 4)
    for tensor in prunable_tensors(model).values():
        nn.init.ones_(tensor)
    mask = synflow(model, (4,), density=0.5, iterations=1)
    assert mask["1.weight"].flatten().tolist() == [True] * 15 + [False]
    assert mask["3.weight"].flatten().tolist() == [True] + [False] * 15


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_flow_that_is_not_finite_is_refused(bad: float) -> None:
    model = mlp(4, 4, 4)
    model.get_parameter("1.weight").data[0, 0] = bad
    with pytest.raises(PruningError, match="overflows"):
        synflow(model, (4,), density=0.5)


def test_a_model_without_any_path_is_refused() -> None:
    model = mlp(4, 4, 4)
    nn.init.zeros_(model.get_parameter("1.weight"))
    with pytest.raises(PruningError, match="no path"):
        synflow(model, (4,), density=0.5)


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PruningError, match=r"shape \(5,\)"):
        synflow(mlp(4, 4, 4), (5,), density=0.5)


def test_no_iterations_are_refused() -> None:
    with pytest.raises(PruningError, match="1 or more"):
        synflow(mlp(4, 4, 4), (4,), density=0.5, iterations=0)


def test_a_density_below_one_weight_a_layer_is_refused() -> None:
    with pytest.raises(PruningError, match=r"least possible density is 0\.06"):
        synflow(mlp(4, 4, 4), (4,), density=0.01)
