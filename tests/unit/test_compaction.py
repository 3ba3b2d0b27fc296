"""Channels that go, channels that stay, and outputs that do not change."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.compaction import Compaction, compact
from hedgerow.errors import ModelError
from hedgerow.models import build_model
from hedgerow.pruning import Mask, initial_mask, prunable_tensors

SHAPE = (3, 12, 12)


def images(shape: tuple[int, int, int] = SHAPE, *, count: int = 5) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(9))


def unsettle(model: nn.Module, *, seed: int = 1) -> None:
    """Biases, norms and their statistics as training leaves them: nothing is 0 or 1 any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand(buffer.shape, generator=generator))


def parameter(model: nn.Module, name: str) -> nn.Parameter:
    return model.get_parameter(name)


def keep_only(model: nn.Module, mask: Mask) -> None:
    with torch.no_grad():
        for name, weight in prunable_tensors(model).items():
            weight.mul_(mask[name])


def assert_same_outputs(model: nn.Module, found: Compaction, *, shape: tuple[int, int, int] = SHAPE) -> None:
    whole = copy.deepcopy(model).eval()
    x = images(shape)
    with torch.no_grad():
        expected, outputs = whole(x), found.module()(x)
        one = found.module()(x[:1])
    size = expected.abs().max().item()
    assert size > 0, "outputs of nothing but zeros would show nothing"
    torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-6 * size)
    torch.testing.assert_close(one, expected[:1], rtol=0, atol=2e-6 * size)


def weight_shapes(found: Compaction) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in found.program.tensors.items() if name.endswith("weight")}


def linear_chain(*, first: Tensor, second: Tensor, bias: tuple[float, ...]) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        parameter(model, "1.weight").copy_(first)
        parameter(model, "1.bias").copy_(torch.tensor(bias))
        parameter(model, "3.weight").copy_(second)
        parameter(model, "3.bias").fill_(1.0)
    return model


def test_a_unit_that_nobody_reads_goes_with_its_weights() -> None:
    first = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    model = linear_chain(first=first, second=torch.tensor([[1.0, 0, 1]]), bias=(0, 7, 0))
    found = compact(model, (1, 1, 2))
    assert found.program.tensors["1.weight"].tolist() == [[1, 2], [5, 6]]
    assert found.program.tensors["1.bias"].tolist() == [0, 0]
    assert found.program.tensors["3.weight"].tolist() == [[1, 1]]
    assert found.program.tensors["3.bias"].tolist() == [1]


def test_a_unit_that_no_weight_leads_to_becomes_a_part_of_the_next_bias() -> None:
    first = torch.tensor([[1.0, 2], [0, 0], [0, 0]])
    model = linear_chain(first=first, second=torch.tensor([[1.0, 10, 100]]), bias=(0, 0.5, -3))
    found = compact(model, (1, 1, 2))
    assert found.program.tensors["1.weight"].tolist() == [[1, 2]]
    assert found.program.tensors["3.weight"].tolist() == [[1]]
    assert found.program.tensors["3.bias"].tolist() == [1 + 10 * 0.5], "ReLU makes the other one 0"


def test_death_goes_on_through_the_layers() -> None:
    model = nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(4)], nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        for layer in range(4):
            parameter(model, f"{layer}.weight").copy_(
                torch.eye(4)[:, :, None, None]
            )  # each channel is a path of its own
        parameter(model, "2.weight")[1, 1] = 0
    found = compact(model, (4, 1, 1))
    assert weight_shapes(found) == {
        "0.weight": (3, 4, 1, 1),
        "1.weight": (3, 3, 1, 1),
        "2.weight": (3, 3, 1, 1),
        "3.weight": (3, 3, 1, 1),
        "5.weight": (2, 3),
    }
    assert_same_outputs(model, found, shape=(4, 1, 1))


def test_a_constant_at_a_padded_border_stays_but_stands_for_all_of_its_kind() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3, padding=1), nn.Flatten(), nn.Linear(200, 2))
    with torch.no_grad():
        parameter(model, "0.weight")[2:] = 0
        parameter(model, "0.bias")[2:] = torch.tensor([0.5, 0.0, -2.0, 1.0])
    found = compact(model, SHAPE)
    assert weight_shapes(found)["0.weight"] == (3, 3, 3, 3), "two that live, and one for the three that are not 0"
    assert_same_outputs(model, found)


def test_a_constant_without_padding_needs_no_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3, bias=False), nn.Flatten(), nn.Linear(128, 2))
    with torch.no_grad():
        parameter(model, "0.weight")[2:] = 0
    found = compact(model, SHAPE)
    assert weight_shapes(found)["0.weight"] == (2, 3, 3, 3)
    assert found.program.tensors["1.bias"].shape == (2,), "made for what the constants contribute"
    assert_same_outputs(model, found)


def test_the_shift_of_a_norm_survives_its_channel() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    unsettle(model)
    with torch.no_grad():
        parameter(model, "0.weight")[1:3] = 0
        parameter(model, "1.bias")[1:3] = torch.tensor([5.0, -5.0])
    found = compact(model, SHAPE)
    assert found.program.tensors["1.running_var"].shape == (2,)
    assert_same_outputs(model, found)


class Residual(nn.Module):
    """x + main(x), in the functional style, and with a shortcut that is read twice."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.outer = nn.Conv2d(5, 6, 1)
        self.relu = nn.ReLU(inplace=inplace)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(x + self.outer(self.relu(self.inner(x))))
        x = F.avg_pool2d(x, 12)
        logits: Tensor = self.out(x.view(x.size(0), -1))
        return logits


@pytest.mark.parametrize("inplace", [False, True])
def test_a_residual_stream_loses_a_channel_only_where_both_sides_do(inplace: bool) -> None:
    torch.manual_seed(0)
    model = Residual(inplace=inplace)
    unsettle(model)
    with torch.no_grad():
        for channel in (1, 4):  # dead on both sides, and read by nobody
            model.stem.weight[channel] = 0
            model.outer.weight[channel] = 0
            model.inner.weight[:, channel] = 0
            model.out.weight[:, channel] = 0
        model.outer.weight[2] = 0  # dead on one side only
        model.inner.weight[3] = 0
        model.outer.weight[:, 3] = 0
    found = compact(model, SHAPE)
    assert weight_shapes(found)["stem.weight"] == (4, 3, 3, 3)
    assert weight_shapes(found)["outer.weight"] == (4, 4, 1, 1)
    assert found.untouched == ()
    assert_same_outputs(model, found)


def test_flattening_ties_a_map_to_all_its_features() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(100, 3))
    with torch.no_grad():
        parameter(model, "3.weight")[:, 25:50] = 0
        parameter(model, "3.weight")[:, 50:74] = 0  # one feature of this map is still read
    found = compact(model, SHAPE)
    assert weight_shapes(found) == {"0.weight": (3, 3, 3, 3), "3.weight": (3, 75)}
    assert_same_outputs(model, found)


@pytest.mark.parametrize("groups", [2, 6])
def test_groups_go_whole_or_stay(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 1),
        nn.Conv2d(6, 12, 3, padding=1, groups=groups),
        nn.Conv2d(12, 2, 1),
        nn.Flatten(),
        nn.Linear(288, 2),
    )
    outputs, inputs = 12 // groups, 6 // groups
    with torch.no_grad():
        parameter(model, "2.weight")[:, :outputs] = 0
        parameter(model, "1.weight")[outputs : outputs + 1] = 0  # one dead output of another group
    found = compact(model, SHAPE)
    if groups == 2:
        assert weight_shapes(found)["1.weight"] == (6, 3, 3, 3)
    else:
        assert weight_shapes(found)["1.weight"] == (12 - outputs, 1, 3, 3)
    assert weight_shapes(found)["0.weight"][0] == 6 - inputs
    assert_same_outputs(model, found)


def test_one_needed_channel_of_a_group_keeps_the_group() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(200, 2)
    )
    with torch.no_grad():
        parameter(model, "2.weight")[:, 1:] = 0  # the first one is needed, and the last of its group is not
        parameter(model, "1.weight")[0, 1] = 0
    found = compact(model, SHAPE)
    assert weight_shapes(found)["1.weight"] == (2, 2, 3, 3)
    assert_same_outputs(model, found)


class Mixed(nn.Module):
    """Channels that are sliced, joined, scaled, padded and broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular")
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 9).view(1, 9, 1, 1))
        self.gate = nn.Conv2d(9, 9, 1)
        self.c = nn.Conv2d(7, 6, 3, bias=False)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.silu(self.a(x)), self.b(x)], dim=1) * self.scale + 0.25
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = F.hardswish(self.c(x[:, 1:8]))
        x = F.pad(x, (0, 0, 0, 0, 1, 1)).mean((2, 3))
        logits: Tensor = self.out(F.dropout(x, training=self.training))
        return logits


def test_slices_sums_scales_and_channels_of_zeros_are_followed() -> None:
    torch.manual_seed(0)
    model = Mixed()
    with torch.no_grad():
        model.a.weight[2] = 0
        model.gate.weight[:, [2, 6]] = 0
        model.c.weight[:, 5] = 0  # channel 6 of nine
        model.c.weight[:, 1] = 0  # channel 2 of nine
        model.gate.weight[2], model.gate.weight[6] = 0, 0
        model.c.weight[4] = 0
    found = compact(model, SHAPE)
    assert found.untouched == ()
    assert weight_shapes(found) == {
        "a.weight": (3, 3, 3, 3),
        "b.weight": (4, 3, 3, 3),
        "gate.weight": (7, 7, 1, 1),
        "c.weight": (5, 5, 3, 3),
        "out.weight": (3, 5),
    }
    assert found.program.tensors["scale"].shape == (1, 7, 1, 1)
    assert_same_outputs(model, found)


class Padded(nn.Module):
    """Channels of ones before and after those that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(9, 3, 3, padding=1)
        self.out = nn.Linear(432, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.first(x), (0, 0, 0, 0, 2, 3), value=1.0)
        logits: Tensor = self.out(self.second(x).flatten(1))
        return logits


def test_of_channels_that_padding_adds_one_stays_for_the_border() -> None:
    torch.manual_seed(0)
    model = Padded()
    with torch.no_grad():
        model.first.weight[0] = 0
        parameter(model, "first.bias")[0] = 0.5
        model.second.weight[:, 3] = 0  # channel 1 of four
    found = compact(model, SHAPE)
    assert weight_shapes(found) == {"first.weight": (2, 3, 1, 1), "second.weight": (3, 3, 3, 3), "out.weight": (2, 432)}
    assert_same_outputs(model, found)


class Strange(nn.Module):
    """Operators that compaction has no rule for, between layers that it does know."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.third = nn.Conv2d(6, 2, 1)
        self.out = nn.Linear(288, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(F.relu(self.second(self.norm(self.first(x)))))
        logits: Tensor = self.out(x.permute(0, 2, 3, 1).flatten(1))
        return logits


def test_what_is_not_known_keeps_its_channels_and_the_rest_still_goes() -> None:
    torch.manual_seed(0)
    model = Strange()
    with torch.no_grad():
        model.first.weight[1] = 0
        model.second.weight[:3] = 0
    found = compact(model, SHAPE)
    assert found.untouched == ("aten.group_norm.default", "aten.permute.default")
    shapes = weight_shapes(found)
    assert (shapes["first.weight"][0], shapes["second.weight"][0], shapes["third.weight"][0]) == (4, 3, 2)
    assert_same_outputs(model, found)


def test_a_network_may_write_over_its_own_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 2))
    with torch.no_grad():
        parameter(model, "1.weight")[1:3] = 0
    found = compact(model, SHAPE)
    assert weight_shapes(found)["1.weight"] == (2, 3, 3, 3)
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(found.module()(x.clone()), model(x.clone()), rtol=1e-5, atol=1e-6)


class Idle(nn.Module):
    """Nothing to compute."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_network_that_computes_nothing_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="Idle gives a constant or its own input; there is nothing to compact"):
        compact(Idle(), SHAPE)


def test_a_weight_that_two_layers_share_is_not_cut() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[3].register_parameter("weight", parameter(model, "1.weight"))
    with torch.no_grad():
        parameter(model, "1.weight")[2] = 0
    found = compact(model, (1, 2, 2))
    assert sorted(weight_shapes(found).values()) == [(2, 4), (4, 4)], "one tensor for the two"
    assert_same_outputs(model, found, shape=(1, 2, 2))


def test_a_network_without_a_single_path_gives_its_constant() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2))
    with torch.no_grad():
        parameter(model, "0.weight").zero_()
    found = compact(model, SHAPE)
    assert weight_shapes(found)["0.weight"] == (1, 3, 3, 3), "an operator may not take what has no channels"
    assert_same_outputs(model, found)


def test_a_dense_network_stays_as_it_is() -> None:
    model = build_model("lenet5", input_shape=SHAPE, classes=4, seed=0)
    found = compact(model, SHAPE)
    assert found.before == found.after
    for name, tensor in found.whole.tensors.items():
        assert torch.equal(found.program.tensors[name], tensor), name


def test_the_mask_says_what_is_pruned_and_the_model_is_not_changed() -> None:
    model = build_model("lenet5", input_shape=SHAPE, classes=4, seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask = Mask({n: torch.rand(w.shape) < 0.02 for n, w in prunable_tensors(model).items()})
    found = compact(model, SHAPE, mask=mask)
    assert found.after.parameters < found.before.parameters
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    keep_only(model, mask)
    assert_same_outputs(model, found)


def test_a_mask_of_another_model_is_refused() -> None:
    model = build_model("lenet5", input_shape=SHAPE, classes=4, seed=0)
    with pytest.raises(ModelError, match=r"the mask's 'w' of shape \(2,\) is no weight of this model"):
        compact(model, SHAPE, mask=Mask.dense({"w": (2,)}))


class Branching(nn.Module):
    """What no tracer can follow: a path that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(432, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(x.flatten(1))
        return logits if logits.sum() > 0 else -logits


def test_control_flow_on_values_is_a_model_error() -> None:
    with pytest.raises(ModelError, match=r"Branching cannot be traced by torch\.export"):
        compact(Branching(), SHAPE)


def test_sizes_are_counted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(576, 2))
    size = compact(model, SHAPE).before
    assert size.parameters == 3 * 4 * 9 + 8 + 1152 + 2
    assert size.bytes == 4 * (size.parameters + 8)
    assert size.macs == 144 * 3 * 4 * 9 + 1152
    assert size.channels == 4 + 2


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("name", ["conv4", "resnet20", "mobilenetv2", "vgg11", "lenet5", "mlp"])
def test_synflow_masks_leave_less_of_each_model_and_the_same_outputs(name: str, norm: str) -> None:
    shape = (3, 16, 16)
    model = build_model(name, input_shape=shape, classes=5, norm="batch" if norm == "batch" else "none", seed=3)
    mask = initial_mask(model, shape, saliency="synflow", rule="global", density=0.02, iterations=5, seed=0)
    keep_only(model, mask)
    unsettle(model)
    found = compact(model, shape)
    assert found.untouched == ()
    assert found.after.parameters < 0.8 * found.before.parameters
    assert found.after.macs < 0.95 * found.before.macs
    assert_same_outputs(model, found, shape=shape)


LAYERS: tuple[Callable[[int, int], nn.Module], ...] = (
    lambda i, o: nn.Conv2d(i, o, 3, padding=1),
    lambda i, o: nn.Conv2d(i, o, 3, padding=1, bias=False),
    lambda i, o: nn.Conv2d(i, o, (2, 3), stride=(1, 2), padding=(1, 1)),
    lambda i, o: nn.Conv2d(i, o, 1),
    lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()),
    lambda i, o: nn.Sequential(nn.Conv2d(i, o, 3, padding=2, dilation=2), nn.Tanh(), nn.MaxPool2d(2, 1, 1)),
    lambda i, o: nn.Sequential(nn.Conv2d(i, i, 3, padding=1, groups=i), nn.Sigmoid(), nn.Conv2d(i, o, 1)),
    lambda i, o: nn.Sequential(nn.Conv2d(i, o, 1), nn.AvgPool2d(3, 1, 1)),
)


@settings(max_examples=40)
@given(
    layers=st.lists(st.integers(0, len(LAYERS) - 1), min_size=1, max_size=4),
    widths=st.lists(st.integers(1, 6), min_size=4, max_size=4),
    density=st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0]),
    flat=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_chain_under_any_mask_keeps_its_outputs(
    layers: list[int], widths: list[int], density: float, flat: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    channels, modules = 2, []
    for kind, width in zip(layers, widths, strict=False):
        modules.append(LAYERS[kind](channels, width))
        channels = width
    body = nn.Sequential(*modules)
    end: list[nn.Module] = [nn.Flatten()] if flat else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    features = int(np.prod(nn.Sequential(body, *end)(torch.zeros(2, 2, 9, 9)).shape[1:]))
    model = nn.Sequential(body, *end, nn.Linear(features, 3))
    keep_only(model, Mask({n: torch.rand(w.shape) < density for n, w in prunable_tensors(model).items()}))
    unsettle(model, seed=seed)
    found = compact(model, (2, 9, 9))
    assert found.after.parameters <= found.before.parameters + sum(widths)
    assert_same_outputs(model, found, shape=(2, 9, 9))
