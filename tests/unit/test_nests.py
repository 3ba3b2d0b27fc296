"""Masks inside masks: which weights of a network devices with less memory train."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.budget.nests import nested, nests_of, within
from hedgerow.codec import Bits, Floats
from hedgerow.pruning import Mask, Moves

MASK = Mask(
    {
        "a": torch.tensor([[True, False, True], [True, True, False]]),
        "b": torch.tensor([False, True]),
        "c": torch.zeros(3, dtype=torch.bool),
    }
)
"""Keeps 4, 1 and 0 weights."""
SCORES = np.array([1, 4, 2, 3, 5], dtype=np.float32)


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    bits = [draw(st.lists(st.booleans(), min_size=size, max_size=size)) for size in sizes]
    bits[0][0] = True
    return Mask({f"t{number}": torch.tensor(one) for number, one in enumerate(bits)})


@st.composite
def scored(draw: st.DrawFn) -> tuple[Mask, Floats, tuple[float, ...]]:
    mask = draw(masks())
    scores = draw(st.lists(st.sampled_from([0.0, 1.0, 1.05, 2.0]), min_size=mask.kept, max_size=mask.kept))
    return mask, np.array(scores, dtype=np.float32), draw(st.sampled_from([(1.0, 0.5), (1.0, 0.7, 0.3, 0.01)]))


def bools(*values: int) -> Bits:
    return np.array(values, dtype=np.bool_)


def test_each_tensor_keeps_its_highest_scores() -> None:
    nest = nested(MASK, SCORES, fraction=0.5)
    assert nest["a"].tolist() == [[False, False, True], [False, True, False]]
    assert nest["b"].tolist() == [False, True]
    assert nest.layer_kept() == {"a": 2, "b": 1, "c": 0}
    assert nest.shapes == MASK.shapes


def test_halves_are_rounded_up_and_one_weight_stays_at_least() -> None:
    assert nested(MASK, SCORES, fraction=0.375).layer_kept()["a"] == 2
    assert nested(MASK, SCORES, fraction=0.01).layer_kept() == {"a": 1, "b": 1, "c": 0}
    assert nested(MASK, SCORES, fraction=1.0) == MASK


def test_levels_are_told_by_their_places_among_the_kept_weights() -> None:
    half, quarter = nests_of(MASK, SCORES, fractions=(1.0, 0.5, 0.25))
    assert half.tolist() == [False, True, False, True, True]
    assert quarter.tolist() == [False, True, False, False, True]
    assert within(MASK, half) == nested(MASK, SCORES, fraction=0.5)
    assert within(MASK, np.ones(5, dtype=np.bool_)) == MASK
    assert nests_of(MASK, SCORES, fractions=(1.0,)) == ()


def test_what_is_in_stays_until_it_is_beaten_by_more_than_a_tenth() -> None:
    held = Mask({"a": torch.tensor([[True, False, False], [True, False, False]]), **dict(list(MASK.items())[1:])})
    close = np.array([1, 1.05, 1, 1.09, 5], dtype=np.float32)
    assert nested(MASK, close, fraction=0.5, keep=held) == held
    assert nested(MASK, close, fraction=0.5)["a"].tolist() == [[False, False, True], [False, True, False]]
    beaten = np.array([1, 1.05, 1, 1.11, 5], dtype=np.float32)
    assert nested(MASK, beaten, fraction=0.5, keep=held)["a"].reshape(-1)[4]


def test_what_is_in_stays_where_all_scores_are_equal() -> None:
    scores = np.zeros(5, dtype=np.float32)
    for held in ((1, 1, 0, 0, 1), (0, 0, 1, 1, 1), (1, 0, 0, 1, 1)):
        assert nests_of(MASK, scores, fractions=(1.0, 0.5), keep=(bools(*held),))[0].tolist() == list(map(bool, held))


def test_a_part_that_lost_weights_is_filled_up_with_the_best_others() -> None:
    # It had weights 0 and 3 of a; the mask has pruned one of them meanwhile.
    keep = (bools(1, 0, 0, 0, 1),)
    (nest,) = nests_of(MASK, SCORES, fractions=(1.0, 0.5), keep=keep)
    assert nest.tolist() == [False, True, False, True, True], "1 is beaten by 4 and by 3"
    (nest,) = nests_of(MASK, np.ones(5, dtype=np.float32), fractions=(1.0, 0.5), keep=keep)
    assert nest[0]
    assert nest.sum() == 3


def test_equal_scores_are_drawn_and_not_taken_from_the_first_positions() -> None:
    mask = Mask({"w": torch.ones(100, 20, dtype=torch.bool)})
    scores = np.ones(2000, dtype=np.float32)
    nest = nested(mask, scores, fraction=0.25)
    rows = nest["w"].sum(1)
    assert nest.kept == 500
    assert int((rows == 0).sum()) < 10, "each output of 20 keeps 5 of its weights on average"
    assert nested(mask, scores, fraction=0.25) == nest
    assert nested(mask, scores, fraction=0.25, seed=1) != nest


def test_the_drawn_order_belongs_to_positions_whatever_else_is_kept() -> None:
    bits = torch.arange(60) % 3 > 0
    mask, whole = Mask({"w": bits}), Mask({"w": torch.ones(60, dtype=torch.bool)})
    order = nested(whole, np.ones(60, dtype=np.float32), fraction=0.5)["w"]
    nest = nested(mask, np.ones(40, dtype=np.float32), fraction=0.5)["w"]
    first = int((order & bits).sum())
    assert 0 < first < 40
    assert torch.equal(nest & order, nest) if first >= 20 else torch.equal(order & bits & nest, order & bits)


@given(scored(), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_parts_are_inside_each_other_and_of_exact_sizes(
    case: tuple[Mask, Floats, tuple[float, ...]], seed: int
) -> None:
    mask, scores, fractions = case
    nests = nests_of(mask, scores, fractions=fractions, seed=seed)
    assert len(nests) == len(fractions) - 1
    for outer, inner in pairwise((np.ones(mask.kept, dtype=np.bool_), *nests)):
        assert not (inner & ~outer).any()
    for nest, fraction in zip(nests, fractions[1:], strict=True):
        counts = within(mask, nest).layer_kept()
        assert counts == {n: min(k, max(1, int(fraction * k + 0.5))) for n, k in mask.layer_kept().items()}
    for name, part in zip(mask, np.split(nests[0], np.cumsum(list(mask.layer_kept().values()))[:-1]), strict=True):
        own = dict(zip(mask, np.split(scores, np.cumsum(list(mask.layer_kept().values()))[:-1]), strict=True))[name]
        assert not part.any() or part.all() or own[part].min() >= own[~part].max()


@given(scored(), st.data())
@settings(max_examples=30, deadline=None)
def test_parts_stay_parts_after_the_mask_has_changed(
    case: tuple[Mask, Floats, tuple[float, ...]], data: st.DataObject
) -> None:
    mask, scores, fractions = case
    nests = nests_of(mask, scores, fractions=fractions)
    # Each tensor prunes one weight and grows another, where it can.
    tensors = dict(mask.items())
    for name, bits in tensors.items():
        kept, pruned = np.flatnonzero(bits.numpy()), np.flatnonzero(~bits.numpy())
        if kept.size and pruned.size:
            bits[int(data.draw(st.sampled_from(kept.tolist())))] = False
            bits[int(data.draw(st.sampled_from(pruned.tolist())))] = True
            tensors[name] = bits
    new = Mask(tensors)
    moves = Moves.between(mask, new)
    moved = moves.carried(scores, grown=0)
    keep = [moves.carried(nest, grown=False) for nest in nests]
    again = nests_of(new, moved, fractions=fractions, keep=keep)
    for before, inner, outer in zip(nests, again, (np.ones(new.kept, dtype=np.bool_), *again), strict=False):
        assert not (inner & ~outer).any()
        assert within(new, inner).layer_kept() == within(mask, before).layer_kept()
    once_more = nests_of(new, moved, fractions=fractions, keep=again)
    assert all(map(np.array_equal, once_more, again)), "nothing is left to change"
