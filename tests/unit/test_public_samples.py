"""Samples that the coordinator has for itself: who gets them, and the training of the dense network on them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from hedgerow.assembly import parts_of, public_indices
from hedgerow.config import Experiment, load_experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import DataError, TrainingError
from hedgerow.server.pretraining import pretrained


def experiment_with(*changes: tuple[str, object]) -> Experiment:
    return load_experiment(
        recipe="hidenseek", overrides=[("selection.candidates", 2), ("selection.public_samples", 0), *changes]
    )


def public(count: int) -> tuple[str, object]:
    return "selection.public_samples", count


def dataset_with(samples: int, *, classes: int = 4, seed: int = 0) -> Dataset:
    generator = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    images = generator.normal(size=(samples, 1, 3, 3)).astype(np.float32)
    images[:, 0, 0, 0] += 4 * labels
    split = Samples(images, labels)
    return Dataset("tiny", train=split, test=split, classes=classes, mean=(0.0,), std=(1.0,))


def enlarged(dataset: Dataset) -> Dataset:
    return replace(dataset, train=Samples(dataset.train.images * np.float32(1e6), dataset.train.labels))


def network(*, norm: bool = False) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 4), *([nn.BatchNorm1d(4)] if norm else []))


def tensors(model: nn.Module) -> Sequence[torch.Tensor]:
    return list(model.state_dict().values())


def equal(one: nn.Module, two: nn.Module) -> bool:
    return all(map(torch.equal, tensors(one), tensors(two)))


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards"])
def test_public_samples_go_to_no_client_and_the_split_is_otherwise_the_same(partition: str) -> None:
    dataset = dataset_with(400)
    rule = [("data.partition", partition), ("data.alpha", 5)]
    with_them, without = experiment_with(*rule, public(100)), experiment_with(*rule)
    chosen = public_indices(with_them, dataset)
    assert chosen.dtype == np.int64
    assert np.array_equal(chosen, np.unique(chosen))
    assert len(chosen) == 100
    for left, whole in zip(parts_of(with_them, dataset), parts_of(without, dataset), strict=True):
        assert left.dtype == np.int64
        assert left.tolist() == [index for index in whole.tolist() if index not in set(chosen.tolist())]
    taken = np.concatenate([chosen, *parts_of(with_them, dataset)])
    assert np.array_equal(np.sort(taken), np.arange(400))


@settings(max_examples=50)
@given(st.integers(20, 60), st.integers(0, 2**32 - 1), st.data())
def test_a_part_that_is_left_is_never_empty(samples: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, samples))
    experiment = experiment_with(public(count), ("data.partition", "iid"), ("seed", seed))
    try:
        parts = parts_of(experiment, dataset_with(samples))
    except DataError:
        assert count > 0
        return
    assert min(map(len, parts)) > 0
    assert sum(map(len, parts)) == samples - count


def test_without_public_samples_there_are_none() -> None:
    assert public_indices(experiment_with(), dataset_with(10)).tolist() == []


def test_another_seed_chooses_others_and_the_same_seed_the_same() -> None:
    dataset = dataset_with(200)
    one, again, other = (public_indices(experiment_with(public(50), ("seed", seed)), dataset) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_client_that_would_be_left_with_nothing_is_named() -> None:
    experiment = experiment_with(public(40), ("data.partition", "iid"))
    with pytest.raises(DataError, match=r"^client 0 would have no sample left beside the 40 public ones; lower"):
        parts_of(experiment, dataset_with(40))


def test_more_public_samples_than_there_are_is_refused() -> None:
    sentence = r"^selection\.public_samples is 41, but tiny has only 40 training samples; lower it$"
    for use in (public_indices, parts_of):
        with pytest.raises(DataError, match=sentence):
            use(experiment_with(public(41)), dataset_with(40))
    assert len(public_indices(experiment_with(public(40)), dataset_with(40))) == 40


def test_the_training_is_momentum_with_a_step_size_that_falls_as_half_a_cosine() -> None:
    dataset, indices = dataset_with(8), np.arange(8)
    one_batch = [("training.batch_size", 8), ("selection.public_epochs", 2), ("weights.learning_rate", 0.1)]
    trained = pretrained(experiment_with(*one_batch), model=network(), dataset=dataset, indices=indices)
    # By hand: both steps see all samples, and the second has half of the step size, (1 + cos(π / 2)) / 2.
    model = network()
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    velocity = [torch.zeros_like(weight) for weight in weights]
    for rate in (0.1, 0.05):
        with torch.no_grad():
            for parameter, weight in zip(model.parameters(), weights, strict=True):
                parameter.copy_(weight)
        loss = F.cross_entropy(model(dataset.normalised(dataset.train.images)), torch.from_numpy(dataset.train.labels))
        grads = torch.autograd.grad(loss, list(model.parameters()))
        velocity = [0.9 * v + g for v, g in zip(velocity, grads, strict=True)]
        weights = [w - rate * v for w, v in zip(weights, velocity, strict=True)]
    for parameter, weight in zip(trained.parameters(), weights, strict=True):
        torch.testing.assert_close(parameter.detach(), weight)


def test_training_learns_and_leaves_its_argument_and_the_global_random_state_alone() -> None:
    dataset, model = dataset_with(80), network(norm=True)
    before = [tensor.clone() for tensor in tensors(model)]
    state = torch.get_rng_state()
    experiment = experiment_with(("selection.public_epochs", 20), ("weights.learning_rate", 0.1))
    trained = pretrained(experiment, model=model, dataset=dataset, indices=np.arange(80))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, tensors(model), before))
    images, labels = dataset.normalised(dataset.train.images), torch.from_numpy(dataset.train.labels)
    loss = F.cross_entropy(trained.eval()(images), labels).item()
    assert loss < 0.5 * math.log(4)
    assert not torch.equal(trained[2].running_mean, model[2].running_mean)  # type: ignore[index]  # a Sequential


def test_training_sees_the_public_samples_and_no_other() -> None:
    dataset, indices = dataset_with(60), np.arange(0, 60, 3)
    poisoned = dataset.train.images.copy()
    poisoned[np.setdiff1d(np.arange(60), indices)] = 1e30
    other = Samples(poisoned, dataset.train.labels)
    test = Samples(np.full_like(poisoned, 1e30), dataset.train.labels)
    clean, dirty = (
        pretrained(experiment_with(), model=network(), dataset=data, indices=indices)
        for data in (dataset, replace(dataset, train=other, test=test))
    )
    assert equal(clean, dirty)


def test_training_is_the_same_again_and_another_with_another_seed() -> None:
    dataset = dataset_with(60)
    one, again, other = (
        pretrained(experiment_with(("seed", seed)), model=network(norm=True), dataset=dataset, indices=np.arange(60))
        for seed in (0, 0, 1)
    )
    assert equal(one, again)
    assert not equal(one, other)


def test_dropout_draws_from_the_seed_of_the_run() -> None:
    def trained(state: int) -> nn.Module:
        model = nn.Sequential(network(), nn.Dropout(0.5))
        torch.manual_seed(state)
        return pretrained(experiment_with(), model=model, dataset=dataset_with(20), indices=np.arange(20))

    assert equal(trained(1), trained(2))


def test_a_rest_of_one_sample_is_left_out() -> None:
    dataset = dataset_with(17)
    experiment = experiment_with(("training.batch_size", 16), ("selection.public_epochs", 3))
    trained = pretrained(experiment, model=network(norm=True), dataset=dataset, indices=np.arange(17))
    assert int(trained[2].num_batches_tracked) == 3  # type: ignore[index]  # a Sequential


def test_one_public_sample_is_too_few() -> None:
    sentence = r"^1 public samples are too few for one step of at least 2; raise selection\.public_samples$"
    with pytest.raises(TrainingError, match=sentence):
        pretrained(experiment_with(), model=network(), dataset=dataset_with(4), indices=np.arange(1))


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    experiment = experiment_with(("weights.learning_rate", 1e32))
    with pytest.raises(TrainingError, match=r"^the loss on the public samples became nan at step 2; lower weights"):
        pretrained(experiment, model=network(), dataset=enlarged(dataset_with(64)), indices=np.arange(64))


def test_a_weight_that_is_not_finite_after_the_last_step_ends_the_training() -> None:
    experiment = experiment_with(("weights.learning_rate", 1e38), ("selection.public_epochs", 1))
    with pytest.raises(TrainingError, match=r"left a weight that is not finite though the loss was; lower"):
        pretrained(experiment, model=network(), dataset=enlarged(dataset_with(16)), indices=np.arange(16))
