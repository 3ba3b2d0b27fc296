"""Rounding to 8 and 4 bits: how much is held, how far off, and that nothing is off on average."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hedgerow.activations import Quantised
from hedgerow.activations.quantised import Bits

both = pytest.mark.parametrize("bits", [8, 4])


def _channel(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def test_bytes_of_int8_are_one_an_element_and_six_a_channel() -> None:
    assert Quantised(bits=8, seed=0).pack(torch.randn(32, 10, 8, 8)).nbytes == 32 * 10 * 64 + 6 * 10


def test_bytes_of_int4_are_half_an_element_and_six_for_32_elements() -> None:
    assert Quantised(bits=4, seed=0).pack(torch.randn(32, 10, 8, 8)).nbytes == 32 * 10 * 64 // 2 + 6 * 2 * 32 * 10


def test_bytes_of_rectified_int4_are_a_bit_an_element_and_six_bits_for_those_that_are_not_zero() -> None:
    x = torch.zeros(32, 10, 8, 8)
    x[:, :, ::2] = torch.rand(32, 10, 4, 8) + 0.1
    assert Quantised(bits=4, seed=0).pack(x).nbytes == (32 * 10 * 64) // 8 + (32 * 10 * 32) * 6 // 8 + 6 * 10


def test_levels_are_evenly_spaced_from_the_least_to_the_largest_value_of_a_channel() -> None:
    x = torch.zeros(64, 2)
    x[:, 0], x[:, 1] = torch.linspace(-1, 3, 64), torch.linspace(0, 1000, 64)
    back = Quantised(bits=8, seed=0).pack(x).unpack()
    for channel, (low, high) in enumerate([(-1.0, 3.0), (0.0, 1000.0)]):
        step = (high - low) / 255
        assert float((back[:, channel] - x[:, channel]).abs().max()) < 1.02 * step
        assert len(set(back[:, channel].tolist())) > 32
    assert back[0].tolist() == [-1.0, 0.0]


@both
@given(seed=st.integers(0, 2**31), scale=st.floats(-20, 20), offset=st.floats(-100, 100))
def test_no_element_is_off_by_more_than_a_step(bits: Bits, seed: int, scale: float, offset: float) -> None:
    x = torch.randn(16, 5, 4, 4, generator=torch.Generator().manual_seed(seed)) * 10**scale + offset
    back = Quantised(bits=bits, seed=seed).pack(x).unpack()
    span = float((_channel(x).amax(1) - _channel(x).amin(1)).max())
    rounding = 4e-7 * float(x.abs().max())
    assert float((back - x).abs().max()) <= 1.02 * span / (2**bits - 1) + rounding


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e-30, 3e38])
@both
def test_constant_channels_come_back_exactly(bits: Bits, value: float) -> None:
    x = torch.full((4, 3, 8, 8), value)
    x[:, 1] = -value
    assert torch.equal(Quantised(bits=bits, seed=0).pack(x).unpack(), x)


@both
def test_zeros_of_a_rectified_activation_stay_zeros(bits: Bits) -> None:
    x = torch.randn(32, 6, 8, 8, generator=torch.Generator().manual_seed(0)).relu()
    back = Quantised(bits=bits, seed=0).pack(x).unpack()
    assert not back[x == 0].any()


def test_zeros_stay_zeros_where_a_channel_also_goes_below() -> None:
    x = torch.randn(32, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    x[:, :, ::2] = 0
    back = Quantised(bits=4, seed=0).pack(x).unpack()
    assert not back[x == 0].any()
    assert float((back - x).abs().max()) < 8 / 60


@both
@pytest.mark.parametrize("rectified", [False, True])
def test_rounding_is_right_on_average(bits: Bits, rectified: bool) -> None:
    x = torch.randn(16, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    x = x.relu() if rectified else x + 0.3
    storage, draws = Quantised(bits=bits, seed=3), 2000
    errors = torch.stack([(storage.pack(x).unpack() - x).double() for _ in range(draws)])
    deviation = errors.std(0)
    mean = errors.mean(0)
    # The second term is for elements so near a level that they hardly ever leave it.
    step = float(x.max() - x.min()) / (2**bits - 1)
    assert (mean.abs() <= 5 * deviation / draws**0.5 + 5 * step / draws).all()
    # Over all elements a bias of 1/500 of a step shows.
    noisy = deviation > 0
    standard = float((mean[noisy] / (deviation[noisy] / draws**0.5)).mean()) * int(noisy.sum()) ** 0.5
    assert abs(standard) < 4
    assert noisy.double().mean() > 0.4


def test_elements_are_rounded_independently() -> None:
    x = torch.full((1000, 2, 4, 4), 0.5)
    x[0], x[1] = 0, 1.5
    storage = Quantised(bits=8, seed=3)
    up = (storage.pack(x).unpack()[2:] > 0.5).float().flatten(1)
    correlations = np.corrcoef(up.numpy().T)[np.triu_indices(32, 1)]
    assert np.abs(correlations).max() < 5 / 998**0.5


@both
def test_the_same_seed_rounds_the_same_way(bits: Bits) -> None:
    x = torch.randn(4, 5, 6, 7)
    one, two, other = (Quantised(bits=bits, seed=seed) for seed in (5, 5, 6))
    for _ in range(2):
        first = one.pack(x).unpack()
        assert torch.equal(first, two.pack(x).unpack())
        assert not torch.equal(first, other.pack(x).unpack())
    assert not torch.equal(first, one.pack(x).unpack())


@both
def test_a_copy_goes_on_with_the_same_draws(bits: Bits) -> None:
    x = torch.randn(4, 5, 6, 7)
    storage = Quantised(bits=bits, seed=5)
    storage.pack(x)
    twin = copy.deepcopy(storage)
    assert torch.equal(storage.pack(x).unpack(), twin.pack(x).unpack())


@both
def test_rounding_draws_nothing_from_the_generator_of_torch(bits: Bits) -> None:
    before = torch.get_rng_state()
    Quantised(bits=bits, seed=5).pack(torch.ones(4, 5)).unpack()
    assert torch.equal(before, torch.get_rng_state())


@both
@given(count=st.integers(1, 400), share=st.floats(0, 1))
def test_any_number_of_elements_and_zeros_comes_back(bits: Bits, count: int, share: float) -> None:
    generator = torch.Generator().manual_seed(count)
    x = torch.rand(1, count, generator=generator) + 1
    x[torch.rand(1, count, generator=generator) < share] = 0
    back = Quantised(bits=bits, seed=0).pack(x).unpack()
    assert float((back - x).abs().max()) <= 2.05 / (2**bits - 1)
