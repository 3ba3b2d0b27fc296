"""Masks as the seed of their draw: that both ends draw alike, what changed since, and what arbitrary bytes do."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.codec.bitstreams import PackedBits
from hedgerow.codec.coded import Coded
from hedgerow.codec.drawn_masks import decode_drawn_mask, drawn_mask, encode_drawn_mask, likeliest_seed
from hedgerow.codec.sections import mask_section, read_mask
from hedgerow.errors import PayloadError
from hedgerow.pruning import SaliencyName, draw_seed, initial_mask
from hedgerow.pruning.initial import DensityRuleName
from hedgerow.v1 import payload_pb2 as pb

SHAPES: list[tuple[int, ...]] = [(8, 3, 3, 3), (300, 200), (0, 4), (10, 30)]
SIZES = [216, 60_000, 0, 300]


def bits_of(mask: PackedBits) -> list[bool]:
    found: list[bool] = mask.to_bools().tolist()
    return found


def changed(mask: PackedBits, *places: int) -> PackedBits:
    bits = mask.to_bools()
    bits[list(places)] ^= True
    return PackedBits.from_bools(bits)


def test_the_largest_numbers_are_kept() -> None:
    # NumPy's doubles are the first 53 bits of the same words: 0.64, 0.27, 0.04, 0.02 and 0.81, 0.91, 0.61.
    numbers = np.random.Generator(np.random.PCG64(0)).random(7)
    assert numbers.round(2).tolist() == [0.64, 0.27, 0.04, 0.02, 0.81, 0.91, 0.61]
    assert bits_of(drawn_mask(0, kept=[1, 2], sizes=[4, 3])) == [True, False, False, False, True, True, False]


@pytest.mark.parametrize(("kept", "size"), [(0, 5), (5, 5), (0, 0)])
def test_none_and_all_need_no_numbers(kept: int, size: int) -> None:
    assert bits_of(drawn_mask(3, kept=[kept], sizes=[size])) == [bool(kept)] * size


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_as_many_are_kept_as_are_said(seed: int, share: float) -> None:
    kept = [round(share * size) for size in SIZES]
    mask, start = drawn_mask(seed, kept=kept, sizes=SIZES), 0
    for count, size in zip(kept, SIZES, strict=True):
        assert mask.ones_between(start, start + size) == count
        start += size


@pytest.mark.parametrize("rule", ["uniform", "erk", "igq", "global"])
@pytest.mark.parametrize("seed", [0, 2**62 + 12345])
def test_random_scores_are_those_of_the_draw(rule: DensityRuleName, seed: int) -> None:
    random: SaliencyName = "random"
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(200, 300), nn.Linear(30, 10))
    mask = initial_mask(model, (3, 7, 7), saliency=random, rule=rule, density=0.05, iterations=1, seed=seed)
    drawn = drawn_mask(draw_seed(seed), kept=list(mask.layer_kept().values()), sizes=[216, 60_000, 300])
    assert drawn.data.tobytes() == mask.packed()


def test_random_scores_leave_the_global_generator_alone() -> None:
    model = nn.Linear(50, 4)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    initial_mask(model, (50,), saliency="random", rule="erk", density=0.5, iterations=1, seed=1)
    assert torch.rand(1) == expected


def test_a_drawn_mask_is_its_seed_and_its_counts() -> None:
    mask = drawn_mask(0x01020304, kept=[20, 3000, 0, 300], sizes=SIZES)
    coded = encode_drawn_mask(mask, shapes=SHAPES, seed=0x01020304)
    assert coded == Coded(pb.CODEC_MASK_DRAWN, bytes.fromhex("0403020114b817ac02"), entropy=9.0)
    assert decode_drawn_mask(coded, mask.count, shapes=SHAPES).data.tobytes() == mask.data.tobytes()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, sum(SIZES) - 1), max_size=40))
def test_what_changed_since_travels_too(seed: int, places: list[int]) -> None:
    mask = changed(drawn_mask(7, kept=[20, 3000, 0, 30], sizes=SIZES), *places)
    # Of another draw almost all weights have changed, and it is the mask all the same.
    coded = encode_drawn_mask(mask, shapes=SHAPES, seed=seed)
    assert decode_drawn_mask(coded, mask.count, shapes=SHAPES).data.tobytes() == mask.data.tobytes()


def test_a_few_changes_are_a_few_bytes() -> None:
    mask = drawn_mask(7, kept=[20, 3000, 0, 30], sizes=SIZES)
    kept, pruned = np.flatnonzero(mask.to_bools()), np.flatnonzero(~mask.to_bools())
    moved = changed(mask, *kept[::300].tolist(), *pruned[::6000].tolist())
    assert len(encode_drawn_mask(moved, shapes=SHAPES, seed=7).data) < 60


def test_a_section_is_the_shortest_way_and_the_right_draw_is_found() -> None:
    mask = drawn_mask(7, kept=[20, 3000, 0, 300], sizes=SIZES)
    moved = changed(mask, 250, 260, 270)
    assert likeliest_seed(moved, sizes=SIZES, seeds=[5, 6, 7, 8]) == 7
    section = mask_section(moved, shapes=SHAPES, seeds=[5, 6, 7, 8])
    assert (section.codec, section.data[:4].hex()) == (pb.CODEC_MASK_DRAWN, "07000000")
    assert read_mask({pb.KIND_MASK: section}, moved.count, shapes=SHAPES).data.tobytes() == moved.data.tobytes()
    # Who knows of no such draw codes what there is.
    other = mask_section(moved, shapes=SHAPES, seeds=[5, 6])
    assert other == mask_section(moved, shapes=SHAPES)
    assert other.codec == pb.CODEC_MASK_RANS


GOOD = bytes.fromhex("0403020114b81700")


@pytest.mark.parametrize(
    ("coded", "message"),
    [
        (Coded(pb.CODEC_MASK_DRAWN, GOOD, 1), "parameter 1"),
        (Coded(pb.CODEC_MASK_RANS, GOOD), "codec 9"),
        (Coded(pb.CODEC_MASK_DRAWN, b""), "does not end"),
        (Coded(pb.CODEC_MASK_DRAWN, GOOD[:6]), "does not end"),
        (Coded(pb.CODEC_MASK_DRAWN, bytes.fromhex("04030201d901")), "217, and has to be below 217"),
        (Coded(pb.CODEC_MASK_DRAWN, GOOD + b"\x01"), "does not end"),
        (Coded(pb.CODEC_MASK_DRAWN, GOOD + b"\x63\x00"), "codec 99 is none of bits"),
        (Coded(pb.CODEC_MASK_DRAWN, GOOD + b"\x01\x00\x00"), "bits take"),
    ],
)
def test_other_bytes_are_refused(coded: Coded, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        decode_drawn_mask(coded, sum(SIZES), shapes=SHAPES)


def test_no_seed_of_no_weights_is_refused() -> None:
    with pytest.raises(PayloadError, match="the seed of a mask is missing"):
        decode_drawn_mask(Coded(pb.CODEC_MASK_DRAWN, b""), 0, shapes=[])


@settings(deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_are_a_mask_or_refused(data: bytes) -> None:
    try:
        mask = decode_drawn_mask(Coded(pb.CODEC_MASK_DRAWN, data), 516, shapes=[(8, 3, 3, 3), (10, 30)])
    except PayloadError:
        return
    assert mask.count == 516
