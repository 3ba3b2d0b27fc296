"""What a client trains and sends of the kept weights: both ends agree, and signs survive."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from hedgerow.codec import Floats, Header, Sections, decode_payload, encode_payload
from hedgerow.config import AggregationSettings, SignSettings
from hedgerow.errors import PayloadError
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.representation import Broadcast, Signs, Weights, dequantised, layer_magnitudes, quantised
from hedgerow.sparse import read_vector, scatter_kept, write_vector

SIGNS = SignSettings(initial_vote=0.25)
MEAN = Signs(SIGNS, AggregationSettings(signs="mean", memory=0.75))
VOTE = Signs(SIGNS, AggregationSettings(signs="vote"))
INNOVATION = Signs(SIGNS, AggregationSettings(signs="innovation", gain=0.5, spread=0.5))
DRIFT = Signs(SignSettings(initial_vote=0.25), AggregationSettings(signs="drift", gain=0.4, levels=16))

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


def sent(broadcast: Broadcast) -> Sections:
    header = Header(bytes(6), 1, bytes(16))
    return decode_payload(encode_payload(header, [broadcast.section]), limit=100_000)[1]


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


@pytest.mark.parametrize("signs", [MEAN, VOTE, INNOVATION, DRIFT], ids=["mean", "vote", "innovation", "drift"])
@given(theta=thetas)
def test_a_client_reads_the_start_that_the_coordinator_reckons_with(signs: Signs, theta: Floats) -> None:
    broadcast = signs.broadcast(theta)
    received = signs.receive(sent(broadcast), theta.size)
    assert received.dtype == broadcast.start.dtype == np.float32
    assert received.tobytes() == broadcast.start.tobytes()


@given(theta=thetas)
def test_weights_travel_bit_by_bit(theta: Floats) -> None:
    broadcast = Weights().broadcast(theta)
    assert broadcast.start.tobytes() == theta.tobytes()
    assert Weights().receive(sent(broadcast), theta.size).tobytes() == theta.tobytes()


def test_a_vote_is_sent_as_its_sign_only() -> None:
    assert VOTE.broadcast(np.array([-0.2, 0, 0.9], dtype=np.float32)).start.tolist() == [-0.25, 0.25, 0.25]


def test_a_broadcast_of_the_other_mode_is_refused() -> None:
    theta = np.ones(3, dtype=np.float32)
    with pytest.raises(PayloadError, match="KIND_VOTES is missing"):
        MEAN.receive(sent(VOTE.broadcast(theta)), 3)
    with pytest.raises(PayloadError, match="KIND_SIGNS is missing"):
        VOTE.receive(sent(MEAN.broadcast(theta)), 3)
    with pytest.raises(PayloadError, match="KIND_WEIGHTS is missing"):
        Weights().receive(sent(MEAN.broadcast(theta)), 3)


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
    start = np.array([0.5, 0.5, 0.5, -0.5, -0.5, -0.5], dtype=np.float32)
    trained = np.array([0.6, 0.4, 0.5, -0.4, -0.6, -0.5], dtype=np.float32)
    assert DRIFT.reply(trained, start=start).data == bytes([0b10110000])


def test_drifts_do_not_tell_flips_and_cost_their_own_entropy() -> None:
    start, votes = np.ones(8, dtype=np.float32), np.array([True] * 4 + [False] * 4)
    assert DRIFT.flips(votes, start=start) is None
    assert DRIFT.reply_entropy(votes, start=start) == 1.0
    assert MEAN.flips(votes, start=start) == 4
    assert MEAN.reply_entropy(~votes & votes, start=start) == 0.0
    assert Weights().flips(start, start=start) is None
    assert Weights().reply_entropy(start, start=start) == 32.0


def test_the_weights_after_a_round_are_their_mean() -> None:
    state, mean = np.array([1, 2], dtype=np.float32), np.array([3, 4], dtype=np.float32)
    assert Weights().following(state, start=state, mean=mean, scale=0.5).tolist() == [3, 4]


def test_a_reply_is_one_bit_a_kept_weight_and_a_zero_score_is_positive() -> None:
    section = MEAN.reply(np.array([0.0, -0.0, -1.0, 2.0], dtype=np.float32), start=np.ones(4, dtype=np.float32))
    assert section.data == bytes([0b11010000])
    assert MEAN.read_reply(sent(Broadcast(section, np.zeros(4, dtype=np.float32))), 4).tolist() == [
        True,
        True,
        False,
        True,
    ]


def test_a_reply_of_weights_is_the_weights() -> None:
    values = np.array([0.1, -3], dtype=np.float32)
    assert (
        Weights().read_reply(sent(Broadcast(Weights().reply(values, start=values), values)), 2).tobytes()
        == values.tobytes()
    )


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
