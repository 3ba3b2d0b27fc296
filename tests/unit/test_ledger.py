"""What training takes in memory: by hand for small networks, and against what is measured for real ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from hedgerow.activations import Kind, activations
from hedgerow.client import training
from hedgerow.config import Experiment, SignSettings, TrainingSettings, WeightSettings
from hedgerow.ledger import Plan, ledger, plan_of, trace
from hedgerow.models import build_model
from hedgerow.native.library import status
from hedgerow.pruning import Mask, initial_mask
from hedgerow.representation import Weights
from hedgerow.sparse import Kernels
from hedgerow.telemetry import PhaseBytes
from hedgerow.telemetry.memory import allocations

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
    assert found.peak == max(found.forward, found.backward, found.update)


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
    assert found.activations == {"0": 160, "2": 30 + 4}
    # Only the gradient of the last layer's weights needs what comes out of torch's ReLU.
    found = ledger(SMALL, MASK, (4,), replace(NATIVE, native=False, value_bits=8, input_bits=4))
    assert found.activations == {"0": 160, "1": 4, "2": 15}


def test_a_network_kept_whole_has_no_positions_unless_its_kernels_are_native() -> None:
    whole = Mask({name: torch.ones_like(bits) for name, bits in MASK.items()})
    assert ledger(SMALL, whole, (4,), replace(NATIVE, native=False)).indices == 0
    assert ledger(SMALL, whole, (4,), replace(NATIVE, native=False, signs=True)).indices == 2 * 18 + 28


def test_positions_take_four_bytes_without_the_library_of_native_kernels() -> None:
    assert ledger(SMALL, MASK, (4,), replace(NATIVE, native=False, compact=False)).indices == 4 * 7


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
            Plan(samples=16, value_bits=4, input_bits=4, recompute=True),
        ),
        (
            Experiment(representation="weights", training=TrainingSettings(activations="topk", keep_ratio=0.25)),
            True,
            Plan(samples=16, value_bits=32, input_bits=5),
        ),
    ],
)
def test_a_plan_follows_from_the_settings(experiment: Experiment, native: bool, expected: Plan) -> None:
    assert plan_of(experiment, native=native) == replace(expected, compact=native or status().available)


def measured(
    name: str, *, kernels: Kernels, kind: Kind = "exact", recompute: bool = False
) -> tuple[PhaseBytes, PhaseBytes]:
    """What one step really takes, and what is computed for it."""
    if kernels == "native" and not status().available:
        pytest.skip("there are no native kernels here")
    shape, samples = (3, 16, 16), 16
    model = build_model(name, input_shape=shape, classes=10, norm="batch", seed=0)
    mask = initial_mask(model, shape, saliency="random", rule="uniform", density=0.05, iterations=1, seed=0)
    storage = activations(kind, keep_ratio=0.3, seed=0)
    network = Weights().network(model, mask, kernels=kernels, storage=storage, recompute=recompute)
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.SGD([*network.kept, *(t for t in network.floats if t.requires_grad)], lr=1e-3, momentum=0.9)
    ]
    parts = [(torch.randn(samples, *shape), torch.arange(samples) % 10)]
    training._step(network.module, parts, optimisers, half=False)
    before = training._lasting_bytes(network.module, optimisers)
    _, found = allocations(lambda: training._step(network.module, parts, optimisers, half=False))
    settings = TrainingSettings(activations=kind, keep_ratio=0.3, recompute=recompute)
    experiment = Experiment(representation="weights", training=settings)
    computed = ledger(model, mask, shape, plan_of(experiment, native=kernels == "native"))
    assert computed.lasting == pytest.approx(before, rel=0.01)
    return training._peaks(before, found), PhaseBytes(
        forward=computed.forward, backward=computed.backward, update=computed.update
    )


@pytest.mark.parametrize("name", ["conv4", "resnet20", "mobilenetv2"])
@pytest.mark.parametrize("kernels", ["native", "dense"])
def test_what_is_computed_is_what_is_measured(name: str, kernels: Kernels) -> None:
    found, computed = measured(name, kernels=kernels)
    assert found.forward == pytest.approx(computed.forward, rel=0.1)
    assert found.backward == pytest.approx(computed.backward, rel=0.1)
    assert found.update == pytest.approx(computed.update, rel=0.2)


@pytest.mark.parametrize("kernels", ["native", "dense"])
@pytest.mark.parametrize(
    ("kind", "recompute", "share"), [("int8", False, 0.7), ("topk", False, 0.9), ("exact", True, 0.7)]
)
def test_less_is_kept_and_about_as_much_less_as_is_computed(
    kernels: Kernels, kind: Kind, recompute: bool, share: float
) -> None:
    exact, _ = measured("resnet20", kernels=kernels)
    found, computed = measured("resnet20", kernels=kernels, kind=kind, recompute=recompute)
    assert found.peak < share * exact.peak
    assert found.peak == pytest.approx(computed.peak, rel=0.4)
