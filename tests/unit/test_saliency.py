"""Data-free scores, computed by hand where they are small."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.errors import PruningError
from hedgerow.pruning import Saliency, initial_mask, keep_top_global, lamp, magnitude, random, synflow, uniform
from hedgerow.pruning.initial import DensityRuleName, SaliencyName


def linear(*weights: float) -> nn.Sequential:
    layer = nn.Linear(len(weights), 1)
    layer.weight.data = torch.tensor([weights])
    return nn.Sequential(layer)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))


def test_magnitude_is_the_absolute_value() -> None:
    assert magnitude(linear(-3.0, 1.0, 0.0))["0.weight"].tolist() == [[3.0, 1.0, 0.0]]


def test_lamp_divides_by_the_weights_that_are_at_least_as_large() -> None:
    scores = lamp(linear(3.0, -1.0, 2.0))["0.weight"]
    assert scores[0].tolist() == pytest.approx([9 / 9, 1 / 14, 4 / 13])


def test_lamp_gives_equal_weights_equal_scores() -> None:
    scores = lamp(linear(2.0, -2.0, 1.0))["0.weight"]
    assert scores[0].tolist() == pytest.approx([4 / 8, 4 / 8, 1 / 9])


def test_lamp_of_zero_weights_is_zero() -> None:
    assert lamp(linear(0.0, 0.0))["0.weight"].tolist() == [[0.0, 0.0]]
    assert lamp(linear(0.0, 5.0))["0.weight"].tolist() == [[0.0, 1.0]]


def test_lamp_does_not_depend_on_the_scale_of_a_layer() -> None:
    tiny = lamp(linear(3e-30, 1e-30, 2e-30))["0.weight"]
    assert tiny[0].tolist() == pytest.approx([1, 1 / 14, 4 / 13])


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20))
def test_lamp_matches_its_definition(weights: list[float]) -> None:
    largest = max(abs(w) for w in weights)
    if largest == 0 or min(abs(w) for w in weights) < 1e-20:
        return  # squares would underflow in the plain definition
    expected = [w * w / sum(v * v for v in weights if abs(v) >= abs(w)) for w in weights]
    assert lamp(linear(*weights))["0.weight"][0].tolist() == pytest.approx(expected)


def test_random_scores_depend_on_the_seed_alone() -> None:
    model = network()
    torch.manual_seed(1)
    first = random(model, seed=7)
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    second = random(model, seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["0.weight"], random(model, seed=8)["0.weight"])


@pytest.mark.parametrize("saliency", [magnitude, random, lamp])
def test_scores_are_finite_and_have_the_shapes_of_the_weights(saliency: Saliency) -> None:
    scores = saliency(network(), seed=1)
    assert {name: score.shape for name, score in scores.items()} == {
        "0.weight": (4, 1, 3, 3),
        "3.weight": (5, 16),
    }
    assert all(bool(score.isfinite().all()) and not score.requires_grad for score in scores.values())


def test_scores_are_copies_of_the_weights() -> None:
    model = linear(1.0, 2.0)
    magnitude(model)["0.weight"].zero_()
    assert model.state_dict()["0.weight"].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("saliency", ["magnitude", "random", "lamp"])
@pytest.mark.parametrize("rule", ["global", "uniform", "erk", "igq"])
def test_every_saliency_and_rule_keeps_exactly_the_asked_number(saliency: SaliencyName, rule: DensityRuleName) -> None:
    mask = initial_mask(network(), (1, 4, 4), saliency=saliency, rule=rule, density=0.25, iterations=5, seed=3)
    assert mask.kept == round(0.25 * 116)
    if rule == "uniform":
        assert mask.layer_kept() == uniform(mask.shapes, density=0.25)


@pytest.mark.parametrize("rule", ["uniform", "erk", "igq"])
def test_synflow_refuses_layer_densities_from_outside(rule: DensityRuleName) -> None:
    with pytest.raises(PruningError, match=f"'{rule}' does not fit: use rule 'global'"):
        initial_mask(network(), (1, 4, 4), saliency="synflow", rule=rule, density=0.25, iterations=5, seed=3)


def test_the_entry_point_hands_on_to_each_saliency() -> None:
    model = network()
    by_rule = initial_mask(model, (1, 4, 4), saliency="magnitude", rule="global", density=0.1, iterations=1, seed=0)
    assert by_rule == keep_top_global(magnitude(model), 12)
    by_flow = initial_mask(model, (1, 4, 4), saliency="synflow", rule="global", density=0.1, iterations=3, seed=0)
    assert by_flow == synflow(model, (1, 4, 4), density=0.1, iterations=3)


@pytest.mark.parametrize("saliency", ["synflow", "magnitude"])
def test_density_one_keeps_everything(saliency: SaliencyName) -> None:
    mask = initial_mask(network(), (1, 4, 4), saliency=saliency, rule="global", density=1, iterations=2, seed=0)
    assert mask.density == 1


def test_weights_that_are_not_finite_are_reported_by_layer() -> None:
    with pytest.raises(PruningError, match=r"'0\.weight' are not finite"):
        initial_mask(
            linear(1.0, float("nan"), 2.0), (3,), saliency="lamp", rule="global", density=0.5, iterations=1, seed=0
        )
