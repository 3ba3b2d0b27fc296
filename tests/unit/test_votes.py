"""Bit-sliced counters of votes, against plain sums of integers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.codec import Bits, Levels
from hedgerow.native.library import Status, status
from hedgerow.server.votes import VoteCounter

# Around the ends of a byte, a word, a vector and a block.
COUNTS = st.integers(1, 70) | st.sampled_from([511, 512, 513, 4095, 4096, 4097, 8200])
WEIGHTS = st.integers(1, 2**24) | st.integers(1, 4) | st.sampled_from([2**k for k in range(25)])


@contextmanager
def kernels(native: bool) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr("hedgerow.server.votes.status", lambda: Status(available=False, reason="a test"))
        elif not status().available:
            # Where there should be a library, tests/unit/test_native.py says so.
            pytest.skip(status().reason)
        yield


@pytest.fixture(scope="module", params=[True, False], ids=["native", "numpy"], autouse=True)
def both(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Each test runs with the native kernels and without them."""
    with kernels(request.param):
        yield request.param


def random_bits(count: int, clients: int, *, seed: int) -> Bits:
    return np.random.default_rng(seed).random((clients, count)) < 0.5


def counted(bits: Bits, weights: list[int]) -> npt.NDArray[np.int64]:
    counter = VoteCounter(bits.shape[1])
    for row, weight in zip(bits, weights, strict=True):
        counter.add(np.packbits(row), weight=weight)
    return counter.sums()


def test_the_sums_of_three_clients() -> None:
    counter = VoteCounter(10)
    counter.add(np.array([0b1100_0000, 0b1000_0000], dtype=np.uint8), weight=5)
    counter.add(np.array([0b1010_0000, 0b1100_0000], dtype=np.uint8), weight=3)
    counter.add(np.array([0b1000_0001, 0b0000_0000], dtype=np.uint8), weight=1000)
    sums = counter.sums()
    assert sums.tolist() == [1008, 5, 3, 0, 0, 0, 0, 1000, 8, 3]
    assert sums.dtype == np.int64


def test_nothing_added_is_zero() -> None:
    assert VoteCounter(3).sums().tolist() == [0, 0, 0]


def test_no_counters_at_all_can_be_summed() -> None:
    counter = VoteCounter(0)
    counter.add(np.zeros(0, dtype=np.uint8), weight=1)
    assert counter.sums().shape == (0,)


def test_sums_can_be_read_in_between() -> None:
    counter = VoteCounter(2)
    counter.add(np.array([0b1100_0000], dtype=np.uint8), weight=255)
    assert counter.sums().tolist() == [255, 255]
    counter.add(np.array([0b0100_0000], dtype=np.uint8), weight=1)
    assert counter.sums().tolist() == [255, 256]
    assert counter.sums().tolist() == [255, 256]


@settings(max_examples=40)
@given(count=COUNTS, weights=st.lists(WEIGHTS, min_size=1, max_size=70), seed=st.integers(0, 2**32))
def test_the_sums_are_those_of_plain_integers(both: bool, count: int, weights: list[int], seed: int) -> None:
    bits = random_bits(count, len(weights), seed=seed)
    assert counted(bits, weights).tolist() == (np.array(weights) @ bits.astype(np.int64)).tolist()


@settings(max_examples=20)
@given(weights=st.lists(WEIGHTS, min_size=2, max_size=70), seed=st.integers(0, 2**32))
def test_the_order_of_clients_does_not_matter(both: bool, weights: list[int], seed: int) -> None:
    bits = random_bits(100, len(weights), seed=seed)
    order = np.random.default_rng(seed).permutation(len(weights))
    shuffled = counted(bits[order], [weights[k] for k in order])
    assert shuffled.tobytes() == counted(bits, weights).tobytes()


@pytest.mark.parametrize("count", [1, 100_003, 40 * 4096])
@pytest.mark.parametrize("most", [1, 7, 2000, 2**24])
def test_native_and_numpy_leave_the_same_bits(both: bool, count: int, most: int) -> None:
    weights = np.random.default_rng(most).integers(1, most, 40, endpoint=True).tolist()
    bits = random_bits(count, 40, seed=count)
    with kernels(not both):
        other = counted(bits, weights)
    assert counted(bits, weights).tobytes() == other.tobytes()


def test_4096_clients_with_the_largest_weight_are_counted_and_one_more_is_refused() -> None:
    counter = VoteCounter(9)
    every, first = (np.array(b, dtype=np.uint8) for b in ([0xFF, 0x80], [0x80, 0]))
    for k in range(4096):
        counter.add(every if k else first, weight=2**24)
    assert counter.sums().tolist() == [2**36] + [2**36 - 2**24] * 8
    with pytest.raises(AssertionError, match="weights of 68719476737 together"):
        counter.add(every, weight=1)


@pytest.mark.parametrize("weight", [0, -1, 2**24 + 1])
def test_weights_out_of_bounds_are_refused(weight: int) -> None:
    with pytest.raises(AssertionError, match="a weight of"):
        VoteCounter(1).add(np.array([0x80], dtype=np.uint8), weight=weight)


@pytest.mark.parametrize("packed", [np.zeros(2, np.uint8), np.zeros(4, np.uint8), np.zeros(3, np.int8)])
def test_bits_of_another_size_or_type_are_refused(packed: Levels) -> None:
    with pytest.raises(AssertionError):
        VoteCounter(20).add(packed, weight=1)


def test_what_was_added_may_change_afterwards_and_is_not_changed() -> None:
    counter, packed = VoteCounter(8), np.array([0b1010_1010], dtype=np.uint8)
    counter.add(packed, weight=1)
    packed[:] = 0xFF
    assert counter.sums().tolist() == [1, 0] * 4
    assert packed.tolist() == [0xFF]


def test_every_other_byte_of_an_array_can_be_added() -> None:
    counter, packed = VoteCounter(16), np.array([0x80, 0xFF, 0x01, 0xFF], dtype=np.uint8)
    packed.flags.writeable = False
    counter.add(packed[::2], weight=3)
    assert counter.sums().tolist() == [3] + [0] * 14 + [3]


def test_memory_does_not_grow_with_the_clients_but_with_the_digits_of_their_weights() -> None:
    counter, packed = VoteCounter(100_000), np.packbits(random_bits(100_000, 1, seed=0))
    packed.flags.writeable = False
    sizes = []
    for _ in range(10):
        for _ in range(32):
            counter.add(packed, weight=10)
        sizes.append(counter.nbytes)
    # Two bytes a counter hold sums up to 65,535; counters come in blocks of 4,096.
    assert sizes == [2 * 25 * 4096] * 10
    for _ in range(31):
        counter.add(packed, weight=2**24)
    assert counter.nbytes == sizes[0] + 31 * packed.nbytes
    counter.add(packed, weight=2**24)
    assert counter.nbytes == 4 * 25 * 4096
