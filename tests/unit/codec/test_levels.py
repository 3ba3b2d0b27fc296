"""Levels: round trips, which contexts are used, what they cost, and what arbitrary bytes do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import rans
from hedgerow.codec.adaptive import divided
from hedgerow.codec.coded import Coded
from hedgerow.codec.entropy import symbol_entropy_bytes
from hedgerow.codec.levels import Context, contexts_used, decode_levels, encode_levels
from hedgerow.codec.symbols import Levels
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

KEPT = 96_618
"""Kept weights of Conv-4 at density 0.05."""

drawn_levels = st.tuples(st.integers(0, 150), st.integers(1, 20)).flatmap(
    lambda drawn: st.tuples(
        hnp.arrays(np.uint8, drawn[0], elements=st.integers(0, drawn[1] - 1)),
        st.just(drawn[1]),
        st.lists(hnp.arrays(np.uint8, drawn[0], elements=st.integers(0, 12)).map(lambda v: Context(v, 13)), max_size=3),
    )
)


def levels_of(*values: int) -> Levels:
    return np.array(values, dtype=np.uint8)


def layers(count: int) -> Context:
    """Layers of unequal sizes."""
    return Context((7 * np.sqrt(np.arange(count) / count)).astype(np.uint8), 7)


def votes(count: int, *, seed: int) -> tuple[Levels, Context]:
    """A client's ternary votes: nine of ten abstain, fewer where θ is near 0, and θ tends to go on."""
    generator = np.random.default_rng(seed)
    theta = generator.integers(0, 16, count).astype(np.uint8)
    away = np.abs(theta - 7.5) / 7.5
    moves = generator.random(count) < 0.13 - 0.06 * away
    rises = generator.random(count) < 0.5 + 0.03 * (theta - 7.5)
    return np.where(moves, np.where(rises, 2, 0), 1).astype(np.uint8), Context(theta, 16)


def new_levels(count: int, *, seed: int) -> tuple[Levels, Context]:
    """Levels of θ given those of some rounds ago."""
    generator = np.random.default_rng(seed)
    old = generator.integers(0, 16, count)
    new = np.clip(np.rint(old + generator.normal(0, 0.8, count)), 0, 15)
    return new.astype(np.uint8), Context(old.astype(np.uint8), 16)


def test_one_symbol_in_all_places_takes_a_table_only() -> None:
    # Two bits say that the first of the two halves, {0}, has everything: 0 and 1, each half of what is left.
    coded = encode_levels(np.zeros(1000, dtype=np.uint8), alphabet=3)
    assert coded == Coded(pb.CODEC_SYMBOLS_RANS, bytes.fromhex("0140"))


def test_two_symbols_follow_a_table_of_one_byte() -> None:
    # 4 samples have L = 3. The share 1 / 4 is nearest to index 1, 7 / 27 of 2**15: 8495. Mixed is the part [1/2, 1),
    # index 1 of 1 and 2 the lower half of it.
    symbols = levels_of(1, 0, 1, 1)
    coded = encode_levels(symbols, alphabet=2)
    table = np.array([[8495, (1 << 15) - 8495]], dtype=np.uint32)
    assert coded.data == bytes.fromhex("0180") + rans.encode(symbols, table)
    assert coded.entropy == pytest.approx(symbol_entropy_bytes(symbols))


def test_no_symbols_are_no_bytes() -> None:
    coded = encode_levels(levels_of(), alphabet=3, contexts=[Context(levels_of(), 2)])
    assert coded.data == b""
    assert decode_levels(coded, 0, alphabet=3, contexts=[Context(levels_of(), 2)]).size == 0


def test_a_context_that_says_everything_leaves_only_its_table() -> None:
    old = np.arange(3000, dtype=np.uint8) % 16
    coded = encode_levels(old, alphabet=16, contexts=[Context(old, 16)])
    assert coded.entropy == 0
    assert len(coded.data) < 35
    used = contexts_used(coded, [Context(old, 16)])
    assert used is not None
    assert (used == old).all()


def test_a_context_that_says_nothing_is_not_used() -> None:
    generator = np.random.default_rng(0)
    symbols, noise = generator.integers(0, 3, (2, 5000)).astype(np.uint8)
    coded = encode_levels(symbols, alphabet=3, contexts=[Context(noise, 16)])
    assert contexts_used(coded, [Context(noise, 16)]) is None
    assert coded.entropy == pytest.approx(symbol_entropy_bytes(symbols))


def test_two_contexts_are_used_together_where_each_says_nothing_alone() -> None:
    a, b = np.random.default_rng(0).integers(0, 2, (2, 5000)).astype(np.uint8)
    contexts = [Context(a, 2), Context(b, 2)]
    coded = encode_levels(a ^ b, alphabet=2, contexts=contexts)
    used = contexts_used(coded, contexts)
    assert used is not None
    assert (used == 2 * a + b).all()
    assert len(coded.data) < 10


def test_contexts_whose_product_is_too_large_are_not_joined() -> None:
    a, b = np.random.default_rng(0).integers(0, 2, (2, 5000)).astype(np.uint8)
    contexts = [Context(a, 16), Context(b, 16)]
    assert contexts_used(encode_levels(a ^ b, alphabet=2, contexts=contexts), contexts) is None


@given(drawn_levels)
@settings(max_examples=60)
def test_levels_come_back(drawn: tuple[Levels, int, list[Context]]) -> None:
    symbols, alphabet, contexts = drawn
    coded = encode_levels(symbols, alphabet=alphabet, contexts=contexts)
    assert (decode_levels(coded, symbols.size, alphabet=alphabet, contexts=contexts) == symbols).all()


def test_all_256_symbols_come_back() -> None:
    symbols = np.random.default_rng(0).integers(0, 256, 2000).astype(np.uint8)
    assert (decode_levels(encode_levels(symbols, alphabet=256), 2000, alphabet=256) == symbols).all()


@given(st.binary(max_size=40), st.integers(0, 60))
@settings(max_examples=100)
def test_any_bytes_are_levels_or_refused(data: bytes, count: int) -> None:
    coded = Coded(pb.CODEC_SYMBOLS_RANS, data)
    try:
        symbols = decode_levels(coded, count, alphabet=5, contexts=[Context(np.arange(count, dtype=np.uint8) % 3, 3)])
    except PayloadError:
        return
    assert symbols.shape == (count,)
    assert count == 0 or int(symbols.max()) < 5


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=60)
def test_a_changed_byte_is_refused_or_gives_other_levels(place: int, change: int) -> None:
    symbols, theta = votes(400, seed=1)
    coded = encode_levels(symbols, alphabet=3, contexts=[theta])
    data = bytearray(coded.data)
    data[place % len(data)] ^= change
    try:
        found = decode_levels(Coded(coded.codec, bytes(data)), symbols.size, alphabet=3, contexts=[theta])
    except PayloadError:
        return
    assert (found != symbols).any()


@pytest.mark.parametrize(
    "coded",
    [
        Coded(pb.CODEC_BITS, b"\0"),
        Coded(pb.CODEC_SYMBOLS_RANS, bytes.fromhex("0140"), parameter=3),
        Coded(pb.CODEC_SYMBOLS_RANS, b""),
        Coded(pb.CODEC_SYMBOLS_RANS, bytes.fromhex("0240")),
        Coded(pb.CODEC_SYMBOLS_RANS, bytes.fromhex("014000")),
        Coded(pb.CODEC_SYMBOLS_RANS, bytes.fromhex("024000")),
    ],
    ids=["another codec", "a parameter", "no bytes", "a cut table", "a byte behind", "a zero behind the table"],
)
def test_what_is_no_levels_is_refused(coded: Coded) -> None:
    with pytest.raises(PayloadError):
        decode_levels(coded, 10, alphabet=3)


def test_bytes_of_levels_where_there_are_none_are_refused() -> None:
    with pytest.raises(PayloadError, match="no symbols"):
        decode_levels(Coded(pb.CODEC_SYMBOLS_RANS, b"\0"), 0, alphabet=3)


def test_a_clients_votes_are_within_a_hundredth_of_their_conditional_entropy() -> None:
    symbols, theta = votes(KEPT, seed=2)
    coded = encode_levels(symbols, alphabet=3, contexts=[layers(KEPT), theta])
    assert len(coded.data) <= 1.01 * coded.entropy
    assert coded.entropy < 0.995 * symbol_entropy_bytes(symbols)
    assert len(divided(coded.data)[0]) <= 40


def test_a_broadcasts_levels_are_within_a_hundredth_of_their_entropy_given_old_ones() -> None:
    symbols, old = new_levels(KEPT, seed=3)
    coded = encode_levels(symbols, alphabet=16, contexts=[layers(KEPT), old])
    assert len(coded.data) <= 1.01 * coded.entropy
    assert coded.entropy < 0.6 * symbol_entropy_bytes(symbols)


def test_a_few_thousand_integers_of_floats_are_within_three_hundredths_of_their_entropy() -> None:
    generator = np.random.default_rng(4)
    symbols = np.clip(np.rint(generator.laplace(10, 1.7, 3680)), 0, 20).astype(np.uint8)
    coded = encode_levels(symbols, alphabet=21)
    assert len(coded.data) <= 1.03 * coded.entropy
