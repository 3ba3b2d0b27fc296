"""Densities that fall while a network trains: the cubic schedule, and which layers lose how much."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.config import AdjustmentSettings, Experiment, PruningSettings, load_experiment
from hedgerow.errors import PruningError
from hedgerow.pruning import Mask, adjusted, adjustment_of, kept_count, lowest_together, scheduled_density
from tests.unit.test_adjustment import mask_of, scores

CUBIC = AdjustmentSettings(every=2, until=9, density="cubic", start_density=1.0)


def test_the_density_falls_by_the_cube_of_what_is_left() -> None:
    # The last adjustment is in round 8, after 4: 0.2 + 0.8 · (1, 27/64, 1/8, 1/64, 0).
    found = [scheduled_density(round, settings=CUBIC, density=0.2, rounds=30) for round in (0, 2, 4, 6, 8)]
    assert found == pytest.approx([1.0, 0.5375, 0.3, 0.2125, 0.2], abs=1e-15)
    assert found[-1] == 0.2
    assert scheduled_density(30, settings=CUBIC, density=0.2, rounds=30) == 0.2


def test_a_constant_density_is_that_of_the_pruning() -> None:
    assert scheduled_density(5, settings=AdjustmentSettings(every=2), density=0.2, rounds=30) == 0.2


def test_with_a_uniform_rule_all_layers_lose_alike_and_nothing_comes() -> None:
    mask = Mask.dense({"a": (10, 10), "b": (30, 10)})
    made = adjustment_of(
        2, settings=CUBIC, rounds=30, mask=mask, pruning=PruningSettings(density=0.2, rule="uniform", saliency="random")
    )
    # 0.5375 · 400 = 215.
    assert made is not None
    assert (made.number, made.block, dict(made.comes), made.together) == (0, 0, {}, 0)
    assert {name: 100 * (1 + 2 * (name == "b")) - count for name, count in made.goes.items()} == {"a": 54, "b": 161}


def test_by_the_global_rule_the_scores_decide_and_every_layer_keeps_its_largest() -> None:
    mask = mask_of(a="11110", b="111")
    pruning = PruningSettings(density=0.5, rule="global", saliency="magnitude")
    plan = AdjustmentSettings(every=1, until=2, density="cubic", start_density=0.875)
    made = adjustment_of(2, settings=plan, rounds=9, mask=mask, pruning=pruning)
    assert made is not None
    assert (dict(made.goes), made.together) == ({}, 3)
    own = scores(5, 1, 6, 7, 0.5, 0.25, 0.125)
    assert lowest_together(own, layers=mask.layer_kept(), count=3) == {"a": 1, "b": 2}


def test_of_equal_scores_of_all_layers_the_lower_positions_go() -> None:
    assert lowest_together(np.ones(40, dtype=np.float32), layers={"a": 20, "b": 0, "c": 20}, count=21) == {
        "a": 19,
        "c": 2,
    }


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=5),
    st.floats(0.3, 0.9),
    st.sampled_from(["uniform", "erk", "global"]),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_every_adjustment_keeps_exactly_what_the_schedule_says_and_no_layer_grows(
    shapes: list[tuple[int, int]], density: float, rule: str, seed: int
) -> None:
    mask = Mask.dense({f"l{i}": shape for i, shape in enumerate(shapes)})
    pruning = PruningSettings.model_validate({"density": density, "rule": rule, "saliency": "random"})
    random = np.random.default_rng(seed)
    if round(mask.size * density) < len(shapes):
        return
    for number in range(2, 11, 2):
        wanted = scheduled_density(number, settings=CUBIC, density=density, rounds=30)
        made = adjustment_of(number, settings=CUBIC, rounds=30, mask=mask, pruning=pruning)
        before = mask
        if made is not None:
            own = random.random(mask.kept).astype(np.float32)
            goes = made.goes or lowest_together(own, layers=mask.layer_kept(), count=made.together)
            mask = adjusted(mask, scores=own, gradients={}, goes=goes, comes=made.comes)
        assert mask.kept == kept_count(wanted, size=mask.size, layers=len(shapes))
        assert not bool((mask.flat() & ~before.flat()).any()), "something grew"
        assert min(mask.layer_kept().values()) >= 1


def test_a_density_that_leaves_a_layer_empty_is_refused() -> None:
    mask = Mask.dense({"a": (2, 2), "b": (2, 2)})
    pruning = PruningSettings(density=0.1, rule="uniform", saliency="random")
    with pytest.raises(PruningError, match="fewer than the 2 layers"):
        adjustment_of(8, settings=CUBIC, rounds=30, mask=mask, pruning=pruning)


FALLS = {"every": 2, "until": 8, "density": "cubic", "start_density": 1.0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adjustment": {"every": 2, "start_density": 1.0}}, "it would not fall"),
        ({"adjustment": {"every": 2, "density": "cubic"}}, "set it to a density above pruning.density, which is 0.05"),
        ({"adjustment": {**FALLS, "start_density": 0.05}}, "start_density is 0.05; set it to a density above"),
        ({"adjustment": {**FALLS, "every": 0}}, "fewer than two rounds adjust"),
        ({"adjustment": {**FALLS, "until": 3}}, "until 3 fewer than two rounds adjust"),
        ({"adjustment": {**FALLS, "blocks": 2}}, "prunes all tensors in each adjustment"),
        ({"adjustment": FALLS, "selection": {"candidates": 2}}, "adjustment.start_density 1 all masks are one"),
    ],
)
def test_densities_that_cannot_fall_are_refused(changes: dict[str, object], says: str) -> None:
    assert Experiment.model_validate({"adjustment": FALLS}).first_density == 1
    with pytest.raises(ValueError, match=says):
        Experiment.model_validate(changes)


def test_the_recipe_starts_dense() -> None:
    gmp = load_experiment(recipe="gmp", overrides=[])
    assert (gmp.first_density, gmp.pruning.density) == (1.0, 0.05)
    assert Experiment().first_density == Experiment().pruning.density
