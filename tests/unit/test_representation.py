"""What a client trains and sends of the kept weights: both ends agree, and signs survive."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from hedgerow.codec import Floats, Header, Levels, Section, Sections, Votes, decode_payload, encode_payload
from hedgerow.config import AggregationSettings, PrivacySettings, SignSettings, WireSettings
from hedgerow.errors import PayloadError
from hedgerow.privacy import Draw, seeded_words, unbiasing_factor
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.representation import Representation, Said, Signs, Weights, dequantised, layer_magnitudes, quantised
from hedgerow.sparse import read_vector, scatter_kept, write_vector
from hedgerow.v1 import payload_pb2 as pb

SIGNS = SignSettings(initial_vote=0.25)
MEAN = Signs(SIGNS, AggregationSettings(signs="mean", memory=0.75))
VOTE = Signs(SIGNS, AggregationSettings(signs="vote"))
INNOVATION = Signs(SIGNS, AggregationSettings(signs="innovation", gain=0.5, spread=0.5))
DRIFT = Signs(SIGNS, AggregationSettings(signs="drift", gain=0.4, levels=16))
TERNARY = Signs(SignSettings(initial_vote=0.25, abstain=0.5, voters="largest"), DRIFT.aggregation)
PLAIN = WireSettings(coder="plain")
ALL = [MEAN, VOTE, INNOVATION, DRIFT, TERNARY]
NAMES = ["mean", "vote", "innovation", "drift", "ternary"]

thetas = hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(-1, 1, width=32))
level_counts = st.integers(2, 255)
even_levels = st.integers(1, 127).map(lambda half: 2 * half)


def model_and_mask() -> tuple[nn.Sequential, Mask]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 4))
    bits = {name: torch.zeros(w.shape, dtype=torch.bool) for name, w in prunable_tensors(model).items()}
    bits["0.weight"][0, 0, 0, 0] = bits["0.weight"][0, 0, 0, 1] = bits["0.weight"][0, 0, 1, 1] = True
    bits["0.weight"][1, 0, 0, 0] = True
    bits["2.weight"][:2] = True
    return model, Mask(bits)


def sent(section: Section) -> Sections:
    header = Header(bytes(6), 1, bytes(16))
    return decode_payload(encode_payload(header, [section]), limit=100_000)[1]


def plain(signs: Signs) -> Signs:
    return replace(signs, wire=PLAIN)


def told(representation: Representation, theta: Floats) -> Section:
    """A whole version of one layer."""
    return representation.encode(representation.publish(theta, layers=[theta.size]), base=None, layers=[theta.size])


def received(representation: Representation, section: Section, count: int) -> Floats:
    return representation.start(representation.decode(sent(section), base=None, layers=[count]))


def reply(representation: Representation, trained: Floats, *, start: Floats, draw: Draw | None = None) -> Said:
    generator = np.random.default_rng(0)
    return representation.reply(
        trained,
        published=representation.publish(start, layers=[start.size]),
        layers=[start.size],
        memory=None,
        generator=generator,
        draw=seeded_words(generator) if draw is None else draw,
    )


def heard_votes(representation: Representation, section: Section, *, start: Floats) -> list[float]:
    found = representation.read_reply(
        sent(section), published=representation.publish(start, layers=[start.size]), layers=[start.size]
    )
    assert isinstance(found.values, Votes)
    return [float(vote) for vote in found.values.to_floats()]


def test_constant_magnitudes_are_root_two_over_the_kept_fan_in() -> None:
    model, mask = model_and_mask()
    sizes = layer_magnitudes(model, mask, kind="constant")
    # 4 kept weights for 2 outputs: √(2/2) = 1; 16 for 4 outputs: √(2/4).
    assert sizes["0.weight"].item() == 1.0
    assert sizes["2.weight"].item() == pytest.approx(0.70710678)
    assert sizes["0.weight"].shape == sizes["2.weight"].shape == ()


def test_a_fan_in_below_one_counts_as_one() -> None:
    mask = Mask({"weight": torch.tensor([[True], [False], [False]])})
    assert layer_magnitudes(nn.Linear(1, 3), mask, kind="constant")["weight"].item() == pytest.approx(1.41421356)
    empty = Mask({"weight": torch.zeros(3, 1, dtype=torch.bool)})
    assert layer_magnitudes(nn.Linear(1, 3), empty, kind="constant")["weight"].item() == pytest.approx(1.41421356)


def test_dense_sizes_are_those_of_all_inputs() -> None:
    mask = Mask({"weight": torch.tensor([[[[True, False], [False, False]]]] * 2)})
    sizes = layer_magnitudes(nn.Conv2d(1, 2, 2), mask, kind="dense")
    # 4 inputs each.
    assert {name: size.item() for name, size in sizes.items()} == {"weight": pytest.approx(0.70710678)}


def test_random_magnitudes_are_the_sizes_of_the_kept_weights_at_initialization() -> None:
    model, mask = model_and_mask()
    sizes = layer_magnitudes(model, mask, kind="random")
    assert torch.equal(sizes["2.weight"], model.get_parameter("2.weight")[:2].detach().flatten().abs())
    assert sizes["0.weight"].shape == (4,)


@pytest.mark.parametrize(
    ("levels", "values", "symbols"),
    [
        (2, [-1, -0.01, 0, 0.01, 1], [0, 0, 1, 1, 1]),
        (3, [-1, -0.51, -0.49, 0, 0.49, 0.51, 1], [0, 0, 1, 1, 1, 2, 2]),
        (4, [-1, -0.7, -0.6, -1e-9, 0, 1e-9, 0.6, 0.7, 1], [0, 0, 1, 1, 2, 2, 2, 3, 3]),
        (6, [-1, -0.1, 0, 0.1, 1], [0, 2, 3, 3, 5]),
        (255, [-1, 0, 1], [0, 127, 254]),
    ],
)
def test_votes_go_to_the_nearest_level_and_a_split_vote_up(
    levels: int, values: list[float], symbols: list[int]
) -> None:
    assert quantised(np.array(values, dtype=np.float32), levels=levels).tolist() == symbols


@pytest.mark.parametrize(
    ("levels", "values"), [(2, [-1, 1]), (3, [-1, 0, 1]), (5, [-1, -0.5, 0, 0.5, 1]), (4, [-1, -1 / 3, 1 / 3, 1])]
)
def test_levels_are_uniform_over_minus_one_to_one(levels: int, values: list[float]) -> None:
    found = dequantised(np.arange(levels, dtype=np.uint8), levels=levels)
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx(values, abs=1e-6)


@given(thetas, even_levels)
def test_an_even_number_of_levels_keeps_every_sign(theta: Floats, levels: int) -> None:
    theta = theta[np.abs(theta) != np.float32(1e-45)]  # half of the least float is no float
    again = dequantised(quantised(theta, levels=levels), levels=levels)
    assert np.array_equal(again >= 0, theta >= 0)
    assert (again != 0).all()


@given(thetas, level_counts)
def test_quantisation_is_off_by_half_a_step_at_most(theta: Floats, levels: int) -> None:
    symbols = quantised(theta, levels=levels)
    assert symbols.dtype == np.uint8
    assert (symbols < levels).all()
    again = dequantised(symbols, levels=levels)
    assert (np.abs(again - theta) <= 1 / (levels - 1) + 1e-6).all()


@given(level_counts)
def test_what_was_quantised_once_stays_as_it_is(levels: int) -> None:
    symbols = np.arange(levels, dtype=np.uint8)
    assert np.array_equal(quantised(dequantised(symbols, levels=levels), levels=levels), symbols)


@pytest.mark.parametrize("coder", ["plain", "entropy"])
@pytest.mark.parametrize("signs", ALL, ids=NAMES)
@given(theta=thetas)
def test_a_client_reads_the_start_that_the_coordinator_reckons_with(signs: Signs, coder: str, theta: Floats) -> None:
    signs = plain(signs) if coder == "plain" else signs
    found = received(signs, told(signs, theta), theta.size)
    assert found.dtype == np.float32
    assert found.tobytes() == signs.start(signs.publish(theta, layers=[theta.size])).tobytes()


@given(theta=thetas)
def test_weights_travel_bit_by_bit(theta: Floats) -> None:
    assert Weights().start(Weights().publish(theta, layers=[theta.size])).tobytes() == theta.tobytes()
    assert received(Weights(), told(Weights(), theta), theta.size).tobytes() == theta.tobytes()


def test_a_vote_is_sent_as_its_sign_only() -> None:
    theta = np.array([-0.2, 0, 0.9], dtype=np.float32)
    assert VOTE.start(VOTE.publish(theta, layers=[theta.size])).tolist() == [-0.25, 0.25, 0.25]


def test_a_version_of_the_other_mode_is_refused() -> None:
    theta = np.ones(3, dtype=np.float32)
    with pytest.raises(PayloadError, match="KIND_VOTES is missing"):
        received(MEAN, told(VOTE, theta), 3)
    with pytest.raises(PayloadError, match="KIND_SIGNS is missing"):
        received(VOTE, told(MEAN, theta), 3)
    with pytest.raises(PayloadError, match="KIND_WEIGHTS is missing"):
        received(Weights(), told(MEAN, theta), 3)


def test_flips_without_the_version_that_they_build_on_are_refused() -> None:
    old, new = (
        VOTE.publish(np.array(theta, dtype=np.float32), layers=[4]) for theta in ([1, 1, -1, 1], [1, -1, -1, 1])
    )
    section = VOTE.encode(new, base=old, layers=[4])
    assert VOTE.decode(sent(section), base=old, layers=[4]).tolist() == [1, 0, 0, 1]
    with pytest.raises(PayloadError, match="flips came without a version that they build on") as caught:
        VOTE.decode(sent(section), base=None, layers=[4])
    assert caught.value.kind == "mismatch"


def test_a_plain_vote_and_a_plain_level_are_a_bit_and_a_byte() -> None:
    theta = np.array([1, -1, 1, 1, -1], dtype=np.float32)
    assert told(plain(VOTE), theta).data == bytes([0b10110000])
    assert told(plain(DRIFT), theta).codec == pb.CODEC_BYTES_ZSTD
    assert told(plain(DRIFT), theta).parameter == 16


def test_signs_start_as_those_of_the_weights_at_initialization() -> None:
    weights = {"weight": torch.tensor([[0.0, -2.0, 3.0, -0.0]])}
    mask = Mask({"weight": torch.tensor([[True, True, False, True]])})
    assert MEAN.initial(weights, mask).tolist() == [0.25, -0.25, 0.25]
    assert MEAN.initial(weights, mask).dtype == np.float32


def test_memory_blends_the_old_votes_with_the_mean_vote() -> None:
    state, mean = np.array([1, -0.5], dtype=np.float32), np.array([-1, 0.5], dtype=np.float32)
    following = MEAN.following(state, start=state, mean=mean, scale=0.5)
    assert following.tolist() == [0.5, -0.25]
    assert following.dtype == np.float32
    assert VOTE.following(state, start=state, mean=mean, scale=0.5).tolist() == mean.tolist()
    assert state.tolist() == [1, -0.5]


def test_innovation_moves_by_what_the_start_did_not_predict() -> None:
    # A start at half the spread predicts 2Φ(1/2) - 1 = 0.38292492; at twice the spread, 2Φ(2) - 1 = 0.95449974.
    state = np.array([0.2, 0.9, -0.95, 0.95], dtype=np.float32)
    start = np.array([0.25, 1, -0.25, -0.25], dtype=np.float32)
    mean = np.array([0.6, 1, -1, 1], dtype=np.float32)
    following = INNOVATION.following(state, start=start, mean=mean, scale=0.5)
    expected = [0.2 + 0.5 * (0.6 - 0.38292492), 0.9 + 0.5 * (1 - 0.95449974), -1, 1]
    assert following.tolist() == pytest.approx(expected, abs=1e-6)
    assert following.dtype == np.float32


def test_a_start_that_predicted_the_votes_leaves_the_state_as_it_is() -> None:
    state, start = np.array([0.3], dtype=np.float32), np.array([0.25], dtype=np.float32)
    mean = np.array([0.38292492], dtype=np.float32)
    assert INNOVATION.following(state, start=start, mean=mean, scale=0.5).tolist() == pytest.approx([0.3], abs=1e-6)


def test_drift_moves_by_the_mean_vote_times_the_step_size_of_the_round() -> None:
    state = np.array([0.2, -0.1, 0.9], dtype=np.float32)
    start, mean = np.zeros(3, dtype=np.float32), np.array([-1, 0.5, 1], dtype=np.float32)
    following = DRIFT.following(state, start=start, mean=mean, scale=0.5)
    assert following.tolist() == pytest.approx([0.2 - 0.2, -0.1 + 0.1, 1])
    assert following.dtype == np.float32


def test_a_drift_reply_says_whether_a_score_rose_and_keeps_what_did_not_move() -> None:
    start = DRIFT.start(DRIFT.publish(np.array([0.5, 0.5, 0.5, -0.5, -0.5, -0.5], dtype=np.float32), layers=[6]))
    trained = start + np.array([0.1, -0.1, 0, 0.1, -0.1, 0], dtype=np.float32)
    assert reply(plain(DRIFT), trained, start=start).section.data == bytes([0b10110000])
    for signs in (DRIFT, plain(DRIFT)):
        section = reply(signs, trained, start=start).section
        assert section.kind == pb.KIND_SIGNS
        assert heard_votes(signs, section, start=start) == [1, -1, 1, 1, -1, -1]


def test_a_ternary_reply_abstains_on_what_moved_least() -> None:
    start = TERNARY.start(TERNARY.publish(np.array([0.5, 0.5, -0.5, -0.5], dtype=np.float32), layers=[4]))
    trained = start + np.array([0.1, -0.3, 0.2, 0], dtype=np.float32)
    for signs in (TERNARY, plain(TERNARY)):
        section = reply(signs, trained, start=start).section
        assert section.kind == pb.KIND_DRIFT
        assert heard_votes(signs, section, start=start) == [0, -1, 1, 0]


def test_drifts_do_not_tell_flips_and_cost_their_own_entropy() -> None:
    start, trained = np.ones(8, dtype=np.float32), np.ones(8, dtype=np.float32)
    trained[4:] = -1

    def heard(representation: Representation, trained: Floats) -> tuple[float, int | None]:
        section = reply(representation, trained, start=start).section
        found = representation.read_reply(
            sent(section), published=representation.publish(start, layers=[start.size]), layers=[8]
        )
        return found.entropy, found.flips

    for signs in (DRIFT, plain(DRIFT)):
        assert heard(signs, trained) == (1.0, None)
    # One is down, three are up, four abstain: shares of 1/8, 3/8 and 1/2.
    mixed = start + np.array([0, 0, 0, 0, -0.1, 0.1, 0.1, 0.1], dtype=np.float32)
    entropy, flips = heard(TERNARY, mixed)
    assert flips is None
    assert entropy == pytest.approx(1 / 8 * 3 + 3 / 8 * math.log2(8 / 3) + 1 / 2)
    for signs in (MEAN, plain(MEAN)):
        assert heard(signs, trained) == (1.0, 4)
        assert heard(signs, start) == (0.0, 0)
    assert heard(Weights(), start) == (32.0, None)


def test_the_weights_after_a_round_are_their_mean() -> None:
    state, mean = np.array([1, 2], dtype=np.float32), np.array([3, 4], dtype=np.float32)
    assert Weights().following(state, start=state, mean=mean, scale=0.5).tolist() == [3, 4]


def test_weights_that_were_rounded_to_a_step_move_by_what_the_clients_changed() -> None:
    weights = Weights(wire=WireSettings(down="uniform"))
    state, start, mean = (np.array(v, dtype=np.float32) for v in ([1, 2], [1.25, 1.75], [1.5, 1.5]))
    assert weights.following(state, start=start, mean=mean, scale=1.0).tolist() == [1.25, 1.75]


def test_changes_of_less_than_a_step_add_up() -> None:
    weights, state = Weights(wire=WireSettings(down="uniform", down_step=0.5)), np.linspace(-1, 1, 32, dtype=np.float32)
    first = state.copy()
    for round in range(100):
        start = weights.start(weights.publish(state, layers=[32]))
        state = weights.following(state, start=start, mean=start + np.float32(0.01), scale=1.0, round=round + 1)
    np.testing.assert_allclose(state, first + 1, rtol=0, atol=1e-4)


def test_a_reply_is_one_bit_a_kept_weight_and_a_zero_score_is_positive() -> None:
    start, trained = np.ones(4, dtype=np.float32), np.array([0.0, -0.0, -1.0, 2.0], dtype=np.float32)
    assert reply(plain(MEAN), trained, start=start).section.data == bytes([0b11010000])
    for signs in (MEAN, plain(MEAN), VOTE, INNOVATION):
        section = reply(signs, trained, start=start).section
        assert heard_votes(signs, section, start=start) == [1, 1, -1, 1]


@given(start=thetas, seed=st.integers(0, 99))
def test_a_coordinator_hears_what_each_client_meant_with_either_coder(start: Floats, seed: int) -> None:
    trained = np.random.default_rng(seed).uniform(-1, 1, start.size).astype(np.float32)
    for signs in ALL:
        found = [
            heard_votes(one, reply(one, trained, start=start).section, start=start) for one in (signs, plain(signs))
        ]
        assert found[0] == found[1]
        if signs in (MEAN, VOTE, INNOVATION):
            assert found[0] == np.where(trained >= 0, 1.0, -1.0).tolist()
        else:
            began = signs.start(signs.publish(start, layers=[start.size]))
            voted = np.array(found[0])
            moved = (voted != 0) & (trained != began)
            assert (voted[moved] == np.sign(trained - began)[moved]).all()


def test_a_split_vote_counts_as_up_at_both_ends() -> None:
    odd = Signs(SIGNS, AggregationSettings(signs="mean", levels=3))
    start, trained = np.zeros(4, dtype=np.float32), np.array([0.5, -0.5, 0, -0.5], dtype=np.float32)
    assert odd.start(odd.publish(start, layers=[start.size])).tolist() == [0, 0, 0, 0]
    section = reply(odd, trained, start=start).section
    assert heard_votes(odd, section, start=start) == [1, -1, 1, -1]
    found = odd.read_reply(sent(section), published=odd.publish(start, layers=[start.size]), layers=[4])
    assert found.flips == 2


def test_flips_are_cheaper_where_the_last_vote_was_sure() -> None:
    # Scores near 0 flip, those near 1 do not; who knows the levels needs few bytes for that.
    start = np.where(np.arange(8000) % 8 == 0, 0.05, 0.9).astype(np.float32)
    trained = np.where(np.arange(8000) % 8 == 0, -start, start)
    known = reply(MEAN, trained, start=start).section
    assert len(known.data) < 20
    assert known.entropy == 0.0
    # The order-0 entropy of one flip in eight is 0.5436 bits.
    unknown = reply(VOTE, trained, start=start).section
    assert len(unknown.data) > 8000 / 8 * 0.54


def constant_words(value: int) -> Draw:
    return lambda count: np.full(count, value, dtype=np.uint32)


@pytest.mark.parametrize("signs", ALL, ids=NAMES)
def test_randomised_votes_are_true_or_false_as_the_words_say(signs: Signs) -> None:
    private = replace(signs, privacy=PrivacySettings(vote_epsilon=1.0))
    start = np.full(40, 0.5, dtype=np.float32)
    trained = np.where(np.arange(40) % 3 == 0, -0.5, 0.75).astype(np.float32)
    truth = heard_votes(signs, reply(signs, trained, start=start).section, start=start)
    kept, lies = (
        heard_votes(private, reply(private, trained, start=start, draw=constant_words(word)).section, start=start)
        for word in (0, 2**32 - 1)
    )
    assert kept == truth
    assert all(lie != vote for lie, vote in zip(lies, truth, strict=True))


def test_a_larger_epsilon_lies_less() -> None:
    start = np.full(20_000, 0.5, dtype=np.float32)
    shares = []
    for epsilon in (0.5, 1.0, 4.0):
        private = replace(MEAN, privacy=PrivacySettings(vote_epsilon=epsilon))
        votes = np.array(heard_votes(private, reply(private, start, start=start).section, start=start))
        shares.append(float((votes < 0).mean()))
    # A lie has the probability 1 / (1 + e^ε) = 0.3775, 0.2689 and 0.0180; five standard deviations are 5·√(1/4/20000).
    assert shares == pytest.approx([0.37754, 0.26894, 0.01799], abs=0.0177)


@pytest.mark.parametrize("signs", [DRIFT, TERNARY], ids=["two", "three"])
def test_the_mean_of_randomised_votes_moves_the_state_as_the_truth_would_on_average(signs: Signs) -> None:
    private = replace(signs, privacy=PrivacySettings(vote_epsilon=1.0))
    clients, start = 4000, np.zeros(6, dtype=np.float32)
    trained = private.start(private.publish(start, layers=[start.size])) + np.array(
        [0.3, -0.3, 0.2, 0.1, 0, 0.01], dtype=np.float32
    )
    draw, total = seeded_words(np.random.default_rng(7)), np.zeros(6)
    for _ in range(clients):
        total += heard_votes(private, reply(private, trained, start=start, draw=draw).section, start=start)
    truth = np.array(heard_votes(signs, reply(signs, trained, start=start).section, start=start), dtype=np.float32)
    mean = (total / clients).astype(np.float32)
    gain = np.float32(signs.aggregation.gain)
    found = private.following(start, start=start, mean=mean, scale=1.0)
    # The mean of n votes within ±1 has a standard deviation of 1/√n at most; five of those, times factor and gain.
    factor = unbiasing_factor(alphabet=3 if signs is TERNARY else 2, epsilon=1.0)
    np.testing.assert_allclose(found, gain * truth, atol=float(gain) * factor * 5 / math.sqrt(clients))
    assert np.abs(gain * mean - gain * truth).max() > float(gain) * factor * 5 / math.sqrt(clients)


def test_what_travels_of_signs_is_remembered_by_nobody() -> None:
    start = np.ones(4, dtype=np.float32)
    assert all(reply(signs, start, start=start).memory is None for signs in ALL)


def test_only_what_is_entropy_coded_has_deltas() -> None:
    assert [signs.has_deltas for signs in ALL] == [True] * 5
    assert [plain(signs).has_deltas for signs in ALL] == [False] * 5
    assert not Weights().has_deltas
    assert Weights(wire=WireSettings(down="bf16")).has_deltas
    assert not Weights(wire=WireSettings(down="bf16", coder="plain")).has_deltas


@given(old=thetas, seed=st.integers(0, 99))
def test_a_version_is_the_same_whatever_it_is_told_against(old: Floats, seed: int) -> None:
    new = np.clip(old + np.random.default_rng(seed).normal(0, 0.2, old.size), -1, 1).astype(np.float32)
    layers = [old.size // 3, old.size - old.size // 3]
    for signs in [*ALL, *map(plain, ALL)]:
        base, version = signs.publish(old, layers=[old.size]), signs.publish(new, layers=[new.size])
        for known in (None, base):
            section = signs.encode(version, base=known, layers=layers)
            found: Levels = signs.decode(sent(section), base=known, layers=layers)
            assert found.tolist() == version.tolist()
            assert found.dtype == np.uint8


def test_a_reply_of_weights_is_the_weights() -> None:
    values = np.array([0.1, -3], dtype=np.float32)
    section = reply(Weights(), values, start=np.zeros(2, dtype=np.float32)).section
    found = Weights().read_reply(sent(section), published=np.zeros(2, dtype=np.float32), layers=[2])
    assert isinstance(found.values, np.ndarray)
    assert found.values.tobytes() == values.tobytes()


def test_kept_weights_are_the_magnitudes_with_the_voted_signs() -> None:
    model, mask = model_and_mask()
    theta = np.where(np.arange(20) % 2, -0.25, 0.25).astype(np.float32)
    theta[0] = 0
    kept = MEAN.kept_weights(theta, model, mask)
    assert kept.dtype == np.float32
    assert kept[:4].tolist() == [1, -1, 1, -1]
    assert kept[4:].tolist() == pytest.approx([0.70710678, -0.70710678] * 8)
    assert np.array_equal(Weights().kept_weights(theta, model, mask), theta)


@pytest.mark.parametrize("magnitude", ["constant", "random"])
def test_the_delivered_network_is_the_one_that_clients_trained(magnitude: str) -> None:
    model, mask = model_and_mask()
    signs = Signs(SignSettings.model_validate({"magnitude": magnitude}), MEAN.aggregation)
    theta = np.linspace(-1, 1, mask.kept, dtype=np.float32)
    network = signs.network(model, mask)
    write_vector(network.kept, theta)
    assert np.array_equal(read_vector(network.kept) >= 0, theta >= 0)
    x = torch.randn(3, 1, 3, 3)
    trained = network.module(x)
    scatter_kept(model, mask, signs.kept_weights(theta, model, mask))
    torch.testing.assert_close(trained, model(x))


def test_initial_weights_are_those_of_the_model() -> None:
    model, mask = model_and_mask()
    weights = {name: w.detach() for name, w in prunable_tensors(model).items()}
    expected = torch.cat([weights[name][mask[name]] for name in mask])
    assert torch.equal(torch.from_numpy(Weights().initial(weights, mask)), expected)


def test_what_goes_first_is_said_by_all_rounds_by_the_last_or_by_both() -> None:
    theta, mean = np.array([0.5, -0.25, 0.25], dtype=np.float32), np.array([0.0, -0.75, 0.0], dtype=np.float32)
    said = {
        drop: replace(DRIFT, settings=SignSettings(drop=drop)).drop_scores(theta, mean=mean).tolist()
        for drop in ("theta", "margin", "both")
    }
    # Of the two with no margin the one of the smaller θ goes first.
    margins = [0.5 / 1024, 0.75 + 0.25 / 1024, 0.25 / 1024]
    assert said == {"theta": [0.5, 0.25, 0.25], "margin": pytest.approx(margins), "both": [0.5, 0.75, 0.25]}
    assert DRIFT.drop_scores(theta).tolist() == [0.5, 0.25, 0.25]
    assert Weights().drop_scores(theta, mean=mean).tolist() == [0.5, 0.25, 0.25]


@given(level_counts, st.floats(0.01, 1))
def test_a_sign_that_grew_is_read_as_it_grew(levels: int, vote: float) -> None:
    signs = Signs(SignSettings(initial_vote=vote), AggregationSettings(signs="drift", levels=levels))
    grown = signs.grown(np.array([0.5, -3.0], dtype=np.float32))
    assert grown.dtype == np.float32
    assert np.abs(grown).max() <= 1
    assert (signs.start(signs.publish(grown, layers=[grown.size])) >= 0).tolist() == [False, True]
    # No surer than it has to be.
    assert np.abs(grown).tolist() == pytest.approx([max(vote, 1.01 / (levels - 1) if levels % 2 else 0)] * 2)
