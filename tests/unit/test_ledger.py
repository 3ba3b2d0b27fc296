"""What training takes in memory: by hand for small networks, and against what is measured for real ones."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch
from torch import nn

from hedgerow.activations import Kind
from hedgerow.client import stepping
from hedgerow.client.stepping import Step
from hedgerow.config import (
    Experiment,
    ModelSettings,
    PruningSettings,
    SignSettings,
    TrainingSettings,
    WeightSettings,
)
from hedgerow.ledger import Ledger, Plan, ledger, ledger_of, plan_of, trace, traced
from hedgerow.models import build_model
from hedgerow.models.standard import StandardConv2d, StandardLinear
from hedgerow.native.library import status
from hedgerow.pruning import Mask
from hedgerow.sparse import Kernels
from hedgerow.sparse.kernels import Geometry, scratch_bytes, scratch_held

SMALL = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
"""12 and 6 weights, 5 biases."""
MASK = Mask({"0.weight": torch.arange(12).view(3, 4) < 5, "2.weight": torch.arange(6).view(2, 3) < 2})
"""Keeps 5 and 2 of them."""
NATIVE = Plan(samples=10)


def test_what_lasts_is_counted_by_hand() -> None:
    found = ledger(SMALL, MASK, (4,), NATIVE)
    assert found.weights == 4 * 7
    assert found.indices == 2 * 7 + 4 * (4 + 3)  # a place for each weight, and where each output begins
    assert found.floats == 4 * 5
    assert found.optimiser == found.gradients == 4 * 12
    assert found.lasting == found.weights + found.indices + found.floats + found.optimiser
    assert found.update == found.lasting + found.gradients
    assert found.peak == max(found.forward, found.backward, found.update) + found.scratch
    assert found.phases == {"forward": found.forward, "backward": found.backward, "update": found.update}


def test_native_layers_keep_what_comes_before_a_relu_and_torch_what_comes_after_it() -> None:
    # 10 samples of 4 numbers, and 10 of 3, in 4 bytes each
    assert ledger(SMALL, MASK, (4,), NATIVE).activations == {"0": 160, "2": 120}
    assert ledger(SMALL, MASK, (4,), replace(NATIVE, native=False)).activations == {"0": 160, "1": 120}


def test_an_optimiser_without_state_and_frozen_magnitudes_are_counted() -> None:
    found = ledger(SMALL, MASK, (4,), replace(NATIVE, state_bytes=0, magnitude_bytes=4))
    assert (found.optimiser, found.weights) == (0, 8 * 7)


def test_activations_are_counted_in_the_bits_that_hold_them() -> None:
    # 8 bits are not exact, so the ReLU has 30 of its own; the samples are held as they are by whoever has them.
    found = ledger(SMALL, MASK, (4,), replace(NATIVE, value_bits=8, input_bits=4))
    assert found.activations == {"0": 160, "2": 15 + 4}
    # Only the gradient of the last layer's weights needs what comes out of torch's ReLU.
    found = ledger(SMALL, MASK, (4,), replace(NATIVE, native=False, value_bits=8, input_bits=4))
    assert found.activations == {"0": 160, "1": 4, "2": 15}


def test_a_network_kept_whole_has_no_positions_unless_its_kernels_are_native() -> None:
    whole = Mask({name: torch.ones_like(bits) for name, bits in MASK.items()})
    assert ledger(SMALL, whole, (4,), replace(NATIVE, native=False)).indices == 0
    assert ledger(SMALL, whole, (4,), replace(NATIVE, native=False, signs=True)).indices == 2 * 18 + 28


def test_positions_take_four_bytes_without_the_library_of_native_kernels() -> None:
    assert ledger(SMALL, MASK, (4,), replace(NATIVE, native=False, compact=False)).indices == 4 * 7


def test_a_step_of_dense_layers_is_counted_by_hand() -> None:
    found = ledger(SMALL, MASK, (4,), replace(NATIVE, native=False))
    assert found.lasting == 4 * 7 + 2 * 7 + 4 * (4 + 3) + 4 * 5 + 4 * 12
    # At most before and after the ReLU, 30 numbers each.
    assert found.forward == found.lasting + 120 + 120
    # In the ReLU's backward: what it kept, a gradient behind and one before it, and that of two weights.
    assert found.backward == found.lasting + 120 + 120 + 120 + 4 * 2
    assert found.scratch == 0


def test_counts_are_enough_once_a_network_was_traced() -> None:
    network = traced(SMALL, (4,))
    assert network.weights == 18
    assert ledger_of(network, {"0.weight": 5, "2.weight": 2}, NATIVE) == ledger(SMALL, MASK, (4,), NATIVE)


def test_a_gradient_behind_a_sum_is_counted_once_for_all_that_is_added() -> None:
    mask = Mask({"0.inner.weight": torch.ones(1, 1, 1, 1) > 0})
    found = ledger(nn.Sequential(Doubled()), mask, (1, 4, 4), Plan(samples=1, native=False, state_bytes=0))
    # In the ReLU's backward, 16 numbers each: what it kept, the gradient of the sum and of all in it, and a new one.
    assert found.backward == found.lasting + 3 * 64


def test_every_part_after_the_first_adds_to_gradients_that_are_there() -> None:
    plan = replace(NATIVE, native=False)
    once, parts = (ledger(SMALL, MASK, (4,), replace(plan, parts=flag)) for flag in (False, True))
    # In the ReLU's backward, 5 weights of the first layer have a gradient, too.
    assert parts.backward == once.backward + 4 * 5


@pytest.mark.skipif(not status().available, reason="there are no native kernels here")
def test_working_memory_of_native_kernels_is_what_the_library_says() -> None:
    sizes = [
        *scratch_bytes((4, 1, 1, 10), (3, 4), Geometry(), kept=5, threads=1),
        *scratch_bytes((3, 1, 1, 10), (2, 3), Geometry(), kept=2, threads=1),
    ]
    assert ledger(SMALL, MASK, (4,), NATIVE).scratch == max(sizes) > 0
    assert ledger(SMALL, MASK, (4,), replace(NATIVE, threads=2)).scratch >= max(sizes)


def test_working_memory_stays_up_to_four_megabytes_a_thread() -> None:
    assert scratch_held([1 << 22, (1 << 22) + 1], threads=1) == 1 << 22
    assert scratch_held([(1 << 22) + 1], threads=1) == 0
    assert scratch_held([(1 << 22) + 1], threads=2) == (1 << 22) + 1


def test_max_pooling_by_torch_keeps_its_input_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2))
    mask = Mask({"0.weight": torch.ones(1, 1, 1, 1) > 0})
    plan = Plan(samples=1, native=False, value_bits=8, input_bits=8)
    # 16 numbers, and 4 places of 8 bytes
    assert ledger(model, mask, (1, 4, 4), plan).activations == {"0": 64, "1": 64 + 32}


class Doubled(nn.Module):
    """A layer and what it makes, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(1, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        found: torch.Tensor = y.relu() + y
        return found


def test_all_gradients_are_there_from_the_second_part_on() -> None:
    once = ledger(SMALL, MASK, (4,), NATIVE)
    parts = ledger(SMALL, MASK, (4,), replace(NATIVE, parts=True))
    assert parts.forward == once.forward + once.gradients


def test_a_layer_with_wide_rows_has_wide_positions() -> None:
    wide = nn.Sequential(nn.Linear(65_537, 1))
    mask = Mask({"0.weight": torch.arange(65_537).view(1, -1) < 100})
    assert ledger(wide, mask, (65_537,), NATIVE).indices == 4 * 100 + 8


class Residual(nn.Module):
    """Adds, pads and cuts outside of any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.relu(self.main(x) + x)
        return found


def test_functions_outside_of_layers_are_seen() -> None:
    found = trace(nn.Sequential(Residual(), nn.Flatten()), (2, 4, 4))
    assert [(call.name, call.kind, call.inputs, call.output) for call in found.calls] == [
        ("0.main.0", "weight", (0,), 1),
        ("0.main.1", "norm", (1,), 2),
        ("0.add", "other", (2, 0), 3),
        ("0.relu", "relu", (3,), 4),
        ("1", "view", (4,), 4),
    ]
    assert found.elements == (32, 32, 32, 32, 32)
    assert found.calls[0].padded == 2 * 6 * 6


def test_a_norm_does_the_sum_and_the_relu_after_it() -> None:
    model = nn.Sequential(Residual(), nn.Flatten(), nn.Linear(32, 2))
    mask = Mask({"0.main.0.weight": torch.ones(2, 2, 3, 3) > 0, "2.weight": torch.ones(2, 32) > 0})
    native = ledger(model, mask, (2, 4, 4), Plan(samples=1)).activations
    # the samples, the norm's input and the sum after ReLU, which the last layer needs too
    assert native == {"0.main.0": 128, "0.main.1": 256}
    dense = ledger(model, mask, (2, 4, 4), Plan(samples=1, native=False)).activations
    assert dense == {"0.main.0": 128, "0.main.1": 128, "0.relu": 128}


def test_a_model_is_not_changed_by_being_followed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace(model, (1, 5, 5))
    assert model.training
    assert not model[0]._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_layers_are_followed_without_reading_their_weights() -> None:
    def layers(device: str) -> nn.Sequential:
        with torch.device(device):
            return nn.Sequential(
                nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1, bias=False),
                StandardConv2d(4, 6, (3, 2), padding="same", dilation=2),
                nn.Flatten(),
                nn.Linear(96, 5),
                StandardLinear(5, 2),
            )

    # What is on the meta device has no values, so that nothing could be computed with it.
    found = trace(layers("meta"), (3, 7, 7))
    assert found == trace(layers("cpu"), (3, 7, 7))
    assert found.elements == (147, 4 * 4 * 4, 6 * 4 * 4, 5, 2)


@pytest.mark.parametrize(
    ("experiment", "native", "expected"),
    [
        (Experiment(), True, Plan(samples=16, state_bytes=0, signs=True)),
        (Experiment(representation="weights"), False, Plan(samples=16, native=False)),
        (
            Experiment(representation="weights", weights=WeightSettings(momentum=0.0)),
            True,
            Plan(samples=16, state_bytes=0),
        ),
        (
            Experiment(signs=SignSettings(magnitude="random"), training=TrainingSettings(micro_batch=4)),
            True,
            Plan(samples=4, parts=True, state_bytes=0, signs=True, magnitude_bytes=4),
        ),
        (
            Experiment(representation="weights", training=TrainingSettings(activations="int4", recompute=True)),
            True,
            Plan(samples=16, value_bits=5.5, input_bits=5.5, rectified_bits=4, recompute=True),
        ),
        (
            Experiment(representation="weights", training=TrainingSettings(activations="topk", keep_ratio=0.25)),
            True,
            Plan(samples=16, value_bits=32, input_bits=5),
        ),
    ],
)
def test_a_plan_follows_from_the_settings(experiment: Experiment, native: bool, expected: Plan) -> None:
    here = replace(expected, compact=native or status().available, threads=torch.get_num_threads())
    assert plan_of(experiment, native=native) == here


@pytest.mark.parametrize("name", ["conv4", "resnet20", "mobilenetv2"])
@pytest.mark.parametrize("kernels", ["native", "dense"])
def test_what_is_computed_is_what_is_measured(name: str, kernels: Kernels) -> None:
    found, computed = measured(name, kernels=kernels)
    assert found.forward == pytest.approx(computed.forward, rel=0.05)
    assert found.backward == pytest.approx(computed.backward, rel=0.05)
    assert found.update == pytest.approx(computed.update, rel=0.2)


@pytest.mark.parametrize("kernels", ["native", "dense"])
@pytest.mark.parametrize(
    ("name", "kind", "recompute", "share"),
    [
        ("resnet20", "int8", False, 0.7),
        ("resnet20", "int4", False, 0.6),
        ("resnet20", "topk", False, 0.95),
        ("resnet20", "exact", True, 0.7),
        # What is held in bits is made whole again beside what runs again, which is more here.
        ("conv4", "int8", True, 1.3),
    ],
)
def test_less_is_kept_and_as_much_less_as_is_computed(
    kernels: Kernels, name: str, kind: Kind, recompute: bool, share: float
) -> None:
    exact, _ = measured(name, kernels=kernels)
    found, computed = measured(name, kernels=kernels, kind=kind, recompute=recompute)
    assert max(found.phases.values()) < share * max(exact.phases.values())
    assert max(found.phases.values()) == pytest.approx(computed.peak - computed.scratch, rel=0.1)


def measured(name: str, *, kernels: Kernels, kind: Kind = "exact", recompute: bool = False) -> tuple[Step, Ledger]:
    """What one step really takes, and what is computed for it."""
    if kernels == "native" and not status().available:
        pytest.skip("there are no native kernels here")
    settings = TrainingSettings(
        activations=kind, keep_ratio=0.3, recompute=recompute, batch_size=16, kernels=kernels, steps=2
    )
    experiment = Experiment(
        model=ModelSettings(name=name),
        representation="weights",
        pruning=PruningSettings(density=0.05, saliency="random", rule="uniform"),
        training=settings,
    )
    shape = (3, 16, 16)
    found = stepping._step(experiment, input_shape=shape, classes=10)
    network = traced(build_model(name, input_shape=shape, classes=10, seed=0), shape)
    return found, ledger_of(network, found.kept, plan_of(experiment, native=kernels == "native"))


def test_standardised_weights_are_held_beside_those_they_are_made_of_and_always_have_positions() -> None:
    shape = (1, 8, 8)
    models = {norm: build_model("mlp", input_shape=shape, classes=3, norm=norm, seed=0) for norm in ("none", "nsconv")}
    plain, standard = (traced(model, shape) for model in models.values())
    assert plain.standard == frozenset()
    assert standard.standard < standard.sizes.keys(), "all but the last layer"
    kept = dict.fromkeys(plain.sizes, 100)
    dense = replace(NATIVE, native=False)
    more = {
        name: ledger_of(standard, kept, dense).activations.get(name, 0) - size
        for name, size in ledger_of(plain, kept, dense).activations.items()
        if f"{name}.weight" in kept
    }
    assert more == {name: 400 if f"{name}.weight" in standard.standard else 0 for name in more}
    whole = {name: prod(size) for name, size in standard.sizes.items()}
    assert ledger_of(plain, whole, dense).indices == 0
    assert ledger_of(standard, whole, dense).indices > 0


def test_only_standardised_layers_hold_less_where_only_they_are_to() -> None:
    plan = Plan(samples=4, input_bits=8, standard_only=True)
    assert (plan.bits_of_input(standard=True), plan.bits_of_input(standard=False)) == (8, 32)
    assert replace(plan, standard_only=False).bits_of_input(standard=False) == 8
    settings = TrainingSettings(activations="topk", topk_layers="standardised")
    experiment = Experiment(model=ModelSettings(norm="nsconv"), training=settings)
    assert plan_of(experiment, native=False).standard_only


def test_a_search_keeps_nothing_before_the_first_layer_that_is_pruned() -> None:
    network = traced(nn.Sequential(nn.Linear(4, 1000), nn.ReLU(), nn.Linear(1000, 3)), (4,))
    plan = Plan(samples=10, native=False, state_bytes=0, grows=0.5)
    whole = ledger_of(network, {"0.weight": 4000, "2.weight": 1500}, plan)
    assert dict(whole.activations) == {"2": 40_000}
    pruned = ledger_of(network, {"0.weight": 2000, "2.weight": 1500}, plan)
    assert sum(pruned.activations.values()) == 40_000 + 160
    # Half as many as are kept are found, in 12 bytes each; while they are put in order the largest buffer has 8 more.
    assert whole.update == whole.lasting + 12 * 750 + 8 * 750
    assert pruned.update == pruned.lasting + 12 * (1000 + 750) + 8 * 1000
