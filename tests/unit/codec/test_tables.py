"""Frequency tables: shares by hand, what a table keeps of its counts, and what it costs."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec.adaptive import Reader, Writer
from hedgerow.codec.rans import PRECISION
from hedgerow.codec.tables import Counts, code_row, code_rows, code_share, nearest_index, part_of, portion, steps_for
from hedgerow.errors import PayloadError

WHOLE = 1 << PRECISION

counts_of_contexts = st.tuples(st.integers(1, 8), st.integers(1, 9)).flatmap(
    lambda shape: hnp.arrays(np.int64, shape, elements=st.one_of(st.just(0), st.integers(0, 5), st.integers(0, 10**6)))
)


def sent(counts: Counts, *, shift: bool = False) -> tuple[bytes, np.ndarray[tuple[int, ...], np.dtype[np.uint32]]]:
    writer = Writer()
    frequencies = code_rows(writer, counts, counts.sum(axis=1).tolist(), shift=shift)
    return writer.finish(), frequencies


def cost(counts: Counts, frequencies: np.ndarray[tuple[int, ...], np.dtype[np.uint32]]) -> float:
    """Bits that the symbols take with these frequencies."""
    there = counts > 0
    return float((counts[there] * (PRECISION - np.log2(frequencies[there]))).sum())


def entropy(counts: Counts) -> float:
    """Bits that they take with their own."""
    return math.fsum(-k * math.log2(k / sum(row)) for row in counts.tolist() for k in row if k)


def test_shares_of_four_steps_are_these() -> None:
    assert [part_of(i, 4) for i in range(5)] == [(0, 64), (10, 64), (32, 64), (54, 64), (64, 64)]


@pytest.mark.parametrize("steps", [2, 3, 50])
def test_shares_ascend_from_none_to_all(steps: int) -> None:
    shares = [portion(i, steps, 10**9) for i in range(steps + 1)]
    assert shares[0] == 0
    assert shares[-1] == 10**9
    assert all(a < b for a, b in pairwise(shares))


@given(st.integers(2, 40), st.integers(0, 1000), st.integers(1, 1000))
def test_the_nearest_index_is_the_nearest(steps: int, part: int, whole: int) -> None:
    part = min(part, whole)
    away = [abs(part_of(i, steps)[0] * whole - part * steps**3) for i in range(1, steps)]
    assert nearest_index(part, whole, steps) == 1 + away.index(min(away))


def test_an_even_split_of_few_samples_takes_these_bits() -> None:
    # Not empty: the upper half. L = 2 + isqrt(4) = 4: index 2 of 1 .. 3, the middle third of [1/2, 1): [2/3, 5/6).
    writer = Writer()
    assert code_share(writer, (2, 5), steps=steps_for(5), like=None) == 2
    assert writer.finish().hex() == "ab"


def test_a_table_of_two_symbols_has_the_share_of_its_index() -> None:
    # Of 5 samples 1: the share 10 / 64 is nearer to 1 / 5 than 1 / 2.
    assert code_row(Writer(), [1, 4], samples=5, like=None) == [5120, WHOLE - 5120]


def test_a_rare_symbol_keeps_a_frequency() -> None:
    row = code_row(Writer(), [10**9, 1, 1, 10**9], samples=2 * 10**9 + 2, like=None)
    assert min(row) >= 1
    assert sum(row) == WHOLE


def test_a_single_symbol_costs_two_bits() -> None:
    assert sent(np.array([[0, 0, 7]]))[0].hex() == ""
    assert sent(np.array([[7, 0, 0]]))[0].hex() == "40"


def test_contexts_without_symbols_cost_nothing() -> None:
    some = np.array([[5, 2, 9], [1, 1, 30]])
    assert sent(np.insert(some, [0, 1, 1, 2], 0, axis=0))[0] == sent(some)[0]


def test_no_symbols_at_all_are_no_bytes() -> None:
    data, frequencies = sent(np.zeros((2, 3), dtype=np.int64))
    assert data == b""
    assert frequencies.tolist() == [[WHOLE, 0, 0]] * 2


@given(counts_of_contexts, st.booleans())
@settings(max_examples=80)
def test_a_reader_gets_the_tables_of_the_writer(counts: Counts, shift: bool) -> None:
    data, frequencies = sent(counts, shift=shift)
    reader = Reader(data)
    samples = counts.sum(axis=1).tolist()
    assert (code_rows(reader, np.zeros_like(counts), samples, shift=shift) == frequencies).all()
    reader.finish()
    assert (frequencies.sum(axis=1) == WHOLE).all()
    assert (frequencies[counts > 0] > 0).all()


@given(st.binary(max_size=40), st.booleans())
@settings(max_examples=80)
def test_any_bytes_are_tables_or_refused(data: bytes, shift: bool) -> None:
    reader = Reader(data)
    try:
        frequencies = code_rows(reader, np.zeros((4, 6), dtype=np.int64), [10, 0, 1, 100_000], shift=shift)
        reader.finish()
    except PayloadError:
        return
    assert (frequencies.sum(axis=1) == WHOLE).all()


def test_a_table_costs_no_more_than_the_theory_of_description_length_says() -> None:
    # (alphabet - 1) / 2 · log2(n) bits (Rissanen, "Modeling by shortest data description", 1978) are 2 · 8.3. Besides,
    # the coder may need a byte and a bit more than what it codes.
    generator = np.random.default_rng(0)
    counts = generator.multinomial(100_000, [0.05, 0.9, 0.05])[None]
    data, frequencies = sent(counts)
    assert 8 * len(data) + cost(counts, frequencies) - entropy(counts) < 2 * 8.3 + 10


def test_contexts_alike_cost_little_more_than_one() -> None:
    generator = np.random.default_rng(1)
    counts = generator.multinomial(6_000, [0.05, 0.9, 0.05], size=16)
    data, frequencies = sent(counts)
    assert len(data) <= 8
    assert cost(counts, frequencies) - entropy(counts) < 8 * 10


def test_sixteen_contexts_that_differ_cost_less_than_forty_bytes() -> None:
    generator = np.random.default_rng(2)
    votes = np.abs(np.arange(16) - 7.5) / 7.5
    counts = np.array([generator.multinomial(6_000, [0.08 - 0.05 * v, 0.9, 0.02 + 0.05 * v]) for v in votes])
    data, frequencies = sent(counts)
    assert len(data) + (cost(counts, frequencies) - entropy(counts)) / 8 < 40


def test_shifted_predictions_save_half_of_the_tables_of_old_levels() -> None:
    generator = np.random.default_rng(3)
    old = np.arange(16).repeat(6_000)
    new = np.clip(old + np.rint(generator.normal(0, 0.8, old.size)), 0, 15).astype(np.int64)
    counts = np.bincount(old * 16 + new, minlength=256).reshape(16, 16)
    assert 2 * len(sent(counts, shift=True)[0]) < len(sent(counts)[0])
