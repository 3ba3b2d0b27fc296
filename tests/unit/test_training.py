"""One step in parts is the step on the whole batch, and its memory is measured by phase."""

from __future__ import annotations

import copy
import gc
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hedgerow.client import training
from hedgerow.client.memory import ClientState
from hedgerow.client.training import _step, part_sizes, train
from hedgerow.config import Experiment
from hedgerow.data import Samples, load_dataset
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.seeds import numpy_generator
from hedgerow.sparse import sparsify
from hedgerow.telemetry.memory import allocations, phase, unmeasured
from tests.unit.test_answer import Setting, measures_of

SAMPLES, LABELS = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3


def network(*, norm: bool) -> nn.Module:
    torch.manual_seed(0)
    between = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(nn.Conv2d(1, 4, 3), *between, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def stepped(module: nn.Module, *, most: int) -> tuple[float, list[Tensor]]:
    module = copy.deepcopy(module)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    sizes = part_sizes(len(LABELS), most=most)
    parts = list(zip(torch.split(SAMPLES, sizes), torch.split(LABELS, sizes), strict=True))
    return _step(module, parts, [optimiser], half=False), [p.detach() for p in module.parameters()]


@given(st.integers(2, 200), st.integers(2, 200))
def test_parts_are_as_few_and_as_equal_as_can_be(count: int, most: int) -> None:
    sizes = part_sizes(count, most=most)
    assert sum(sizes) == count
    assert 2 <= min(sizes) <= max(sizes) <= min(sizes) + 1
    assert max(sizes) <= most or (max(sizes) == most + 1 == 3 and count % 2)
    assert len(sizes) <= math.ceil(count / most)


@pytest.mark.parametrize("most", [2, 5, 6, 11])
def test_a_step_in_parts_is_the_same_step_without_batch_norm(most: int) -> None:
    module = network(norm=False)
    whole_loss, whole = stepped(module, most=12)
    loss, parts = stepped(module, most=most)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    for before, expected, found in zip(module.parameters(), whole, parts, strict=True):
        assert not torch.equal(before, expected)
        torch.testing.assert_close(found - before, expected - before, rtol=1e-4, atol=1e-6)


def test_a_step_on_the_whole_batch_is_the_plain_one_to_the_last_bit() -> None:
    module = network(norm=True)
    expected = copy.deepcopy(module)
    optimiser = torch.optim.SGD(expected.parameters(), lr=0.5)
    loss = nn.functional.cross_entropy(expected(SAMPLES), LABELS)
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    optimiser.step()
    found, weights = stepped(module, most=12)
    assert found == loss.item()
    assert all(torch.equal(a, b) for a, b in zip(weights, expected.parameters(), strict=True))


def test_with_batch_norm_each_part_is_normalised_by_itself() -> None:
    module = network(norm=True)
    assert stepped(module, most=12)[0] != pytest.approx(stepped(module, most=3)[0], rel=1e-4)


def test_a_part_whose_loss_is_not_finite_changes_no_weight() -> None:
    module = network(norm=False)
    poisoned = torch.cat([SAMPLES[:6], torch.full_like(SAMPLES[6:], torch.nan)])
    before = [p.detach().clone() for p in module.parameters()]
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    parts = [(poisoned[:6], LABELS[:6]), (poisoned[6:], LABELS[6:])]
    assert math.isnan(_step(module, parts, [optimiser], half=False))
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_parts_of_a_batch_take_less_memory() -> None:
    module = network(norm=False)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)

    def peak(most: int) -> int:
        sizes = part_sizes(12, most=most)
        parts = list(zip(torch.split(SAMPLES, sizes), torch.split(LABELS, sizes), strict=True))
        return allocations(lambda: _step(module, parts, [optimiser], half=False))[1].phases["forward"]

    assert peak(4) < 0.6 * peak(12)


def test_peaks_are_those_of_each_phase() -> None:
    # 4,000 bytes come and stay, then 8,000 come and go, then nothing happens, then 2,000 come.
    held: list[Tensor] = []

    def work() -> None:
        with phase("first"):
            held.append(torch.empty(1000))
        torch.empty(2000)
        with phase("second"):
            pass
        for size in (250, 500):
            with phase("third"):
                torch.empty(size)

    _, found = allocations(work)
    assert found.phases == {"first": 4000, "second": 4000, "third": 6000}
    assert found.peak == 12_000


def test_what_was_freed_before_a_phase_does_not_count_in_it() -> None:
    def work() -> None:
        held = torch.empty(1000)
        del held
        with phase("after"):
            torch.empty(10)

    assert allocations(work)[1].phases == {"after": 40}


def test_nothing_of_a_measurement_is_kept_until_garbage_is_collected() -> None:
    gc.disable()
    try:
        allocations(lambda: torch.ones(3))
        profilers = [one for one in gc.get_objects() if type(one) is torch.autograd.profiler.profile]
        assert [one.kineto_results for one in profilers if one.kineto_results is not None] == []
    finally:
        gc.enable()


def test_a_client_trains_in_parts_and_says_so_in_its_memory() -> None:
    peaks = []
    for changes in ({}, {"micro_batch": 8}):
        setting = Setting(training=changes, model={"name": "conv4", "norm": "none"})
        answer = setting.workshop.answer(setting.request(mask=setting.mask), client=0, state=ClientState())
        measures = measures_of(answer)
        assert 0 < measures.update_bytes < measures.forward_bytes
        assert 0 <= measures.native_share <= 1
        peaks.append(max(measures.forward_bytes, measures.backward_bytes, measures.update_bytes))
    assert peaks[1] < 0.9 * peaks[0]


def test_a_client_that_does_not_measure_says_no_peak() -> None:
    setting = Setting()
    with unmeasured():
        answer = setting.workshop.answer(setting.request(mask=setting.mask), client=0, state=ClientState())
    measures = measures_of(answer)
    assert (measures.forward_bytes, measures.backward_bytes, measures.update_bytes) == (0, 0, 0)


@pytest.mark.parametrize("representation", ["weights", "signs"])
def test_step_sizes_can_fall_to_nothing_within_one_training(
    monkeypatch: pytest.MonkeyPatch, representation: str
) -> None:
    seen: list[list[float]] = []

    def spy(
        module: nn.Module, parts: object, optimisers: list[torch.optim.Optimizer], *, half: bool, changes: object
    ) -> float:
        seen.append([group["lr"] for optimiser in optimisers for group in optimiser.param_groups])
        return 1.0

    monkeypatch.setattr(training, "_step", spy)
    experiment = Experiment.model_validate(
        {
            "representation": representation,
            "training": {"epochs": 1, "batch_size": 2},
            "weights": {"learning_rate": 0.5},
        }
    )
    model, dataset = network(norm=True), load_dataset("digits")
    shapes = {name: tuple(weight.shape) for name, weight in prunable_tensors(model).items()}
    for anneal in (False, True):
        train(
            sparsify(model, Mask.dense(shapes)),
            Samples(dataset.train.images[:8], dataset.train.labels[:8]),
            dataset=dataset,
            experiment=experiment,
            round=1,
            generator=numpy_generator(0, "batches"),
            anneal=anneal,
        )
    before, fallen = seen[:4], seen[4:]
    assert all(sizes == before[0] for sizes in before)
    if representation == "weights":
        assert before[0] == [0.5]
    for sizes, factor in zip(fallen, [1.0, 0.8535534, 0.5, 0.1464466], strict=True):
        assert sizes == pytest.approx([factor * size for size in before[0]])
