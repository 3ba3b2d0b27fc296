"""Where noise comes from."""

import math

import numpy as np
import pytest

from hedgerow.privacy.randomness import Words, in_chunks, normals, seeded_words, system_words


def words(*values: int) -> Words:
    return np.array(values, dtype=np.uint32)


def test_words_of_a_seed_are_its_bytes_with_the_lowest_first() -> None:
    generator, twin = (np.random.Generator(np.random.PCG64(3)) for _ in range(2))
    assert seeded_words(generator)(5).astype("<u4").tobytes() == twin.bytes(20)


def test_words_of_the_operating_system_are_new_each_time() -> None:
    first, second = system_words(4), system_words(4)
    assert first.dtype == np.uint32
    assert first.shape == (4,)
    assert first.tolist() != second.tolist()


def test_words_of_zeros_give_the_largest_value_and_it_is_finite() -> None:
    # √(-2 · ln 2⁻⁵³) at an angle of 0.
    largest = math.sqrt(2 * 53 * math.log(2))
    assert normals(lambda count: np.zeros(count, dtype=np.uint32), 2).tolist() == pytest.approx([largest, 0])


def test_a_quarter_turn_puts_the_radius_into_the_second_value() -> None:
    # 2³⁰ / 2³² is a quarter of a turn; half of all radii lie within √(2 · ln 2).
    pair = normals(lambda _: words(2**31 - 1, 2**32 - 1, 2**30, 0), 2)
    assert pair.tolist() == pytest.approx([0, math.sqrt(2 * math.log(2))], abs=1e-12)


def test_an_odd_number_of_normal_values_drops_one() -> None:
    draw = [seeded_words(np.random.Generator(np.random.PCG64(3))) for _ in range(2)]
    assert normals(draw[0], 3).tolist() == normals(draw[1], 4)[:3].tolist()
    assert normals(draw[0], 0).shape == (0,)


def test_normal_values_have_the_moments_of_their_distribution() -> None:
    values = normals(seeded_words(np.random.Generator(np.random.PCG64(3))), 400_000)
    moments = [float((values**power).mean()) for power in (1, 2, 3, 4)]
    # Five standard deviations of the widest, whose variance is 96.
    assert moments == pytest.approx([0, 1, 0, 3], abs=5 * math.sqrt(96 / 400_000))
    assert float((values < 1).mean()) == pytest.approx(0.8413447, abs=0.003)
    assert float(np.mean(values[0::2] * values[1::2])) == pytest.approx(0, abs=0.012)


def test_chunks_cover_everything_once() -> None:
    count = 2 * (1 << 20) + 1
    assert [(s.start, s.stop) for s in in_chunks(count)] == [(0, 1 << 20), (1 << 20, 2 << 20), (2 << 20, count)]
    assert list(in_chunks(0)) == []
