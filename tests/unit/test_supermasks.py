"""Supermasks: frozen weights of which both ends know all but a probability, and one drawn mask a reply."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.assembly import representation_of
from hedgerow.client.memory import ClientState
from hedgerow.client.stepping import _step
from hedgerow.client.training import _optimisers
from hedgerow.codec import Floats, Header, Section, Sections, Votes, decode_payload, encode_payload
from hedgerow.config import (
    AggregationSettings,
    Experiment,
    PrivacySettings,
    SupermaskSettings,
    WireSettings,
    load_experiment,
)
from hedgerow.errors import PayloadError
from hedgerow.ledger import ledger_of, plan_of, traced
from hedgerow.models import build_model
from hedgerow.native.library import status
from hedgerow.privacy import seeded_words, unbiasing_factor
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.representation import Supermasks, frozen_weights
from hedgerow.server.guarantee import guarantee
from hedgerow.sparse import float_tensors, read_vector, sparsify, write_vector
from hedgerow.sparse.values import sampled_values
from hedgerow.v1 import payload_pb2 as pb
from tests.unit.test_answer import LIMIT, Setting

FIVE = Supermasks(SupermaskSettings(), AggregationSettings(levels=5), seed=3)
PLAIN = replace(FIVE, wire=WireSettings(coder="plain"))


def model_and_mask() -> tuple[nn.Sequential, Mask]:
    """2 outputs with 4 kept inputs each of 8; frozen ±√(2/4)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        model.get_parameter("1.weight").copy_(torch.tensor([[0.1, -0.1] * 4, [-0.1, 0.1] * 4]))
    kept = torch.tensor([[True] * 4 + [False] * 4, [False] * 4 + [True] * 4])
    return model, Mask({"1.weight": kept})


def sent(section: Section) -> Sections:
    return decode_payload(encode_payload(Header(bytes(6), 1, bytes(16)), [section]), limit=100_000)[1]


def reply(masks: Supermasks, scores: Floats, *, theta: Floats, seed: int = 0) -> Section:
    generator = np.random.default_rng(seed)
    return masks.reply(
        scores,
        published=masks.publish(theta, layers=[theta.size]),
        layers=[scores.size],
        memory=None,
        generator=generator,
        draw=seeded_words(generator),
    ).section


def heard(masks: Supermasks, section: Section, *, theta: Floats) -> Floats:
    found = masks.read_reply(sent(section), published=masks.publish(theta, layers=[theta.size]), layers=[theta.size])
    assert isinstance(found.values, Votes)
    assert found.flips is None
    return found.values.to_floats()


def test_frozen_weights_are_signed_kaiming_constants_of_what_is_kept() -> None:
    root = math.sqrt(2 / 4)
    found = frozen_weights(*model_and_mask())["1.weight"].tolist()
    assert found == pytest.approx([root, -root, root, -root, -root, root, -root, root])


def test_at_first_nothing_is_known_and_that_is_what_a_version_says() -> None:
    model, mask = model_and_mask()
    theta = FIVE.initial({"1.weight": model.get_parameter("1.weight")}, mask)
    assert theta.tolist() == [0.5] * 8
    assert FIVE.publish(theta, layers=[theta.size]).tolist() == [2] * 8
    assert FIVE.start(FIVE.publish(theta, layers=[theta.size])).tolist() == [0.0] * 8
    assert FIVE.grown(np.zeros(2, dtype=np.float32)).tolist() == [0.5, 0.5]


def test_a_version_says_the_nearest_quarter_and_training_starts_at_its_logit() -> None:
    theta = np.array([0.0, 0.1, 0.2, 0.6, 0.7, 1.0], dtype=np.float32)
    levels = FIVE.publish(theta, layers=[theta.size])
    assert levels.tolist() == [0, 0, 1, 2, 3, 4]
    edge = math.log(0.99 / 0.01)
    third = math.log(3)
    assert FIVE.start(levels).tolist() == pytest.approx([-edge, -edge, -third, 0, third, edge], rel=1e-5)


@pytest.mark.parametrize("masks", [FIVE, PLAIN], ids=["entropy", "plain"])
@given(theta=st.lists(st.floats(0, 1, width=32), max_size=40), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_both_ends_agree_about_versions_and_masks(masks: Supermasks, theta: list[float], seed: int) -> None:
    state = np.array(theta, dtype=np.float32)
    base = np.random.default_rng(seed).permutation(state)
    for known in (None, masks.publish(base, layers=[base.size])):
        section = masks.encode(masks.publish(state, layers=[state.size]), base=known, layers=[state.size])
        assert (
            masks.decode(sent(section), base=known, layers=[state.size]).tolist()
            == masks.publish(state, layers=[state.size]).tolist()
        )
    scores = np.random.default_rng(seed).normal(0, 3, state.size).astype(np.float32)
    votes = heard(masks, reply(masks, scores, theta=state, seed=seed), theta=state)
    drawn = np.random.default_rng(seed).random(state.size, dtype=np.float32)
    assert votes.tolist() == np.where(drawn < torch.sigmoid(torch.from_numpy(scores)).numpy(), 1, -1).tolist()


def test_a_sure_score_is_always_drawn_the_same() -> None:
    theta, scores = np.full(4, 0.5, dtype=np.float32), np.array([200, -200, 200, -200], dtype=np.float32)
    for seed in range(5):
        assert heard(FIVE, reply(FIVE, scores, theta=theta, seed=seed), theta=theta).tolist() == [1, -1, 1, -1]


def test_what_the_broadcast_says_makes_masks_cheap() -> None:
    # Of masks of 0.01 and 0.99, half each, one would need a bit a weight without knowing which is which.
    theta = np.tile(np.array([0, 1], dtype=np.float32), 20_000)
    section = reply(FIVE, FIVE.start(FIVE.publish(theta, layers=[theta.size])), theta=theta)
    entropy = 40_000 * -(0.01 * math.log2(0.01) + 0.99 * math.log2(0.99)) / 8
    assert section.codec == pb.CODEC_SYMBOLS_RANS
    assert len(section.data) == pytest.approx(entropy, rel=0.15), "some 400 are drawn against the odds"
    assert reply(PLAIN, FIVE.start(FIVE.publish(theta, layers=[theta.size])), theta=theta).codec == pb.CODEC_BITS


def test_a_reader_takes_the_plain_bits_of_a_first_client_and_the_other_way_round() -> None:
    theta, scores = np.full(9, 0.5, dtype=np.float32), np.array([200, -200, -200] * 3, dtype=np.float32)
    for writer, reader in ((PLAIN, FIVE), (FIVE, PLAIN)):
        assert heard(reader, reply(writer, scores, theta=theta), theta=theta).tolist() == [1, -1, -1] * 3


def test_a_mask_of_another_size_or_damaged_is_refused() -> None:
    theta = np.full(16, 0.5, dtype=np.float32)
    section = reply(FIVE, np.zeros(16, dtype=np.float32), theta=theta)
    with pytest.raises(PayloadError, match="has 16 symbols, expected 15"):
        heard(FIVE, section, theta=theta[:15])
    with pytest.raises(PayloadError):
        heard(FIVE, replace(section, data=section.data[:-1]), theta=theta)
    with pytest.raises(PayloadError, match="KIND_SIGNS is missing"):
        heard(FIVE, replace(section, kind=pb.KIND_FLIPS), theta=theta)


def test_theta_is_the_share_of_masks_and_the_mean_over_the_rounds_since_the_prior_began_anew() -> None:
    state, mean = np.array([0.25, 1.0], dtype=np.float32), np.array([0.5, -1.0], dtype=np.float32)
    every = FIVE.following(state, start=state, mean=mean, scale=0.5, round=7)
    assert every.tolist() == [0.75, 0.0]
    third = replace(FIVE, settings=SupermaskSettings(reset=3))
    found = [third.following(state, start=state, mean=mean, scale=0.5, round=round).tolist() for round in (4, 5, 6)]
    assert found[0] == [0.75, 0.0], "it began anew after round 3"
    assert found[1] == [0.5, 0.5]
    assert found[2] == pytest.approx([(2 * 0.25 + 0.75) / 3, 2 / 3])


def test_answers_that_may_lie_are_right_on_average() -> None:
    private = replace(FIVE, privacy=PrivacySettings(vote_epsilon=1.0))
    theta = np.full(40_000, 0.5, dtype=np.float32)
    votes = heard(private, reply(private, np.full(40_000, 200, dtype=np.float32), theta=theta), theta=theta)
    factor = unbiasing_factor(alphabet=2, epsilon=1.0)
    assert votes.mean() == pytest.approx(1 / factor, abs=0.02)
    mean = np.array([1 / factor, 0, 1], dtype=np.float32)
    assert private.following(mean, start=mean, mean=mean, scale=1).tolist() == pytest.approx([1, 0.5, 1])


def test_the_guarantee_is_that_of_votes() -> None:
    private = fedpm(("privacy.vote_epsilon", 2.0), ("privacy.clip", 1.0), ("privacy.noise", 1.0))
    signs = private.model_copy(update={"representation": "signs"})
    found = guarantee(private, kept=100, rounds=3)
    assert found == guarantee(signs, kept=100, rounds=3)
    assert found[0].startswith("each vote: ε = 2; all 100 votes")


def test_the_network_that_is_delivered_is_one_drawn_mask_and_always_the_same() -> None:
    model, mask = model_and_mask()
    frozen = frozen_weights(model, mask)["1.weight"].numpy()
    sure = np.array([1, 0] * 4, dtype=np.float32)
    assert FIVE.kept_weights(sure, model, mask).tolist() == np.where(sure > 0, frozen, 0).tolist()
    half = np.full(8, 0.5, dtype=np.float32)
    found = FIVE.kept_weights(half, model, mask)
    assert set(np.abs(found).tolist()) == {0.0, float(abs(frozen[0]))}
    assert found.tolist() == FIVE.kept_weights(half, model, mask).tolist()
    assert found.tolist() != replace(FIVE, seed=4).kept_weights(half, model, mask).tolist()


def test_gradients_go_straight_through_the_draw() -> None:
    torch.manual_seed(0)
    scores = torch.tensor([0.0, math.log(3), 200.0, -200.0], requires_grad=True)
    frozen = torch.tensor([2.0, -4.0, 1.0, 1.0])
    made = sampled_values(scores, frozen)
    assert made[2:].tolist() == [1.0, 0.0]
    assert made[0].item() in (0.0, 2.0)
    (gradient,) = torch.autograd.grad(made.sum(), scores)
    # frozen · θ · (1 - θ), kept or not: 2 · 1/4, -4 · 3/16, and nothing where the score is sure.
    assert gradient.tolist() == pytest.approx([0.5, -0.75, 0, 0], abs=1e-6)


def test_weights_are_there_as_often_as_their_probability_says() -> None:
    torch.manual_seed(0)
    scores = torch.full((20_000,), math.log(3))
    assert sampled_values(scores, torch.ones(20_000)).mean().item() == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("kernels", ["dense", "native"])
def test_each_pass_draws_a_mask_and_computes_with_it(kernels: str) -> None:
    if kernels == "native" and not status().available:
        pytest.skip("there are no native kernels here")
    model, mask = model_and_mask()
    network = FIVE.network(model, mask, kernels="native" if kernels == "native" else "dense")
    write_vector(network.floats, np.zeros(2, dtype=np.float32))
    images, outputs = torch.eye(8).view(8, 1, 1, 8), []
    frozen = frozen_weights(model, mask)["1.weight"]
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found = network.module(images)
        outputs.append(found.detach())
        torch.manual_seed(seed)
        drawn = torch.bernoulli(torch.full((8,), 0.5)) * frozen
        assert found[:4, 0].tolist() == pytest.approx(drawn[:4].tolist())
        assert found[4:, 1].tolist() == pytest.approx(drawn[4:].tolist())
        network.module.zero_grad()
        found.sum().backward()
        assert network.kept[0].grad is not None
        assert network.kept[0].grad.tolist() == pytest.approx((frozen / 4).tolist())
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_what_runs_again_in_the_backward_pass_draws_the_same_mask() -> None:
    model = build_model("lenet5", input_shape=(1, 28, 28), classes=3, seed=0)
    mask = Mask.dense({name: tuple(weight.shape) for name, weight in prunable_tensors(model).items()})
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    found = []
    for recompute in (False, True):
        network = FIVE.network(model, mask, kernels="dense", recompute=recompute)
        write_vector(network.floats, read_vector(float_tensors(model)))
        network.module.train()
        torch.manual_seed(1)
        gradients = torch.autograd.grad(network.module(images).square().sum(), network.kept)
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[1], found[0])


def fedpm(*changes: tuple[str, object]) -> Experiment:
    return load_experiment(recipe="fedpm", overrides=[("model.name", "mlp"), *changes])


def test_the_recipe_trains_scores_by_adam_and_freezes_all_else() -> None:
    experiment = fedpm()
    model = nn.Sequential(nn.Linear(4, 2))
    network = representation_of(experiment).network(model, Mask.dense({"0.weight": (2, 4)}))
    (adam,) = _optimisers(network, experiment, scale=1.0, steps=3)
    assert isinstance(adam, torch.optim.Adam)
    (group,) = adam.param_groups
    assert group["lr"] == 0.1
    assert [tensor is own for tensor, own in zip(group["params"], network.kept, strict=True)] == [True]
    _, floats = _optimisers(network, fedpm(("supermask.norm_learning_rate", 0.5)), scale=0.5, steps=3)
    assert floats.param_groups[0]["lr"] == 0.25
    assert len(floats.param_groups[0]["params"]) == 1


def test_devices_derive_the_frozen_weights_and_send_a_mask() -> None:
    setting = Setting(
        representation="supermask",
        training={"kernels": "dense", "batch_size": 4},
        pruning={"density": 1.0},
        aggregation={"levels": 17},
        wire={"down": "bf16", "up": "uniform"},
    )
    request = setting.request(mask=setting.mask)
    answer = setting.workshop.answer(request, client=0, state=ClientState())
    again = setting.workshop.answer(request, client=0, state=ClientState())
    other = setting.workshop.answer(request, client=1, state=ClientState())
    _, sections = decode_payload(answer.payload, limit=LIMIT)
    assert set(sections) == {pb.KIND_SIGNS, pb.KIND_FLOATS, pb.KIND_COUNTS}
    votes = setting.votes(answer)
    assert votes.size == setting.mask.size
    assert len(sections[pb.KIND_SIGNS].data) <= 1.01 * votes.size / 8
    assert votes.tolist() == setting.votes(again).tolist()
    assert votes.tolist() != setting.votes(other).tolist()


def test_a_round_of_training_moves_probabilities_by_as_much_as_its_steps_can() -> None:
    # In 6 steps of 0.1 a score moves by 0.6 at most, and θ from 0.5 to 0.35 or 0.65.
    moved = []
    for rate in (0.0, 0.1):
        own = Setting(
            representation="supermask",
            training={"kernels": "dense", "batch_size": 4},
            pruning={"density": 1},
            supermask={"learning_rate": rate},
        )
        answers = own.workshop.answer(own.request(mask=own.mask), client=0, state=ClientState())
        moved.append(own.votes(answers))
    share = float(np.mean(moved[0] != moved[1]))
    assert 0.02 < share < 0.2, "the same numbers were drawn, for other probabilities"


@pytest.mark.parametrize("kernels", ["native", "dense"])
def test_what_is_computed_is_what_is_measured(kernels: str) -> None:
    if kernels == "native" and not status().available:
        pytest.skip("there are no native kernels here")
    shape = (3, 16, 16)
    experiment = Experiment.model_validate(
        {
            "representation": "supermask",
            "model": {"name": "conv4"},
            "pruning": {"density": 0.2, "saliency": "random", "rule": "uniform"},
            "training": {"batch_size": 16, "kernels": kernels, "steps": 2},
        }
    )
    plan = plan_of(experiment, native=kernels == "native")
    assert (plan.signs, plan.sampled, plan.state_bytes, plan.magnitude_bytes) == (True, True, 8, 4)
    step = _step(experiment, input_shape=shape, classes=10)
    found = ledger_of(traced(build_model("conv4", input_shape=shape, classes=10, seed=0), shape), step.kept, plan)
    assert step.forward == pytest.approx(found.forward, rel=0.05)
    assert step.backward == pytest.approx(found.backward, rel=0.05)
    assert step.update == pytest.approx(found.update, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([("adjustment.every", 2), ("pruning.density", 0.5)], r"adjustment\.every is 2"),
        ([("selection.candidates", 2), ("pruning.density", 0.5)], r"selection\.candidates is 2"),
        ([("budget.plan", True), ("budget.levels", [1.0, 0.5])], r"budget\.levels has 2 parts"),
    ],
)
def test_settings_that_change_the_mask_in_another_way_are_refused(changes: list[tuple[str, object]], says: str) -> None:
    with pytest.raises(ValueError, match=rf"learns itself what to keep, but {says}; leave that out"):
        fedpm(*changes)


def test_signs_are_as_they_were() -> None:
    model, mask = model_and_mask()
    network = sparsify(model, mask, magnitudes={"1.weight": torch.tensor(2.0)}, kernels="dense")
    write_vector(network.kept, np.array([1, -1] * 4, dtype=np.float32))
    write_vector(network.floats, np.zeros(2, dtype=np.float32))
    assert network.module(torch.eye(8).view(8, 1, 1, 8))[:4, 0].tolist() == [2, -2, 2, -2]
