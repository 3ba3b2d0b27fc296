"""SNIP ranks weights by what one batch of the coordinator's own samples says of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.assembly import mask_of, model_of, parts_of, public_indices
from hedgerow.config import Experiment, load_experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import DataError, PruningError
from hedgerow.pruning import initial_mask, keep_top_global, ranked_mask, snip, uniform


def linear(*rows: Sequence[float]) -> nn.Module:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data.copy_(torch.tensor(rows))
    return nn.Sequential(nn.Flatten(), layer)


def images_of(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows)[:, None, None, :]


def test_the_score_is_the_size_of_weight_times_gradient() -> None:
    # Both outputs are 0, so that the gradient is ±1/2 times the mean input, which is (2, 3).
    model = linear([3.0, -2.0], [-3.0, 2.0])
    scores = snip(model, images_of([1.0, 1.5], [3.0, 4.5]), torch.tensor([0, 0]))
    expected = [[3 * 1.0, 2 * 1.5], [3 * 1.0, 2 * 1.5]]
    assert list(scores) == ["1.weight"]
    assert scores["1.weight"].tolist() == expected


def test_the_gradient_is_that_of_the_mean_over_the_batch() -> None:
    # One sample pulls as much up as the other down.
    model = linear([1.0], [1.0])
    assert snip(model, images_of([1.0], [1.0]), torch.tensor([0, 1]))["1.weight"].tolist() == [[0.0], [0.0]]


def test_a_weight_that_the_loss_does_not_depend_on_scores_0() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x.flatten(1))  # type: ignore[no-any-return]  # torch says Any

    scores = snip(Idle(), images_of([1.0, 2.0], [2.0, 1.0]), torch.tensor([0, 1]))
    assert scores["idle.weight"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert scores["used.weight"].min() > 0


@given(st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_it_is_the_gradient_of_a_mask_of_ones(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = linear(*torch.randn(3, 4, generator=generator).tolist())
    images = torch.randn(5, 1, 1, 4, generator=generator)
    labels = torch.randint(0, 3, (5,), generator=generator)
    connections = torch.ones(3, 4, requires_grad=True)
    weight = model.state_dict()["1.weight"] * connections
    (expected,) = torch.autograd.grad(F.cross_entropy(F.linear(images.flatten(1), weight), labels), connections)
    torch.testing.assert_close(snip(model, images, labels)["1.weight"], expected.abs())


def test_the_model_its_statistics_and_the_global_random_state_are_left_alone() -> None:
    model = nn.Sequential(linear([1.0, 2.0], [3.0, 4.0]), nn.BatchNorm1d(2), nn.Dropout(0.5)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    drawn = torch.randn(8, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 2
    with torch.inference_mode():
        one = snip(model, drawn, labels, seed=1)
        again, other = snip(model, drawn, labels, seed=1), snip(model, drawn, labels, seed=2)
    assert torch.equal(one["0.1.weight"], again["0.1.weight"])
    assert not torch.equal(one["0.1.weight"], other["0.1.weight"])
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(PruningError, match=r"given 1 samples, and norms need 2; raise selection\.public_samples"):
        snip(linear([1.0], [1.0]), images_of([1.0]), torch.tensor([0]))
    with pytest.raises(PruningError, match="the loss of the untrained network is nan"):
        snip(linear([math.nan], [1.0]), images_of([1.0], [2.0]), torch.tensor([0, 1]))


def test_masks_of_scores_keep_what_the_rule_says() -> None:
    scores = {"a": torch.tensor([[4.0, 3.0], [2.0, 1.0]]), "b": torch.tensor([[8.0, 7.0], [6.0, 5.0]])}
    whole = ranked_mask(scores, rule="global", density=0.5)
    assert whole == keep_top_global(scores, 4)
    assert ranked_mask(scores, rule="uniform", density=0.5).layer_kept() == uniform(whole.shapes, density=0.5)


def experiment_of(*changes: tuple[str, object]) -> Experiment:
    small = [("model.name", "mlp"), ("data.partition", "iid"), ("fleet.clients", 4), ("fleet.cohort", 2)]
    return load_experiment(recipe="static-snip", overrides=[*small, ("selection.public_samples", 12), *changes])


def dataset_of(*, other_test: bool = False) -> Dataset:
    drawn = np.random.default_rng(0)
    images, labels = drawn.standard_normal((60, 1, 8, 8), dtype=np.float32), np.arange(60) % 10
    train = Samples(images, labels)
    test = Samples(np.full_like(images, 1e30), labels) if other_test else train
    return Dataset("drawn", classes=10, train=train, test=test, mean=(0.0,), std=(1.0,))


def test_the_mask_of_an_experiment_is_made_by_its_public_samples_and_by_no_other() -> None:
    experiment, dataset = experiment_of(), dataset_of()
    model, shape = model_of(experiment, dataset), dataset.input_shape
    mask = mask_of(experiment, model, shape, dataset=dataset)
    own = public_indices(experiment, dataset)
    assert own.size == 12
    assert not set(own.tolist()) & set(np.concatenate(parts_of(experiment, dataset)).tolist())
    images, labels = torch.from_numpy(dataset.train.images[own]), torch.from_numpy(dataset.train.labels[own])
    assert mask == keep_top_global(snip(model, images, labels), round(0.05 * mask.size))
    assert mask == mask_of(experiment, model, shape, dataset=dataset_of(other_test=True))
    rest = np.setdiff1d(np.arange(60), own)
    dataset.train.images[rest] = 1e30
    assert mask == mask_of(experiment, model, shape, dataset=dataset)
    dataset.train.images[own] = np.flip(dataset.train.images[own], axis=0)
    assert mask != mask_of(experiment, model, shape, dataset=dataset)


def test_the_rule_may_decide_how_many_weights_a_layer_keeps() -> None:
    dataset = dataset_of()
    experiment = experiment_of(("pruning.rule", "uniform"), ("pruning.density", 0.25))
    mask = mask_of(experiment, model_of(experiment, dataset), dataset.input_shape, dataset=dataset)
    assert mask.layer_kept() == uniform(mask.shapes, density=0.25)


def test_without_samples_it_is_refused() -> None:
    dataset = dataset_of()
    model, shape = model_of(experiment_of(), dataset), dataset.input_shape
    with pytest.raises(PruningError, match="which looks at samples; give the data set they are in"):
        mask_of(experiment_of(), model, shape)
    with pytest.raises(DataError, match=r"selection\.public_samples is 61, but drawn has only 60"):
        mask_of(experiment_of(("selection.public_samples", 61)), model, shape, dataset=dataset)


@pytest.mark.parametrize("count", [0, 1])
def test_an_experiment_without_public_samples_is_refused_in_one_sentence(count: int) -> None:
    with pytest.raises(ValueError, match=rf"selection\.public_samples is {count}; set it to the size of one batch"):
        experiment_of(("selection.public_samples", count))


def test_public_samples_that_nobody_looks_at_are_refused() -> None:
    with pytest.raises(ValueError, match=r"selection\.candidates is 0, so nothing is made of them; set both"):
        experiment_of(("pruning.saliency", "random"))


@pytest.mark.parametrize(
    ("recipe", "saliency", "rule"),
    [
        ("static-synflow", "synflow", "global"),
        ("static-magnitude", "magnitude", "global"),
        ("static-lamp", "lamp", "global"),
        ("static-random", "random", "erk"),
        ("static-snip", "snip", "global"),
    ],
)
def test_static_recipes_differ_in_how_the_mask_is_made_and_in_nothing_else(
    recipe: str, saliency: str, rule: str
) -> None:
    found, fedavg = load_experiment(recipe=recipe), load_experiment(recipe="fedavg")
    assert (found.pruning.saliency, found.pruning.rule, found.pruning.density) == (saliency, rule, 0.05)
    same = {"recipe": "fedavg", "pruning": fedavg.pruning}
    if saliency == "snip":
        assert found.selection.public_samples == 128
        same["selection"] = fedavg.selection
    assert found.model_copy(update=same) == fedavg


def test_the_mask_of_other_saliencies_does_not_depend_on_samples() -> None:
    dataset = dataset_of()
    experiment = load_experiment(recipe="static-magnitude", overrides=[("model.name", "mlp")])
    model, shape = model_of(experiment, dataset), dataset.input_shape
    expected = initial_mask(model, shape, saliency="magnitude", rule="global", density=0.05, iterations=1, seed=0)
    assert mask_of(experiment, model, shape, dataset=dataset) == expected == mask_of(experiment, model, shape)
