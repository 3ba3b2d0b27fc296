"""Pruning and growing while training: which tensors, how many weights, and which; a density never changes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.config import AdjustmentSettings, Experiment
from hedgerow.pruning import Adjustment, Gradients, Mask, Moves, adjusted, adjustment_of, blocks_of

Found = dict[str, tuple[np.ndarray, np.ndarray]]


def found(**gradients: dict[int, float]) -> Found:
    return {
        name: (np.array(sorted(own), dtype=np.int64), np.array([own[p] for p in sorted(own)], dtype=np.float32))
        for name, own in gradients.items()
    }


def mask_of(**bits: str) -> Mask:
    return Mask({name: torch.tensor([bit == "1" for bit in own]) for name, own in bits.items()})


def bits_of(mask: Mask) -> dict[str, str]:
    return {name: "".join(map(str, bits.int().tolist())) for name, bits in mask.items()}


def scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def wide_mask(*, kept: int = 100, pruned: int = 900, tensors: int = 4) -> Mask:
    return mask_of(**{f"l{i}": "1" * kept + "0" * pruned for i in range(tensors)})


def test_blocks_go_from_the_output_to_the_input() -> None:
    assert blocks_of(["in", "a", "b", "out"], 2) == [("b", "out"), ("in", "a")]


def test_what_is_left_over_goes_to_the_first_blocks() -> None:
    assert blocks_of("abcdefgh", 5) == [("g", "h"), ("e", "f"), ("c", "d"), ("b",), ("a",)]


def test_there_are_no_more_blocks_than_tensors() -> None:
    assert blocks_of(mask_of(a="1", b="1"), 5) == [("b",), ("a",)]


@given(st.integers(1, 30), st.integers(1, 12))
@settings(max_examples=40)
def test_blocks_have_every_tensor_once_and_are_about_equal(tensors: int, count: int) -> None:
    names = [str(i) for i in range(tensors)]
    blocks = blocks_of(names, count)
    assert [name for block in reversed(blocks) for name in block] == names
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 1
    assert len(blocks) == min(count, tensors)


def test_counts_fall_as_half_a_cosine() -> None:
    # rate/2 · (1 + cos(π · 10 / 40)) · 100 = 15 · (1 + 0.7071) = 25.6, then 15 · 1 and 15 · (1 - 0.7071) = 4.4.
    plan = AdjustmentSettings(every=10, until=30, rate=0.3)
    counts = [adjustment_of(r, settings=plan, rounds=99, mask=wide_mask(tensors=1)) for r in (10, 20, 30)]
    assert counts == [Adjustment(n, 0, goes={"l0": count}, comes={"l0": count}) for n, count in enumerate((26, 15, 4))]


def test_blocks_take_turns() -> None:
    plan = AdjustmentSettings(every=4, until=100, blocks=2)
    turns = [adjustment_of(r, settings=plan, rounds=100, mask=wide_mask()) for r in (4, 8, 12)]
    assert [(t.number, t.block, list(t.goes)) for t in turns if t is not None] == [
        (0, 0, ["l2", "l3"]),
        (1, 1, ["l0", "l1"]),
        (2, 0, ["l2", "l3"]),
    ]


@pytest.mark.parametrize("round", [0, 1, 9, 11, 60])
def test_other_rounds_leave_the_mask(round: int) -> None:
    plan = AdjustmentSettings(every=10)
    assert adjustment_of(round, settings=plan, rounds=100, mask=wide_mask()) is None


def test_half_of_the_rounds_may_adjust_where_nothing_is_said() -> None:
    plan = AdjustmentSettings(every=10)
    assert adjustment_of(50, settings=plan, rounds=100, mask=wide_mask()) is not None
    assert adjustment_of(50, settings=plan, rounds=99, mask=wide_mask()) is None


def test_without_every_there_is_none() -> None:
    assert adjustment_of(10, settings=AdjustmentSettings(), rounds=100, mask=wide_mask()) is None


def test_a_tensor_keeps_a_weight_and_exchanges_no_more_than_are_pruned() -> None:
    plan = AdjustmentSettings(every=1, until=1000, rate=1.0)
    mask = mask_of(few="110000", full="1111111110", whole="1111", one="1000")
    made = adjustment_of(1, settings=plan, rounds=2000, mask=mask)
    assert made is not None
    assert made.goes == {"few": 1, "full": 1}


def test_the_smallest_go_and_the_largest_gradients_come() -> None:
    mask = mask_of(a="11100000", b="11")
    gradients = found(a={3: 0.1, 5: -0.9, 7: 0.5})
    after = adjusted(mask, scores=scores(0.3, 0.1, 0.2, 9, 9), gradients=gradients, goes={"a": 2}, comes={"a": 2})
    assert bits_of(after) == {"a": "10000101", "b": "11"}
    assert bits_of(mask) == {"a": "11100000", "b": "11"}


def test_of_equals_the_lower_positions_go_and_come() -> None:
    mask = mask_of(a="01110000")
    after = adjusted(
        mask, scores=scores(1, 1, 1), gradients=found(a={0: -2, 5: 2, 7: 2}), goes={"a": 2}, comes={"a": 2}
    )
    assert bits_of(after) == {"a": "10010100"}


def test_a_gradient_of_nothing_grows_nothing() -> None:
    mask = mask_of(a="1110000")
    after = adjusted(
        mask, scores=scores(1, 2, 3), gradients=found(a={3: 0.0, 4: -0.0, 6: 1e-9}), goes={"a": 3}, comes={"a": 3}
    )
    assert bits_of(after) == {"a": "0110001"}


@pytest.mark.parametrize("gradients", [{}, found(a={}), found(a={4: 0.0}), found(b={2: 1.0})])
def test_without_gradients_the_mask_is_the_same_object(gradients: Gradients) -> None:
    mask = mask_of(a="1110000", b="110")
    assert adjusted(mask, scores=scores(1, 2, 3, 4, 5), gradients=gradients, goes={"a": 2}, comes={"a": 2}) is mask


@st.composite
def drawn(draw: st.DrawFn) -> tuple[Mask, np.ndarray, Found, dict[str, int]]:
    bits = {f"l{i}": draw(st.lists(st.booleans(), min_size=1, max_size=30)) for i in range(draw(st.integers(1, 4)))}
    mask = Mask({name: torch.tensor(own) for name, own in bits.items()})
    # Few different ones, so that there are ties.
    some = st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0])
    kept = np.array(draw(st.lists(some, min_size=mask.kept, max_size=mask.kept)), dtype=np.float32)
    gradients, counts = {}, {}
    for name, own in bits.items():
        pruned = [p for p, bit in enumerate(own) if not bit]
        at = sorted(draw(st.sets(st.sampled_from(pruned)))) if pruned else []
        values = [draw(st.sampled_from([0.0, -0.0, 1.0, -1.0, 3.0, -1e-30])) for _ in at]
        if draw(st.booleans()):
            gradients[name] = (np.array(at, dtype=np.int64), np.array(values, dtype=np.float32))
        if draw(st.booleans()):
            counts[name] = draw(st.integers(0, 12))
    return mask, np.abs(kept), gradients, counts


@given(drawn())
@settings(max_examples=120)
def test_every_tensor_keeps_its_density_and_exchanges_its_count(
    case: tuple[Mask, np.ndarray, Found, dict[str, int]],
) -> None:
    mask, own, gradients, counts = case
    after = adjusted(mask, scores=own, gradients=gradients, goes=counts, comes=counts)
    assert after.layer_kept() == mask.layer_kept()
    assert after.shapes == mask.shapes
    begin = 0
    for name, kept in mask.layer_kept().items():
        part = own[begin : begin + kept]
        begin += kept
        positions, values = gradients.get(name, (np.zeros(0, dtype=np.int64), scores()))
        count = min(counts.get(name, 0), kept, int(np.count_nonzero(values)))
        before, new = mask[name].numpy(), after[name].numpy()
        # By sorting lists, which says plainly which ones they are.
        goes = sorted(zip(part, np.flatnonzero(before), strict=True))[:count]
        comes = sorted((-abs(v), p) for v, p in zip(values, positions, strict=True) if v != 0)[:count]
        assert sorted(p for _, p in goes) == np.flatnonzero(before & ~new).tolist()
        assert sorted(p for _, p in comes) == np.flatnonzero(new & ~before).tolist()
    assert (after is mask) == (Moves.between(mask, after).grown == 0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pruning": {"density": 1.0}}, "no weight is pruned that could grow"),
        ({"rounds": 19}, "round 9 is the last that may adjust"),
        ({"adjustment": {"every": 10, "until": 9}}, "set every to 9 or less, or until to 10 or more"),
        ({"privacy": {"vote_epsilon": 1.0}}, "sent without noise"),
        ({"privacy": {"clip": 1.0, "noise": 1.0}}, "sent without noise"),
    ],
)
def test_adjustments_that_cannot_be_made_are_refused(changes: dict[str, object], says: str) -> None:
    plain = {"rounds": 30, "adjustment": {"every": 10}}
    assert Experiment.model_validate(plain).adjustment.last(30) == 15
    with pytest.raises(ValueError, match=says):
        Experiment.model_validate(plain | changes)


def test_a_tensor_that_is_kept_whole_takes_no_adjustment() -> None:
    half = torch.arange(40).view(4, 10) % 2 == 0
    mask = Mask({"a": half, "b": torch.ones(4, 10, dtype=torch.bool), "c": half})
    settings = AdjustmentSettings(every=1, until=9, blocks=3)
    planned = [adjustment_of(round, settings=settings, rounds=20, mask=mask) for round in (1, 2, 3)]
    assert [list(one.goes) for one in planned if one is not None] == [["c"], ["a"], ["c"]]


def test_a_mask_that_keeps_everything_is_never_adjusted() -> None:
    dense = Mask.dense({"a": (2, 3)})
    assert adjustment_of(1, settings=AdjustmentSettings(every=1), rounds=20, mask=dense) is None
