"""A proximal term pulls each trained value back to where the round began, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.client.calibrating import _key, small_steps
from hedgerow.client.memory import ClientState
from hedgerow.client.proximal import Proximal
from hedgerow.client.stepping import _step
from hedgerow.client.training import Trained, train
from hedgerow.codec import Growth, decode_payload, encode_payload
from hedgerow.config import Experiment, load_experiment
from hedgerow.data import Dataset, Samples
from hedgerow.ledger import ledger_of, plan_of, traced
from hedgerow.models import build_model
from hedgerow.pruning import Mask, Moves
from hedgerow.sparse import KeptNetwork, read_vector, sparsify, write_vector
from tests.unit.test_answer import LIMIT, Setting


def network_of(*, norm: bool = False) -> KeptNetwork:
    """2 of 4 weights kept, and 2 biases; with a norm 4 more trained values and 4 statistics."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), *([nn.BatchNorm1d(2)] if norm else []))
    return sparsify(model, Mask({"1.weight": torch.tensor([[True, False], [False, True]])}), kernels="dense")


def test_the_gradient_is_that_of_the_loss_and_mu_times_the_way_from_the_start() -> None:
    network = network_of()
    start = np.array([1.0, -2.0], dtype=np.float32), np.array([0.5, 0.0], dtype=np.float32)
    pulling = Proximal.of(network, strength=0.25, start=start)
    write_vector(network.kept, np.array([3.0, -2.0], dtype=np.float32))
    write_vector(network.floats, np.array([0.5, 4.0], dtype=np.float32))
    for tensor in (*network.kept, *network.floats):
        tensor.grad = torch.full_like(tensor, 0.125)
    pulling.add_to_gradients(network)
    gradients = [tensor.grad.tolist() for tensor in (*network.kept, *network.floats) if tensor.grad is not None]
    assert gradients == [[0.125 + 0.25 * 2, 0.125], [0.125, 0.125 + 0.25 * 4]]
    assert read_vector(network.kept).tolist() == [3.0, -2.0]
    assert [part.tolist() for part in start] == [[1.0, -2.0], [0.5, 0.0]]


def test_what_has_no_gradient_is_left_alone() -> None:
    network = network_of()
    pulling = Proximal.of(network, strength=0.25)
    write_vector(network.kept, np.array([3.0, -2.0], dtype=np.float32))
    pulling.add_to_gradients(network)
    assert all(tensor.grad is None for tensor in (*network.kept, *network.floats))


def test_statistics_are_not_pulled_and_take_no_memory() -> None:
    network = network_of(norm=True)
    pulling = Proximal.of(network, strength=1.0)
    assert pulling.held_bytes == 4 * (2 + 2 + 4)
    assert read_vector(network.floats).size == 2 + 4 + 4


def test_the_start_that_is_given_is_not_copied() -> None:
    network = network_of()
    kept, floats = read_vector(network.kept), read_vector(network.floats)
    pulling = Proximal.of(network, strength=1.0, start=(kept, floats))
    kept[0] = 7.0
    assert pulling.starts[0].tolist() == [7.0, 0.0]
    own = Proximal.of(network, strength=1.0)
    write_vector(network.kept, np.array([5.0, 5.0], dtype=np.float32))
    assert own.starts[0].tolist() == [0.0, 0.0]


@given(st.floats(0.001, 1.0), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_gradient_is_that_of_autograd_with_the_term_in_the_loss(strength: float, seed: int) -> None:
    network, drawn = network_of(), np.random.default_rng(seed)
    images = torch.from_numpy(drawn.standard_normal((4, 2), dtype=np.float32))
    start = read_vector(network.kept), read_vector(network.floats)
    pulling = Proximal.of(network, strength=strength, start=start)
    for tensors, values in zip((network.kept, network.floats), start, strict=True):
        write_vector(tensors, values + drawn.standard_normal(values.size, dtype=np.float32))
    tensors = [*network.kept, *network.floats]
    term = sum((tensor - own).square().sum() for tensor, own in zip(tensors, pulling.starts, strict=True))
    expected = torch.autograd.grad(network.module(images).square().sum() + strength / 2 * term, tensors)
    network.module(images).square().sum().backward()
    pulling.add_to_gradients(network)
    for tensor, gradient in zip(tensors, expected, strict=True):
        torch.testing.assert_close(tensor.grad, gradient, rtol=1e-4, atol=1e-4)


def experiment_of(proximal: float) -> Experiment:
    return Experiment.model_validate(
        {
            "representation": "weights",
            "training": {"epochs": 4, "batch_size": 4, "proximal": proximal},
            "weights": {"momentum": 0.0, "learning_rate": 0.1},
        }
    )


def trained_with(
    proximal: float, *, start: tuple[np.ndarray, np.ndarray] | None = None, part: slice | None = None
) -> tuple[np.ndarray, Trained]:
    network, drawn = network_of(), np.random.default_rng(0)
    write_vector(network.kept, np.array([0.5, -0.5], dtype=np.float32))
    samples = Samples(drawn.standard_normal((20, 1, 1, 2), dtype=np.float32), np.arange(20, dtype=np.int64) % 2)
    dataset = Dataset("drawn", classes=2, train=samples, test=samples, mean=(0.0,), std=(1.0,))
    said = train(
        network,
        samples,
        dataset=dataset,
        experiment=experiment_of(proximal),
        round=1,
        generator=np.random.default_rng(1),
        start=start,
        part=part,
    )
    return np.concatenate([read_vector(network.kept), read_vector(network.floats)]), said


def test_the_first_step_is_the_same_and_a_larger_mu_stays_nearer() -> None:
    first = slice(1)
    assert trained_with(0.0, part=first)[0].tolist() == pytest.approx(trained_with(5.0, part=first)[0].tolist())
    start = np.concatenate([[0.5, -0.5], read_vector(network_of().floats)])
    moved = [float(np.linalg.norm(trained_with(strength)[0] - start)) for strength in (0.0, 0.5, 5.0)]
    assert moved[0] > moved[1] > moved[2] > 0


def test_training_is_pulled_to_the_start_that_is_given_and_not_to_where_it_begins() -> None:
    far = np.array([4.0, 4.0], dtype=np.float32), np.array([4.0, 4.0], dtype=np.float32)
    own, other = trained_with(5.0)[0], trained_with(5.0, start=far)[0]
    # Of 20 steps each leaves half of the way, so that the pull has won.
    assert np.abs(other - 4).max() < 0.5
    assert np.abs(own - 4).min() > 2


def test_what_it_holds_is_in_the_measured_peak() -> None:
    _, plain = trained_with(0.0)
    _, said = trained_with(0.1)
    for phase in ("forward", "backward", "update"):
        assert getattr(said.peaks, phase) - getattr(plain.peaks, phase) == 4 * 4


@pytest.mark.parametrize("down", ["fp32", "bf16"])
def test_a_device_stays_near_what_the_request_says(down: str) -> None:
    moved = []
    for proximal in (0.0, 20.0):
        setting = Setting(
            representation="weights",
            training={"kernels": "dense", "batch_size": 4, "proximal": proximal},
            weights={"momentum": 0.0},
            wire={"down": down},
        )
        answer = setting.workshop.answer(setting.request(mask=setting.mask), client=0, state=ClientState())
        _, sections = decode_payload(answer.payload, limit=LIMIT)
        heard, _ = setting.exchange.read_reply(sections, version=setting.version(), layers=setting.layers)
        assert isinstance(heard.values, np.ndarray)
        moved.append(float(np.linalg.norm(heard.values - setting.exchange.starts(setting.version())[0])))
    assert 0 < moved[1] < 0.7 * moved[0]


def test_both_parts_of_a_round_in_which_the_mask_changes_are_pulled_to_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting = own_setting(training={"kernels": "dense", "steps": 4, "proximal": 0.5})
    starts = list[np.ndarray]()

    def spied(network: KeptNetwork, *named: Any, start: tuple[np.ndarray, np.ndarray], **others: Any) -> Trained:
        starts.append(start[0].copy())
        return train(network, *named, start=start, **others)

    monkeypatch.setattr("hedgerow.client.training_task.train", spied)
    header, sections = decode_payload(setting.request(mask=setting.mask), limit=LIMIT)
    place = int(np.argmax(setting.layers))
    request = encode_payload(replace(header, growth=(Growth(place, 5),)), sections.values())
    answer = setting.workshop.answer(request, client=0, state=ClientState())
    own = setting.exchange.decode_mask(decode_payload(answer.payload, limit=LIMIT)[1], base=setting.mask)
    moves = Moves.between(setting.mask, own)
    assert moves.grown == 5
    sent = setting.exchange.starts(setting.version())[0]
    first, second = starts
    assert first.tolist() == sent.tolist()
    assert second.tolist() == moves.carried(sent, grown=0).tolist()


def test_a_plan_counts_the_start_of_the_round_for_all_that_is_trained() -> None:
    plain, pulled = (plan_of(experiment_of(strength), native=False) for strength in (0.0, 0.5))
    assert (plain.start_bytes, pulled.start_bytes) == (0, 4)
    assert replace(pulled, start_bytes=0) == plain
    network = traced(nn.Sequential(nn.Linear(4, 3)), (4,))
    without, found = (ledger_of(network, {"0.weight": 6}, plan) for plan in (plain, pulled))
    assert (without.start, found.start) == (0, 4 * (6 + 3))
    assert found.lasting - without.lasting == 36
    assert {name: found.phases[name] - size for name, size in without.phases.items()} == dict.fromkeys(found.phases, 36)


def test_what_is_computed_is_what_is_measured() -> None:
    shape = (3, 16, 16)
    found = []
    for proximal in (0.0, 0.01):
        experiment = Experiment.model_validate(
            {
                "representation": "weights",
                "model": {"name": "conv4"},
                "pruning": {"density": 0.05, "saliency": "random", "rule": "uniform"},
                "training": {"batch_size": 4, "kernels": "dense", "steps": 2, "proximal": proximal},
            }
        )
        step = _step(experiment, input_shape=shape, classes=10)
        network = traced(build_model("conv4", input_shape=shape, classes=10, seed=0), shape)
        computed = ledger_of(network, step.kept, plan_of(experiment, native=False))
        found.append((step, computed))
    (plain, without), (pulled, with_it) = found
    assert with_it.start > 50_000
    for phase, size in plain.phases.items():
        # No tensor comes and goes for it.
        assert pulled.phases[phase] - size == with_it.phases[phase] - without.phases[phase] == with_it.start


def test_a_measurement_without_the_term_is_still_known_and_serves_no_training_with_it() -> None:
    network = traced(build_model("mlp", input_shape=(1, 8, 8), classes=10, seed=0), (1, 8, 8))
    keys = [
        _key([small_steps(experiment_of(strength))], network, input_shape=(1, 8, 8), classes=10)
        for strength in (0.0, 0.5)
    ]
    assert "proximal" not in keys[0]
    assert keys[0] != keys[1]


def own_setting(**changes: Any) -> Setting:
    return Setting(
        representation="weights", adjustment={"every": 1, "until": 5, "by": "devices"}, wire={"down": "bf16"}, **changes
    )


def test_signs_have_no_proximal_term() -> None:
    with pytest.raises(ValueError, match=r"^1 validation error[^;]*training\.proximal is 0\.5, but representation is"):
        Experiment.model_validate({"representation": "signs", "training": {"proximal": 0.5}})
    assert Experiment.model_validate({"representation": "weights", "training": {"proximal": 0.5}}).training.proximal


def test_the_recipe_is_that_of_federated_averaging_but_for_the_term() -> None:
    fedavg, fedprox = (load_experiment(recipe=name) for name in ("fedavg", "fedprox"))
    assert fedprox.training.proximal == 0.01
    training = fedprox.training.model_copy(update={"proximal": 0.0})
    assert fedprox.model_copy(update={"recipe": "fedavg", "training": training}) == fedavg
