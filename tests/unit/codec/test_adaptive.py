"""The adaptive coder: hand-computed bytes, round trips, and what arbitrary bytes do to a reader."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.codec.adaptive import Meter, Reader, Writer, divided, natural, prefixed, signed
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.errors import PayloadError

decisions = st.lists(
    st.one_of(
        st.tuples(st.just("bit"), st.integers(0, 3), st.integers(0, 1)),
        st.integers(1, 1 << 16).flatmap(lambda n: st.tuples(st.just("uniform"), st.just(n), st.integers(0, n - 1))),
    ),
    max_size=60,
)


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        ([], ""),
        # Halves first: a 0 keeps [0, 1), whose shortest number is 0.
        ([0], ""),
        ([1], "80"),
        # After a 0 the weights are 3 and 1: a 1 then takes the quarter [3/8, 1/2).
        ([0, 1], "60"),
        # After a 1 they are 1 and 3: a 0 takes [1/2, 5/8), the next 0 of weights 3 and 3 keeps [1/2, 9/16).
        ([1, 0, 0], "80"),
        ([1, 0, 1], "90"),
    ],
)
def test_bits_of_one_model_make_these_bytes(bits: list[int], expected: str) -> None:
    writer = Writer()
    for bit in bits:
        writer.bit("m", bit)
    assert writer.finish().hex() == expected


def test_a_uniform_number_divides_the_range_evenly() -> None:
    writer = Writer()
    writer.uniform(256, 0xAB)
    writer.uniform(16, 0xC)
    assert writer.finish().hex() == "abc0"


def test_a_number_of_one_possibility_costs_nothing() -> None:
    writer = Writer()
    writer.uniform(1, 0)
    assert writer.finish() == b""


def test_models_learn_apart() -> None:
    writer = Writer()
    for _ in range(50):
        writer.bit("a", 0)
    writer.bit("b", 1)
    assert writer.models.of("a") == (101, 1)
    assert writer.models.of("b") == (1, 3)


def test_weights_are_halved_before_they_grow_too_large() -> None:
    writer = Writer()
    for _ in range((1 << 15) - 1):
        writer.bit("m", 1)
    assert writer.models.of("m") == (1, (1 << 16) - 1)
    writer.bit("m", 1)
    assert writer.models.of("m") == (1, 1 << 15 | 1)


def test_rare_ones_cost_about_their_entropy() -> None:
    source = random.Random(0)
    bits = [int(source.random() < 0.01) for _ in range(10_000)]
    writer = Writer()
    for bit in bits:
        writer.bit("m", bit)
    # Learning one probability costs about log2(10,000) / 2 bits, less than a byte.
    assert len(writer.finish()) <= binary_entropy_bytes(sum(bits), len(bits)) + 2


@given(decisions)
@settings(max_examples=60)
def test_what_is_written_is_read_and_costs_what_the_meter_says(drawn: list[tuple[str, int, int]]) -> None:
    writer = Writer()
    meter = Meter(writer.models)
    for kind, name, value in drawn:
        for coder in (writer, meter):
            coder.bit(name, value) if kind == "bit" else coder.uniform(name, value)
    data = writer.finish()
    reader = Reader(data)
    for kind, name, value in drawn:
        assert (reader.bit(name) if kind == "bit" else reader.uniform(name)) == value
    reader.finish()
    assert len(data) <= meter.bits / 8 + 2


def test_a_meter_leaves_the_writers_models_alone() -> None:
    writer = Writer()
    Meter(writer.models).bit("m", 1)
    assert writer.models.of("m") == (1, 1)


@pytest.mark.parametrize("data", ["00", "8000", "8000000000", "8000000001"])
def test_bytes_that_no_writer_leaves_are_refused(data: str) -> None:
    reader = Reader(bytes.fromhex(data))
    reader.bit("m")
    with pytest.raises(PayloadError, match="more bytes than it needs"):
        reader.finish()


def test_a_number_in_the_gap_behind_the_last_part_is_refused() -> None:
    # 2**32 div 3 leaves a remainder of 1, which belongs to nobody.
    with pytest.raises(PayloadError, match="outside"):
        Reader(b"\xff\xff\xff\xff").uniform(3)


@pytest.mark.parametrize("most", [0, 1, 2, 3, 6, 7, 100])
def test_every_natural_number_up_to_the_most_is_read_back(most: int) -> None:
    for value in range(most + 1):
        writer = Writer()
        natural(writer, "n", value, most=most)
        reader = Reader(writer.finish())
        assert natural(reader, "n", 0, most=most) == value
        reader.finish()


def test_a_natural_number_above_the_most_is_refused() -> None:
    writer = Writer()
    natural(writer, "n", 5, most=6)
    with pytest.raises(PayloadError, match="outside"):
        natural(Reader(writer.finish()), "n", 0, most=4)


@pytest.mark.parametrize(
    ("around", "ranks"),
    [(2, [3, 1, 0, 2, 4, 5, 6]), (0, [0, 1, 2, 3, 4, 5, 6]), (6, [6, 5, 4, 3, 2, 1, 0]), (4, [6, 5, 3, 1, 0, 2, 4])],
)
def test_signed_numbers_are_ranked_by_their_distance(around: int, ranks: list[int]) -> None:
    for value, rank in enumerate(ranks):
        writer, plain = Writer(), Writer()
        signed(writer, "n", value, around=around, least=0, most=6)
        natural(plain, "n", rank, most=6)
        assert writer.finish() == plain.finish()
        reader = Reader(plain.finish())
        assert signed(reader, "n", 0, around=around, least=0, most=6) == value


def test_what_follows_is_divided_off() -> None:
    assert divided(prefixed(bytes(200)) + b"rest") == (bytes(200), b"rest")


@pytest.mark.parametrize("data", ["", "80", "8000", "02ff"])
def test_fewer_bytes_than_announced_are_refused(data: str) -> None:
    with pytest.raises(PayloadError):
        divided(bytes.fromhex(data))
