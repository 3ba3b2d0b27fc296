"""Which channels a mask leaves dead, whatever the weights are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hedgerow.compaction import dead_channels
from hedgerow.errors import ModelError
from hedgerow.models import build_model
from hedgerow.pruning import Mask, initial_mask, prunable_tensors


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2, 1)
    )


def mask(first: list[int], second: list[list[int]], last: list[int]) -> Mask:
    return Mask(
        {
            "0.weight": torch.tensor(first).bool().view(3, 1, 1, 1),
            "3.weight": torch.tensor(second).bool().view(2, 3, 1, 1),
            "5.weight": torch.tensor([last]).bool(),
        }
    )


def test_a_channel_is_dead_when_no_path_goes_through_it() -> None:
    found = dead_channels(chain(), mask([1, 0, 1], [[1, 1, 0], [0, 0, 1]], [1, 0]), input_shape=(1, 1, 1))
    assert list(found) == ["0.weight", "3.weight", "5.weight"]
    assert found["0.weight"].reached.tolist() == [True, False, True]
    assert found["0.weight"].read.tolist() == [True, True, False], "the third is read by one that nobody reads"
    assert found["0.weight"].dead.tolist() == [False, True, True]
    assert found["3.weight"].reached.tolist() == [True, True]
    assert found["3.weight"].read.tolist() == [True, False]
    assert found["3.weight"].reached_inputs.tolist() == [True, False, True]
    assert found["5.weight"].dead.tolist() == [False]


def test_the_weights_themselves_do_not_matter() -> None:
    model = chain()
    expected = dead_channels(model, mask([1, 0, 1], [[1, 1, 0], [0, 0, 1]], [1, 0]), input_shape=(1, 1, 1))
    with torch.no_grad():
        model.get_parameter("0.weight").zero_()
    found = dead_channels(model, mask([1, 0, 1], [[1, 1, 0], [0, 0, 1]], [1, 0]), input_shape=(1, 1, 1))
    for name, layer in expected.items():
        assert torch.equal(found[name].dead, layer.dead)
    assert model.training


def test_a_dense_mask_leaves_none_dead() -> None:
    model = build_model("mobilenetv2", input_shape=(3, 8, 8), classes=4, seed=0)
    found = dead_channels(
        model, Mask.dense({n: tuple(w.shape) for n, w in prunable_tensors(model).items()}), input_shape=(3, 8, 8)
    )
    assert list(found) == list(prunable_tensors(model))
    assert not any(bool(layer.dead.any()) for layer in found.values())


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2"])
def test_channels_that_nobody_reads_get_no_gradient(name: str) -> None:
    shape = (3, 8, 8)
    model = build_model(name, input_shape=shape, classes=4, seed=0)
    kept = initial_mask(model, shape, saliency="random", rule="global", density=0.01, iterations=1, seed=0)
    with torch.no_grad():
        for weight_name, weight in prunable_tensors(model).items():
            weight.mul_(kept[weight_name])
    found = dead_channels(model, kept, input_shape=shape)
    torch.autograd.backward(nn.functional.cross_entropy(model(torch.randn(8, *shape)), torch.arange(8) % 4))
    unread = 0
    for weight_name, weight in prunable_tensors(model).items():
        assert weight.grad is not None
        gradient = weight.grad[~found[weight_name].read]
        unread += len(gradient)
        assert not gradient.any()
    assert unread > 10


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ModelError, match=r"the mask's '0.weight' of shape \(2,\) is no weight of this model"):
        dead_channels(chain(), Mask.dense({"0.weight": (2,)}), input_shape=(1, 1, 1))
