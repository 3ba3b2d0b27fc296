"""Gradients of kept weights: found by a device, sent, and averaged beside those of pruned ones."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from hedgerow.codec import Floats, Growth, Section
from hedgerow.config import WireSettings
from hedgerow.errors import PayloadError, TrainingError
from hedgerow.exchange import kept_gradients_section, read_kept_gradients
from hedgerow.models import build_model
from hedgerow.pruning import Gradients, Mask, prunable_tensors
from hedgerow.representation import Weights
from hedgerow.server.growth import GradientSum
from hedgerow.sparse import float_tensors, kept_gradients, read_vector, scatter_kept, write_vector
from hedgerow.v1 import payload_pb2 as pb
from tests.unit.test_adjustment import found, mask_of
from tests.unit.test_growth import LAYERS, filled, random_mask


def floats(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def test_gradients_of_kept_weights_travel_in_the_masks_order() -> None:
    said = kept_gradients_section(floats(1.5, -1e9, 1 + 2**-10), wire=WireSettings())
    assert (said.kind, said.codec, said.count) == (pb.KIND_GRADIENTS, pb.CODEC_FLOAT32, 3)
    assert said.data == floats(1.5, -4080, 1 + 2**-10).astype("<f4").tobytes()
    assert read_kept_gradients({said.kind: said}, 3).tolist() == [1.5, -4080, 1 + 2**-10]
    short = kept_gradients_section(floats(1.5, -1e9, 1 + 2**-10), wire=WireSettings(up="int8"))
    assert short.codec == pb.CODEC_BFLOAT16
    assert read_kept_gradients({short.kind: short}, 3).tolist() == [1.5, -4080, 1]


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        (None, "mismatch"),
        (kept_gradients_section(floats(1, 2), wire=WireSettings()), "mismatch"),
        (Section(pb.KIND_GRADIENTS, pb.CODEC_FLOAT32, 3, 0, bytes(11)), "malformed"),
        (Section(pb.KIND_GRADIENTS, pb.CODEC_FLOAT32, 3, 0, floats(1, float("nan"), 2).tobytes()), "not_finite"),
        (Section(pb.KIND_GRADIENTS, pb.CODEC_UNIFORM, 3, 0, bytes(12)), "mismatch"),
    ],
)
def test_gradients_of_other_weights_than_are_kept_are_refused(section: Section | None, kind: str) -> None:
    with pytest.raises(PayloadError) as caught:
        read_kept_gradients({} if section is None else {section.kind: section}, 3)
    assert caught.value.kind == kind


def summed(mask: Mask, replies: Sequence[tuple[Gradients, int]]) -> GradientSum:
    total = GradientSum(mask, (Growth(0, 1),), kept=True)
    for said, weight in replies:
        total.check(said)
        total.add(said, weight=weight)
    return total


def test_means_of_kept_and_of_pruned_weights_are_told_apart() -> None:
    mask = mask_of(a="1010", b="11")
    replies = [(found(a={0: 3.0, 1: 2.0, 2: -1.0}, b={0: 0.0, 1: 1.0}), 1), (found(a={0: 1.0}, b={0: 4.0}), 3)]
    total = summed(mask, replies)
    assert total.kept_mean().tolist() == [1.5, -0.25, 3.0, 0.25]
    means = total.mean()
    assert (means["a"][0].tolist(), means["a"][1].tolist()) == ([1], [0.5])
    assert means["b"][0].size == 0
    again = summed(mask, replies[::-1])
    assert again.kept_mean().tobytes() == total.kept_mean().tobytes()


@pytest.mark.parametrize("name", ["conv", "groups", "linear", "linear twice", "circular padding", "conv1d"])
def test_gradients_of_kept_weights_are_those_of_the_dense_layer(name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.ReLU(inplace=True))
    mask, x = random_mask(model), torch.randn(shape)
    network = filled(Weights(), model, mask)
    scatter_kept(model, mask, read_vector(network.kept))
    write_vector(float_tensors(model), read_vector(network.floats))
    (model(x) ** 2).sum().backward()
    weights = prunable_tensors(model)
    expected = [w.grad[mask[tensor]].numpy() for tensor, w in weights.items() if w.grad is not None]
    result = kept_gradients(network, lambda: (network.module(x) ** 2).sum())
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.concatenate(expected), rtol=1e-4, atol=1e-5)


def test_a_layer_that_is_whole_has_gradients_and_one_that_is_not_run_has_0() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.skipped = nn.Linear(2, 1, bias=False), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.whole(x)  # type: ignore[no-any-return]  # modules return Any

    mask = Mask({"whole.weight": torch.ones(1, 2) > 0, "skipped.weight": torch.eye(2) > 0})
    network, x = filled(Weights(), Skips(), mask), torch.tensor([[2.0, -3.0]])
    assert kept_gradients(network, lambda: network.module(x).sum()).tolist() == [2, -3, 0, 0]
    with pytest.raises(TrainingError, match="the loss became nan"):
        kept_gradients(network, lambda: network.module(x).sum() * float("nan"))
    with pytest.raises(TrainingError, match="not finite though the loss is"):
        kept_gradients(network, lambda: network.module(x * float("inf")).nan_to_num(0).sum())


def test_looking_for_gradients_of_kept_weights_leaves_the_network_as_it_was() -> None:
    model = build_model("conv4", input_shape=(1, 8, 8), classes=3, norm="batch", seed=0)
    network = filled(Weights(), model, random_mask(model))
    network.module.eval()
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    images = torch.randn(4, 1, 8, 8)
    assert kept_gradients(network, lambda: (network.module(images) ** 2).mean()).any()
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    assert all(p.grad is None for p in network.module.parameters())
    assert not any(m.training for m in network.module.modules())
