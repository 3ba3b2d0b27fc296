"""Extrusion presses marked weights towards 0, within a budget of steps or seconds, and leaves all else alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hedgerow.client.extrusion import Extrusion, extrusion_rate, rex
from hedgerow.client.memory import ClientState
from hedgerow.client.training import Trained, train
from hedgerow.codec import Growth, decode_payload, encode_payload
from hedgerow.config import Experiment, ExtrusionSettings, load_experiment
from hedgerow.data import Dataset, Samples
from hedgerow.errors import PayloadError
from hedgerow.pruning import Mask, marked
from hedgerow.sparse import KeptNetwork, read_vector, sparsify, write_vector
from tests.unit.test_answer import LIMIT, Setting


def settings_of(**changes: object) -> ExtrusionSettings:
    return ExtrusionSettings.model_validate({"penalty": 0.25, **changes})


def of(bits: list[bool], layers: list[int], **changes: object) -> Extrusion:
    return Extrusion.of(settings_of(**changes), np.array(bits, dtype=np.bool_), layers=layers, rate=0.1)


def with_gradients(*tensors: Tensor) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    for leaf in leaves:
        leaf.grad = torch.full_like(leaf, 0.125)
    return leaves


def test_the_schedule_of_four_steps_is_1_and_6_7ths_and_2_thirds_and_2_fifths() -> None:
    assert [rex(step / 4) for step in range(5)] == pytest.approx([1, 6 / 7, 2 / 3, 2 / 5, 0])
    assert rex(7.0) == 0


def test_the_rate_is_high_as_long_as_the_marked_weights_are_large() -> None:
    # 2σ(ln 3) - 1 = 1/2.
    assert extrusion_rate(0.0, norm=math.log(3), scheduled=0.0, first=0.5) == pytest.approx(0.25)
    assert extrusion_rate(0.5, norm=math.log(3), scheduled=0.0, first=0.5) == pytest.approx(0.25 * 2 / 3)
    assert extrusion_rate(0.0, norm=0.0, scheduled=0.125, first=0.5) == 0.125
    assert extrusion_rate(0.0, norm=1e6, scheduled=0.0, first=0.5) == 0.5


def test_the_last_steps_press() -> None:
    pressing = of([True], [1], steps=4)
    assert [pressing.share(step, steps=6, elapsed=9.0) for step in range(6)] == [None, None, 0.0, 0.25, 0.5, 0.75]
    assert [pressing.share(step, steps=2, elapsed=9.0) for step in range(2)] == [0.0, 0.5]
    assert of([True], [1]).share(0, steps=5, elapsed=9.0) == 0.0
    assert of([True], [1], seconds=4.0).share(0, steps=6, elapsed=1.0) == 0.25


def test_the_gradient_of_a_squared_penalty_is_twice_the_weight() -> None:
    one, two = with_gradients(torch.tensor([1.0, -2.0, 4.0]), torch.tensor([3.0]))
    of([False, True, True, False], [3, 1]).add_to_gradients([one, two])
    assert one.grad is not None
    assert one.grad.tolist() == [0.125, 0.125 - 1.0, 0.125 + 2.0]
    assert two.grad is not None
    assert two.grad.tolist() == [0.125]
    assert one.tolist() == [1.0, -2.0, 4.0]


def test_the_gradient_of_a_norm_is_the_direction_within_a_tensor() -> None:
    one, two = with_gradients(torch.tensor([3.0, 4.0, 7.0]), torch.tensor([0.0, -8.0]))
    pressing = of([True, True, False, True, True], [3, 2], form="norm")
    pressing.add_to_gradients([one, two])
    assert one.grad is not None
    assert one.grad.tolist() == pytest.approx([0.125 + 0.25 * 0.6, 0.125 + 0.25 * 0.8, 0.125])
    assert two.grad is not None
    assert two.grad.tolist() == pytest.approx([0.125, 0.125 - 0.25])
    assert pressing.norm([one, two]) == pytest.approx(math.sqrt(25 + 64))
    assert pressing.held_bytes == 8 * 4


def test_marked_weights_that_are_0_have_no_direction() -> None:
    (own,) = with_gradients(torch.zeros(2))
    of([True, True], [2], form="norm").add_to_gradients([own])
    assert own.grad is not None
    assert own.grad.tolist() == [0.125, 0.125]


def test_a_gradient_in_channels_last_order_is_added_to_at_the_right_places() -> None:
    weight = torch.arange(16.0).view(2, 2, 2, 2).requires_grad_()
    weight.grad = torch.zeros(2, 2, 2, 2).contiguous(memory_format=torch.channels_last)
    of([place in (1, 6) for place in range(16)], [16]).add_to_gradients([weight])
    assert weight.grad is not None
    assert weight.grad.flatten().nonzero().flatten().tolist() == [1, 6]
    assert weight.grad.flatten()[[1, 6]].tolist() == [0.5, 3.0]


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.sampled_from(["squared", "norm"]), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_no_bit_of_another_gradient_changes(bits: list[bool], form: str, seed: int) -> None:
    drawn = torch.randn(2, len(bits), generator=torch.Generator().manual_seed(seed))
    own = drawn[0].clone().requires_grad_()
    own.grad = drawn[1].clone()
    of(bits, [len(bits)], form=form).add_to_gradients([own])
    others = ~torch.tensor(bits)
    assert torch.equal(own.grad[others], drawn[1][others])
    assert torch.equal(own.detach(), drawn[0])


@pytest.mark.parametrize("steps", [1, 5])
def test_without_another_gradient_marked_weights_shrink_by_the_literal_factor(steps: int) -> None:
    # 1 - 2 · 0.5 · 0.25 = 3/4 a step, which is exact.
    own = torch.tensor([8.0, 8.0]).requires_grad_()
    optimiser = torch.optim.SGD([own], lr=0.5)
    for _ in range(steps):
        own.grad = torch.zeros(2)
        of([True, False], [2]).add_to_gradients([own])
        optimiser.step()
    assert own.tolist() == [8 * 0.75**steps, 8.0]


EXPERIMENT = Experiment.model_validate(
    {
        "representation": "weights",
        "rounds": 10,
        "training": {"epochs": 2, "batch_size": 4, "schedule": "cosine"},
        "weights": {"momentum": 0.0},
    }
)


def small() -> tuple[KeptNetwork, Samples, Dataset]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    bits = {name: torch.rand(w.shape) < 0.5 for name, w in module.named_parameters() if w.dim() > 1}
    drawn = np.random.default_rng(0)
    samples = Samples(drawn.integers(0, 256, (20, 1, 8, 8), dtype=np.uint8), np.arange(20, dtype=np.int64) % 3)
    network = sparsify(module, Mask(bits), kernels="dense")
    kept = sum(tensor.numel() for tensor in network.kept)
    write_vector(network.kept, (0.2 * drawn.standard_normal(kept)).astype(np.float32))
    return network, samples, Dataset("drawn", classes=3, train=samples, test=samples, mean=(0.5,), std=(0.25,))


def trained_with(
    extrusion: Extrusion | None, *, round: int = 1, clock: Callable[[], float] = lambda: 0.0
) -> tuple[np.ndarray, Trained]:
    network, samples, dataset = small()
    said = train(
        network,
        samples,
        dataset=dataset,
        experiment=EXPERIMENT,
        round=round,
        generator=np.random.default_rng(1),
        extrusion=extrusion,
        clock=clock,
    )
    return read_vector(network.kept), said


def pressing(*, among: int = 3, **changes: object) -> tuple[Extrusion, np.ndarray]:
    """A third of the weights of each layer, or another fraction."""
    network, _, _ = small()
    layers = [tensor.numel() for tensor in network.kept]
    start = np.abs(read_vector(network.kept))
    bits = marked(start, layers=layers, counts=[kept // among for kept in layers])
    return Extrusion.of(settings_of(**changes), bits, layers=layers, rate=0.03), bits


def test_without_a_penalty_training_is_the_same_to_the_last_bit() -> None:
    plain, said = trained_with(None)
    found, again = trained_with(pressing(penalty=0.0)[0])
    assert found.tobytes() == plain.tobytes()
    assert (said.loss, said.steps) == (again.loss, again.steps) == (said.loss, 10)


def test_marked_weights_end_nearer_to_0_and_the_earlier_they_are_pressed_the_nearer() -> None:
    # 1 - 2 · 5 · 0.03 = 0.7 a step.
    extrusion, bits = pressing(penalty=5.0)
    some = replace(extrusion, steps=3)
    sizes = [float(np.linalg.norm(trained_with(one)[0][bits])) for one in (None, some, extrusion)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_late_in_a_run_pressing_steps_are_larger() -> None:
    # Without a gradient of the penalty the rate is all that differs.
    every, _ = pressing(among=1)
    some = replace(every, steps=1)
    start = read_vector(small()[0].kept)
    moved = [
        float(np.linalg.norm(trained_with(one, round=10)[0] - start))
        for one in (None, replace(some, penalty=0.0), replace(every, penalty=0.0))
    ]
    assert 2 * moved[0] < 2 * moved[1] < moved[2]


def test_training_ends_when_its_seconds_are_over_and_says_how_many_steps_it_took() -> None:
    # It is asked once when training begins and once before each step.
    ticks = itertools.count()
    extrusion, _ = pressing(seconds=4.0)
    _, said = trained_with(extrusion, clock=lambda: float(next(ticks)))
    assert said.steps == 3
    assert said.peaks.peak > 0


def test_one_step_is_taken_whatever_the_seconds() -> None:
    ticks = itertools.count(step=100)
    _, said = trained_with(pressing(seconds=1.0)[0], clock=lambda: float(next(ticks)))
    assert said.steps == 1
    assert said.peaks.update > 0


def test_what_it_holds_is_in_the_measured_peak() -> None:
    extrusion, _ = pressing()
    _, plain = trained_with(None)
    _, said = trained_with(extrusion)
    assert said.peaks.forward - plain.peaks.forward == extrusion.held_bytes
    assert said.peaks.update > plain.peaks.update + extrusion.held_bytes


SETTING = Setting(
    representation="weights",
    training={"kernels": "dense"},
    pruning={"saliency": "random", "density": 0.05},
    adjustment={"every": 1, "until": 5},
    extrusion={"penalty": 5.0},
    weights={"momentum": 0.0},
    wire={"down": "bf16"},
)


def asked(growth: tuple[Growth, ...], setting: Setting = SETTING) -> bytes:
    header, sections = decode_payload(setting.request(mask=setting.mask), limit=LIMIT)
    return encode_payload(replace(header, growth=growth), sections.values())


def test_a_device_presses_what_the_request_marks_and_needs_no_gradients_for_it() -> None:
    place, kept = max(enumerate(SETTING.layers), key=lambda found: found[1])
    growth = (Growth(place, 0, kept // 2),)
    counts = [kept // 2 if at == place else 0 for at in range(len(SETTING.layers))]
    start = SETTING.exchange.starts(SETTING.version())[0]
    bits = marked(np.abs(start), layers=SETTING.layers, counts=counts)
    sizes = []
    for said in ((), growth):
        answer = SETTING.workshop.answer(asked(said), client=0, state=ClientState())
        _, sections = decode_payload(answer.payload, limit=LIMIT)
        assert len(sections) == 3
        heard, _ = SETTING.exchange.read_reply(sections, version=SETTING.version(), layers=SETTING.layers)
        assert isinstance(heard.values, np.ndarray)
        sizes.append(float(np.linalg.norm(heard.values[bits])))
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize(("growth", "kind"), [((Growth(0, 0, 10**6),), "bounds"), ((Growth(99, 0, 1),), "bounds")])
def test_a_request_that_marks_what_there_is_not_is_refused(growth: tuple[Growth, ...], kind: str) -> None:
    with pytest.raises(PayloadError) as caught:
        SETTING.workshop.answer(asked(growth), client=0, state=ClientState())
    assert caught.value.kind == kind


def test_marks_where_nothing_is_pressed_are_refused() -> None:
    plain = Setting(representation="weights", training={"kernels": "dense"}, adjustment={"every": 1, "until": 5})
    with pytest.raises(PayloadError, match=r"extrusion\.penalty is 0 here") as caught:
        plain.workshop.answer(asked((Growth(0, 0, 1),), plain), client=0, state=ClientState())
    assert caught.value.kind == "mismatch"


PRESSED = {"representation": "weights", "adjustment": {"every": 2}, "extrusion": {"penalty": 0.1}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adjustment": {}}, "no weight is going to be pruned"),
        ({"representation": "signs"}, "whose sizes are frozen"),
        ({"extrusion": {"penalty": 0.1, "steps": 3, "seconds": 2.0}}, "leave one of them out"),
        ({"extrusion": {"steps": 3}}, r"extrusion\.penalty is 0, so none is"),
        (
            {"adjustment": {"every": 2, "density": "cubic", "start_density": 1.0}},
            "nobody knows before a round which tensors lose weights",
        ),
    ],
)
def test_settings_by_which_nothing_can_be_pressed_are_refused(changes: dict[str, object], says: str) -> None:
    assert Experiment.model_validate(PRESSED).extrusion.penalty == 0.1
    with pytest.raises(ValueError, match=says):
        Experiment.model_validate(PRESSED | changes)


def test_the_recipe_presses_what_it_prunes() -> None:
    fedmef = load_experiment(recipe="fedmef", overrides=[])
    assert fedmef.extrusion.penalty > 0
    assert (fedmef.pruning.saliency, fedmef.pruning.rule, fedmef.adjustment.rate) == ("random", "erk", 0.3)
