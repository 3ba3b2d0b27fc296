"""Masks and what changes in them: round trips, what structure saves, and what arbitrary bytes do."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.codec import densities
from hedgerow.codec import masks as coding
from hedgerow.codec.adaptive import Reader, Writer
from hedgerow.codec.coded import Coded
from hedgerow.codec.densities import Shape
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.symbols import Bits, pack_bits
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

SHAPES: list[Shape] = [(32, 3, 3, 3), (64, 32, 3, 3), (100, 1600), (10, 100)]
"""Of a small convolutional network."""

drawn_masks = st.lists(st.lists(st.integers(0, 6), max_size=4).map(tuple), max_size=3).flatmap(
    lambda shapes: st.tuples(hnp.arrays(np.bool_, sum(math.prod(shape) for shape in shapes)), st.just(shapes))
)


def encode_mask(bits: Bits, *, shapes: list[Shape]) -> Coded:
    return coding.encode_mask(PackedBits.from_bools(bits), shapes=shapes)


def decode_mask(coded: Coded, count: int, *, shapes: list[Shape]) -> Bits:
    return coding.decode_mask(coded, count, shapes=shapes).to_bools()


def encode_mask_delta(new: Bits, old: Bits) -> Coded:
    return coding.encode_mask_delta(PackedBits.from_bools(new), PackedBits.from_bools(old))


def decode_mask_delta(coded: Coded, old: Bits) -> Bits:
    return coding.decode_mask_delta(coded, PackedBits.from_bools(old)).to_bools()


def count_of(shapes: list[Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def entropy_of(bits: Bits) -> float:
    return binary_entropy_bytes(int(np.count_nonzero(bits)), bits.size)


def like_synflow(shapes: list[Shape], *, density: float, seed: int) -> Bits:
    """The largest scores, which are products of a size, a factor of the output and a factor of the input."""
    generator = np.random.default_rng(seed)
    scores = []
    for shape in shapes:
        of_output, of_input = (np.exp(generator.normal(0, 1.5, length)) for length in shape[:2])
        factors = np.multiply.outer(of_output, of_input).reshape(*shape[:2], *(1,) * (len(shape) - 2))
        scores.append((factors * np.abs(generator.normal(size=shape))).ravel() / math.sqrt(math.prod(shape)))
    flat = np.concatenate(scores)
    kept = round(density * flat.size)
    bits: Bits = flat >= np.partition(flat, -kept)[-kept]
    return bits


def at_random(shapes: list[Shape], *, density: float, seed: int) -> Bits:
    bits: Bits = np.random.default_rng(seed).random(count_of(shapes)) < density
    return bits


@pytest.mark.parametrize(("kept", "expected"), [(True, "0140"), (False, "00")])
def test_a_tensor_that_is_kept_whole_or_not_at_all_takes_two_bits(kept: bool, expected: str) -> None:
    coded = encode_mask(np.full(1000, kept), shapes=[(10, 100)])
    assert coded == Coded(pb.CODEC_MASK_RANS, bytes.fromhex(expected))


def test_a_few_bits_travel_as_they_are() -> None:
    bits = np.array([True, False, True, True, False, False, True, False, True])
    coded = encode_mask(bits, shapes=[(3, 3)])
    assert coded == Coded(pb.CODEC_BITS, pack_bits(bits), entropy=entropy_of(bits))


def test_rows_and_columns_that_are_empty_or_whole_leave_nothing_to_say() -> None:
    block = np.zeros((200, 300), dtype=np.bool_)
    block[::2, 7::50] = True
    coded = encode_mask(block.ravel(), shapes=[(200, 300)])
    assert coded.codec == pb.CODEC_MASK_RANS
    assert coded.entropy == 0
    assert (decode_mask(coded, block.size, shapes=[(200, 300)]) == block.ravel()).all()


def test_a_weight_in_an_empty_row_of_a_whole_column_is_not_kept() -> None:
    block = np.zeros((4, 4000), dtype=np.bool_)
    block[1:, ::3] = True
    block[0, 3:5] = True
    coded = encode_mask(block.ravel(), shapes=[block.shape])
    assert (decode_mask(coded, block.size, shapes=[block.shape]) == block.ravel()).all()


@given(drawn_masks)
@settings(max_examples=80)
def test_masks_of_any_shapes_come_back(drawn: tuple[Bits, list[Shape]]) -> None:
    bits, shapes = drawn
    assert (decode_mask(encode_mask(bits, shapes=shapes), bits.size, shapes=shapes) == bits).all()


@given(drawn_masks, st.integers(1, 9))
@settings(max_examples=60)
def test_how_many_weights_are_coded_at_once_changes_nothing(drawn: tuple[Bits, list[Shape]], block: int) -> None:
    bits, shapes = drawn
    old = np.roll(bits, 1)
    whole, delta = encode_mask(bits, shapes=shapes), encode_mask_delta(bits, old)
    with pytest.MonkeyPatch.context() as patch:
        for module in (coding, densities):
            patch.setattr(module, "_BLOCK", block)
        assert encode_mask(bits, shapes=shapes) == whole
        assert encode_mask_delta(bits, old) == delta
        assert (decode_mask(whole, bits.size, shapes=shapes) == bits).all()
        assert (decode_mask_delta(delta, old) == bits).all()


@given(drawn_masks)
@settings(max_examples=60)
def test_a_writer_and_a_reader_have_the_same_densities_and_know_how_many_are_undecided(
    drawn: tuple[Bits, list[Shape]],
) -> None:
    bits, shapes = drawn
    writer, start = Writer(), 0
    written = []
    for shape in shapes:
        stop = start + math.prod(shape)
        if stop > start:
            written.append((densities.code_tensor(writer, bits[start:stop], shape)[0], shape, bits[start:stop]))
        start = stop
    reader = Reader(writer.finish())
    for sent, shape, here in written:
        found, _ = densities.code_tensor(reader, None, shape)
        levels = found.of(0, found.shape[0])
        assert levels.tolist() == sent.of(0, sent.shape[0]).tolist()
        assert found.undecided == sent.undecided == np.count_nonzero((levels != 0) & (levels != densities.GRID))
        assert not here[levels == 0].any()
        assert here[levels == densities.GRID].all()


@pytest.mark.parametrize("density", [0.001, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("seed", [0, 1])
def test_masks_with_structure_come_back(density: float, seed: int) -> None:
    bits = like_synflow(SHAPES, density=density, seed=seed)
    coded = encode_mask(bits, shapes=SHAPES)
    assert coded.codec == pb.CODEC_MASK_RANS
    assert (decode_mask(coded, bits.size, shapes=SHAPES) == bits).all()


@pytest.mark.parametrize("density", [0.05, 0.1])
def test_a_mask_without_structure_is_within_a_hundredth_of_its_entropy(density: float) -> None:
    bits = at_random(SHAPES, density=density, seed=2)
    assert len(encode_mask(bits, shapes=SHAPES).data) <= 1.01 * entropy_of(bits)


@pytest.mark.parametrize("density", [0.05, 0.1])
def test_a_mask_of_products_takes_less_than_half_of_its_entropy(density: float) -> None:
    bits = like_synflow(SHAPES, density=density, seed=3)
    coded = encode_mask(bits, shapes=SHAPES)
    assert coded.entropy < len(coded.data) <= 0.45 * entropy_of(bits)


def test_layers_of_different_densities_are_within_a_hundredth_of_the_sum_of_their_entropies() -> None:
    parts = [at_random([shape], density=0.4 / (i + 1), seed=i) for i, shape in enumerate(SHAPES)]
    coded = encode_mask(np.concatenate(parts), shapes=SHAPES)
    assert len(coded.data) <= 1.01 * sum(entropy_of(part) for part in parts)


@given(st.binary(max_size=60))
@settings(max_examples=100)
def test_any_bytes_are_a_mask_or_refused(data: bytes) -> None:
    try:
        bits = decode_mask(Coded(pb.CODEC_MASK_RANS, data), 420, shapes=[(4, 5, 3), (0, 7), (12, 30)])
    except PayloadError:
        return
    assert bits.shape == (420,)
    assert bits.dtype == np.bool_


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=60)
def test_a_changed_byte_is_refused_or_gives_another_mask(place: int, change: int) -> None:
    shapes: list[Shape] = [(20, 30)]
    bits = like_synflow(shapes, density=0.1, seed=4)
    coded = encode_mask(bits, shapes=shapes)
    data = bytearray(coded.data)
    data[place % len(data)] ^= change
    try:
        found = decode_mask(Coded(coded.codec, bytes(data)), bits.size, shapes=shapes)
    except PayloadError:
        return
    assert (found != bits).any()


@pytest.mark.parametrize(
    "coded",
    [
        Coded(pb.CODEC_FLOAT32, b"\0"),
        Coded(pb.CODEC_MASK_RANS, bytes.fromhex("0140"), parameter=1),
        Coded(pb.CODEC_BITS, bytes(125), parameter=1),
        Coded(pb.CODEC_BITS, bytes(124)),
        Coded(pb.CODEC_MASK_RANS, b""),
        Coded(pb.CODEC_MASK_RANS, bytes.fromhex("0240")),
        Coded(pb.CODEC_MASK_RANS, bytes.fromhex("024000")),
        Coded(pb.CODEC_MASK_RANS, bytes.fromhex("014001")),
    ],
    ids=["codec", "parameter", "parameter of bits", "cut bits", "no bytes", "cut densities", "a zero", "a byte behind"],
)
def test_what_is_no_mask_is_refused(coded: Coded) -> None:
    with pytest.raises(PayloadError):
        decode_mask(coded, 1000, shapes=[(10, 100)])


def test_bytes_of_a_mask_without_weights_are_refused() -> None:
    with pytest.raises(PayloadError, match="no weights"):
        decode_mask(Coded(pb.CODEC_MASK_RANS, b"\0"), 0, shapes=[(0, 3)])


def test_nothing_changed_takes_no_bytes() -> None:
    old = at_random(SHAPES, density=0.05, seed=5)
    coded = encode_mask_delta(old, old)
    assert coded.data == b""
    assert (decode_mask_delta(coded, old) == old).all()


@given(st.integers(0, 60).flatmap(lambda n: st.tuples(hnp.arrays(np.bool_, n), hnp.arrays(np.bool_, n))))
@settings(max_examples=80)
def test_any_mask_comes_back_from_its_delta(masks: tuple[Bits, Bits]) -> None:
    new, old = masks
    before = old.copy()
    assert (decode_mask_delta(encode_mask_delta(new, old), old) == new).all()
    assert (old == before).all()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_a_delta_is_near_the_entropy_of_what_is_pruned_and_what_grows(share: float) -> None:
    generator = np.random.default_rng(6)
    old = at_random(SHAPES, density=0.1, seed=7)
    kept, pruned = np.flatnonzero(old), np.flatnonzero(~old)
    moved = round(share * kept.size)
    new = old.copy()
    new[generator.choice(kept, moved, replace=False)] = False
    new[generator.choice(pruned, moved, replace=False)] = True
    coded = encode_mask_delta(new, old)
    bound = binary_entropy_bytes(moved, kept.size) + binary_entropy_bytes(moved, pruned.size)
    assert len(coded.data) <= 1.01 * bound + 8
    assert (decode_mask_delta(coded, old) == new).all()


@given(
    st.sampled_from([pb.CODEC_BITS, pb.CODEC_GAPS_RANS, pb.CODEC_BITS_RANS]),
    st.binary(max_size=30),
    st.integers(0, 300),
)
@settings(max_examples=100)
def test_any_bytes_are_a_delta_or_refused(codec: pb.Codec, data: bytes, parameter: int) -> None:
    old = at_random([(150,)], density=0.2, seed=8)
    try:
        new = decode_mask_delta(Coded(codec, data, parameter), old)
    except PayloadError:
        return
    assert new.shape == old.shape
