"""The range coder: its bytes, computed by hand; that they are short; and what other bytes do to the reader."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import rans
from hedgerow.codec.rans import PRECISION, Decoder, Encoder, Frequencies, decode, encode, lanes_of, normalised
from hedgerow.codec.symbols import Levels
from hedgerow.errors import PayloadError
from hedgerow.native.library import Status, status

WHOLE = 1 << PRECISION
HALVES = np.array([[WHOLE // 2, WHOLE // 2]], dtype=np.uint32)
RARE = np.array([[WHOLE - 1, 1]], dtype=np.uint32)
needs_native = pytest.mark.skipif(not status().available, reason=status().reason)


@contextmanager
def in_python() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rans, "status", lambda: Status(False, "turned off by the test"))
        yield


def levels(*symbols: int) -> Levels:
    return np.array(symbols, dtype=np.uint8)


def drawn(count: int, *, contexts: int = 1, alphabet: int = 7, seed: int = 0) -> tuple[Levels, Levels, Frequencies]:
    """Symbols, their contexts, and frequencies made of the symbols."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, contexts, count).astype(np.uint8)
    chances = rng.dirichlet(np.full(alphabet, 0.3), size=contexts).cumsum(axis=1)
    symbols = np.minimum((rng.random(count)[:, None] > chances[rows]).sum(axis=1), alphabet - 1).astype(np.uint8)
    counts = np.zeros((contexts, alphabet), dtype=np.int64)
    np.add.at(counts, (rows, symbols), 1)
    return symbols, rows, normalised(counts)


def bound(symbols: Levels, rows: Levels, table: Frequencies) -> float:
    """Bytes that these symbols take with these frequencies."""
    return float((PRECISION - np.log2(table[rows, symbols])).sum()) / 8


# From the last symbol to the first, and from 2**15. Halves: 0 doubles the state; 1 gives 2**15 · 2 + 2**14 = 0x14000,
# then 0 twice 0x50000, then 1 gives 2**15 · 20 + 2**14 = 0xa4000. Rare: 0 adds 1, as 2**15 = 1 · (2**15 - 1) + 1; 1
# gives 2**15 · 2**15 + 2**15 - 1 = 0x40007fff, then puts the word 7fff in front and goes from 0x4000 to 0x20007fff.
BY_HAND = [
    (HALVES, [], ""),
    (HALVES, [0, 0, 0], "000004"),
    (HALVES, [1], "004001"),
    (HALVES, [1, 0, 0, 1], "00400a"),
    (RARE, [0, 0], "0280"),
    (RARE, [1], "ff7f0040"),
    (RARE, [1, 1], "ff7f0020" + "ff7f"),
    (RARE, [1, 1, 1], "ff7f0010" + "ff7f" + "ff7f"),
]


@pytest.mark.parametrize(("table", "symbols", "expected"), BY_HAND)
def test_a_few_symbols_give_the_bytes_computed_by_hand(table: Frequencies, symbols: list[int], expected: str) -> None:
    assert encode(levels(*symbols), table).hex() == expected
    assert decode(bytes.fromhex(expected), len(symbols), table).tolist() == symbols
    with in_python():
        assert encode(levels(*symbols), table).hex() == expected
        assert decode(bytes.fromhex(expected), len(symbols), table).tolist() == symbols


def test_each_context_has_its_own_frequencies() -> None:
    table = np.concatenate([HALVES, RARE])
    assert encode(levels(1, 1), table, levels(1, 0)).hex() == "ff7f00a0"  # 0x14000 of halves, · 2**15, + 2**15 - 1
    assert decode(bytes.fromhex("ff7f00a0"), 2, table, levels(1, 0)).tolist() == [1, 1]


@pytest.mark.parametrize(("count", "lanes"), [(0, 1), (2**17 - 1, 1), (2**17, 2), (2**18, 4), (2**21, 32), (2**40, 32)])
def test_there_is_a_lane_for_65536_symbols_up_to_32(count: int, lanes: int) -> None:
    assert lanes_of(count) == lanes


def test_symbols_that_are_certain_cost_the_lanes_states_only() -> None:
    certain = np.array([[WHOLE]], dtype=np.uint32)
    assert encode(np.zeros(131_071, dtype=np.uint8), certain) == b""
    assert encode(np.zeros(131_072, dtype=np.uint8), certain).hex() == "00000100" * 2
    assert not decode(b"", 131_071, certain).any()
    with pytest.raises(PayloadError, match="has not changed"):
        decode(bytes.fromhex("0080"), 131_071, certain)


def test_symbols_go_to_the_lanes_in_turn() -> None:
    # The lanes are at 2**16 behind; in front of that 0 doubles a lane's state, and 1 adds 2**14 to that.
    table = np.array([[WHOLE, 0], [WHOLE // 2, WHOLE // 2]], dtype=np.uint32)
    rows = np.zeros(131_072, dtype=np.uint8)
    rows[:2] = 1
    symbols = np.zeros(131_072, dtype=np.uint8)
    symbols[1] = 1
    assert encode(symbols, table, rows).hex() == "00000200" + "00400200"


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
@pytest.mark.parametrize("alphabet", [2, 7])
@pytest.mark.parametrize("count", [1000, 2**17 + 3])
def test_symbols_in_parts_give_the_bytes_of_the_whole_and_come_back(count: int, alphabet: int, native: bool) -> None:
    symbols, rows, table = drawn(count, contexts=3, alphabet=alphabet)
    whole = encode(symbols, table, rows)
    parts = list(pairwise([0, 1, 40, count // 3, count // 3, count - 7, count]))
    with nullcontext() if native else in_python():
        encoder, decoder = Encoder(count, table), Decoder(whole, count, table)
        for begin, end in reversed(parts):
            encoder.put(symbols[begin:end], rows[begin:end])
        assert encoder.finish() == whole
        for begin, end in parts:
            assert (decoder.take(end - begin, rows[begin:end]) == symbols[begin:end]).all()
        decoder.finish()
        cut = Decoder(whole[:-2], count, table)
        for begin, end in parts:
            cut.take(end - begin, rows[begin:end])
        with pytest.raises(PayloadError, match="not a range coder's"):
            cut.finish()


def test_parts_of_other_than_all_symbols_are_a_mistake() -> None:
    encoder, decoder = Encoder(2, HALVES), Decoder(encode(levels(1, 0), HALVES), 2, HALVES)
    encoder.put(levels(1))
    with pytest.raises(AssertionError, match="1 symbols are missing"):
        encoder.finish()
    with pytest.raises(AssertionError, match="more symbols than were announced"):
        decoder.take(3)
    decoder.take(1)
    with pytest.raises(AssertionError, match="1 symbols were not taken"):
        decoder.finish()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([0, 0, 0], [WHOLE, 0, 0]),
        ([0, 5, 0], [0, WHOLE, 0]),
        ([3, 0, 1], [24_576, 0, 8192]),
        ([1, 1, 1], [10_923, 10_923, 10_922]),
        ([10**9, 1, 0], [WHOLE - 1, 1, 0]),
        ([10**9, 10**9, 1], [16_384, 16_383, 1]),
    ],
)
def test_counts_become_frequencies(counts: list[int], expected: list[int]) -> None:
    assert normalised(np.array([counts])).tolist() == [expected]


@given(hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=256), elements=st.integers(0, 2**40)))
@settings(max_examples=30)
def test_frequencies_have_the_sum_and_hold_what_occurs(counts: np.ndarray) -> None:
    table = normalised(counts)
    assert table.dtype == np.uint32
    assert (table.sum(axis=1) == WHOLE).all()
    assert ((table > 0) == (counts > 0))[counts.any(axis=1)].all()


@given(st.integers(0, 5000), st.integers(1, 256), st.integers(1, 256), st.integers(0, 2**32))
@settings(max_examples=60)
def test_symbols_round_trip(count: int, contexts: int, alphabet: int, seed: int) -> None:
    symbols, rows, table = drawn(count, contexts=contexts, alphabet=alphabet, seed=seed)
    again = decode(encode(symbols, table, rows), count, table, rows)
    assert again.dtype == np.uint8
    assert np.array_equal(again, symbols)


@needs_native
@given(st.integers(0, 5000), st.integers(1, 20), st.integers(1, 256), st.integers(0, 999))
@example(count=2**17 + 1, contexts=3, alphabet=5, seed=0)
@example(count=2**18 + 3, contexts=1, alphabet=256, seed=1)
@settings(max_examples=40, deadline=None)
def test_python_and_native_kernels_give_the_same_bytes(count: int, contexts: int, alphabet: int, seed: int) -> None:
    symbols, rows, table = drawn(count, contexts=contexts, alphabet=alphabet, seed=seed)
    data = encode(symbols, table, rows)
    with in_python():
        assert encode(symbols, table, rows) == data
        assert np.array_equal(decode(data, count, table, rows), symbols)


@needs_native
@given(st.binary(max_size=40), st.integers(0, 60), st.integers(0, 99))
def test_python_and_native_kernels_read_and_refuse_the_same(data: bytes, count: int, seed: int) -> None:
    _, rows, table = drawn(count, contexts=3, alphabet=5, seed=seed)

    def read() -> list[int] | None:
        try:
            return [int(symbol) for symbol in decode(data, count, table, rows)]
        except PayloadError:
            return None

    native = read()
    with in_python():
        assert read() == native
    if native is not None:
        assert encode(levels(*native), table, rows) == data


@pytest.mark.parametrize("count", [10, 1000, 30_000, 100_000, 600_000])
def test_bytes_are_as_many_as_the_frequencies_say(count: int) -> None:
    symbols, rows, table = drawn(count, contexts=3, alphabet=20)
    least = bound(symbols, rows, table)
    assert len(encode(symbols, table, rows)) <= 1.001 * least + 4 * lanes_of(count)


def is_refused(data: bytes, count: int, table: Frequencies) -> bool:
    """Whether these bytes are refused; if not, they have to be those of the symbols that were read."""
    try:
        symbols = decode(data, count, table)
    except PayloadError:
        return True
    assert encode(symbols, table) == data
    return False


SAMPLES = {"one lane": 1000, "two lanes": 132_000}


@pytest.mark.parametrize("sample", SAMPLES)
def test_bytes_that_are_cut_or_go_on_are_refused(sample: str) -> None:
    symbols, _, table = drawn(SAMPLES[sample])
    data = encode(symbols, table)
    cut = [data[:length] for length in (*range(20), *range(len(data) - 20, len(data)))]
    for wrong in (*cut, data + b"\0", data + b"\0\0", b"\0\0" + data, data + data):
        assert is_refused(wrong, symbols.size, table)


@pytest.mark.parametrize("sample", SAMPLES)
def test_bytes_with_a_wrong_bit_are_refused_or_are_those_of_other_symbols(sample: str) -> None:
    symbols, _, table = drawn(SAMPLES[sample])
    data = encode(symbols, table)
    for bit in np.random.default_rng(1).integers(0, 8 * len(data), 50).tolist():
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        is_refused(bytes(wrong), symbols.size, table)


def test_symbols_of_another_number_are_refused() -> None:
    data = encode(levels(1, 0, 0, 1, 1), HALVES)
    for count in (0, 4, 6, 140_000):
        assert is_refused(data, count, HALVES)


@pytest.mark.parametrize("data", ["00", "004000", "00400200", "000000000000", "ffff00ffff", "ffffff00ffff"])
def test_a_state_with_a_zero_in_front_is_refused(data: str) -> None:
    with pytest.raises(PayloadError, match="zero in front"):
        decode(bytes.fromhex(data), 4, HALVES)


@pytest.mark.parametrize("rows", [[WHOLE, 1], [0, 0], [WHOLE - 1, 0], [2**31, 2**31 + WHOLE]])
def test_frequencies_of_another_sum_are_refused(rows: list[int]) -> None:
    with pytest.raises(PayloadError, match="sum"):
        decode(b"", 0, np.array([rows], dtype=np.uint32))


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_native), False])
def test_a_symbol_without_a_frequency_cannot_be_written(native: bool) -> None:
    table = np.array([[WHOLE, 0]], dtype=np.uint32)
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(rans, "status", lambda: Status(False, "off"))
        with pytest.raises(AssertionError, match="frequency is 0"):
            encode(levels(0, 1, 0), table)


def test_nothing_is_written_with_symbols_or_contexts_that_there_are_not() -> None:
    with pytest.raises(AssertionError, match="alphabet"):
        encode(levels(2), HALVES)
    with pytest.raises(AssertionError, match="without frequencies"):
        encode(levels(1), HALVES, levels(1))
    with pytest.raises(AssertionError, match="none is said"):
        encode(levels(1), np.concatenate([HALVES, HALVES]))
    with pytest.raises(AssertionError, match="contexts for"):
        encode(levels(1), HALVES, levels(0, 0))
