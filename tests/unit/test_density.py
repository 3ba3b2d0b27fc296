"""How many weights each layer keeps, and which."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import PruningError
from hedgerow.pruning import Mask, erk, igq, keep_top, keep_top_global, kept_count, uniform
from hedgerow.pruning.density import least_density
from hedgerow.pruning.selection import kth_smallest, smallest

shapes_of_layers = st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple), min_size=1, max_size=6).map(
    lambda shapes: {f"{i}.weight": shape for i, shape in enumerate(shapes)}
)


def size_of(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def test_uniform_keeps_the_same_fraction_everywhere() -> None:
    assert uniform({"a": (10, 10), "b": (4, 5), "c": (2, 5)}, density=0.5) == {"a": 50, "b": 10, "c": 5}


def test_largest_remainders_get_what_rounding_down_left_over() -> None:
    # 0.25 of 10, 7 and 3 is 2.5, 1.75 and 0.75 (raised to 1); 5 in all.
    assert uniform({"a": (10,), "b": (7,), "c": (3,)}, density=0.25) == {"a": 2, "b": 2, "c": 1}


def test_erk_keeps_in_proportion_to_the_sum_of_the_dimensions() -> None:
    # Sums of dimensions 20 and 40, 60 weights kept: 20 and 40; densities 0.2 and 0.1.
    assert erk({"a": (10, 10), "b": (20, 20)}, density=0.12) == {"a": 20, "b": 40}


def test_erk_makes_small_layers_dense_and_solves_again_for_the_others() -> None:
    # ε · (2 + 2) would exceed the 4 weights of `a`, so `b` and `c` share 100 - 4 = 96 by 20 : 40.
    counts = erk({"a": (2, 2), "b": (10, 10), "c": (20, 20)}, density=100 / 504)
    assert counts == {"a": 4, "b": 32, "c": 64}


def test_erk_counts_kernels_and_groups_by_their_own_dimensions() -> None:
    # A depthwise 3×3 of 16 channels has dims 16 + 1 + 3 + 3 = 23, a pointwise of 16 × 32 has 16 + 32 + 1 + 1 = 50.
    assert erk({"depth": (16, 1, 3, 3), "point": (32, 16, 1, 1)}, density=73 / 656) == {"depth": 23, "point": 50}


def test_ideal_gas_quotas_are_sparser_the_larger_a_layer_is() -> None:
    # F = 1/20: 20 / 2, 60 / 4, 180 / 10.
    assert igq({"a": (4, 5), "b": (6, 10), "c": (180,)}, density=43 / 260) == {"a": 10, "b": 15, "c": 18}


@settings(max_examples=200, deadline=None)
@given(shapes_of_layers, st.floats(0.01, 1), st.sampled_from([uniform, erk, igq]))
def test_counts_fit_the_layers_and_sum_exactly(shapes, density, rule) -> None:  # type: ignore[no-untyped-def]  # one of two functions
    size = size_of(shapes)
    if round(density * size) < len(shapes):
        with pytest.raises(PruningError, match="least possible density"):
            rule(shapes, density=density)
        return
    counts = rule(shapes, density=density)
    assert sum(counts.values()) == round(density * size)
    assert all(1 <= counts[name] <= size_of({name: shape}) for name, shape in shapes.items())


@settings(deadline=None)
@given(shapes_of_layers)
def test_density_one_keeps_all_of_every_layer(shapes: dict[str, tuple[int, ...]]) -> None:
    everything = {name: size_of({name: shape}) for name, shape in shapes.items()}
    assert uniform(shapes, density=1) == everything
    assert erk(shapes, density=1) == everything
    assert igq(shapes, density=1) == everything


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
def test_a_density_outside_zero_to_one_is_refused(density: float) -> None:
    with pytest.raises(PruningError, match="above 0 and at most 1"):
        kept_count(density, size=100, layers=1)


def test_a_density_below_one_weight_a_layer_names_the_least_possible() -> None:
    with pytest.raises(PruningError, match=r"keeps 2 of 1000 weights, fewer than the 3 layers: .* is 0\.003$"):
        kept_count(0.002, size=1000, layers=3)


@settings(deadline=None)
@given(st.integers(1, 10**7), st.data())
def test_the_least_density_that_is_named_is_enough(size: int, data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, min(size, 5000)))
    assert kept_count(float(least_density(layers, size=size)), size=size, layers=layers) >= layers


def test_the_best_of_each_layer_are_kept_and_ties_go_to_the_first() -> None:
    scores = {"a": torch.tensor([[1.0, 5.0], [5.0, 5.0]]), "b": torch.tensor([-1.0, -2.0, -3.0])}
    assert keep_top(scores, {"a": 2, "b": 1}) == Mask(
        {"a": torch.tensor([[False, True], [True, False]]), "b": torch.tensor([True, False, False])}
    )


def test_a_global_threshold_still_leaves_every_layer_its_best() -> None:
    scores = {"a": torch.tensor([9.0, 8.0, 7.0, 6.0]), "b": torch.tensor([0.1, 0.2])}
    assert keep_top_global(scores, 3) == Mask(
        {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([False, True])}
    )
    assert keep_top_global(scores, 3, at_least=0).layer_kept() == {"a": 3, "b": 0}
    assert keep_top_global(scores, 4, at_least=2).layer_kept() == {"a": 2, "b": 2}


def test_global_ties_go_to_the_first_positions() -> None:
    scores = {"a": torch.ones(3), "b": torch.ones(3)}
    mask = keep_top_global(scores, 4)
    assert [mask["a"].tolist(), mask["b"].tolist()] == [[True, True, True], [True, False, False]]


@pytest.mark.parametrize("kept", [1, 7])
def test_a_global_count_that_no_mask_can_have_is_refused(kept: int) -> None:
    with pytest.raises(PruningError, match="keep 2 to 6"):
        keep_top_global({"a": torch.ones(3), "b": torch.ones(3)}, kept)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(PruningError, match="'a' are not finite"):
        keep_top_global({"a": torch.tensor([1.0, bad])}, 1)


def test_counts_must_fit_the_scores() -> None:
    with pytest.raises(PruningError, match="same layers"):
        keep_top({"a": torch.ones(3)}, {"b": 1})
    with pytest.raises(PruningError, match="cannot keep 4 of 3"):
        keep_top({"a": torch.ones(3)}, {"a": 4})


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=12), min_size=1, max_size=4), st.data())
def test_global_selection_is_exact_and_keeps_nothing_below_what_it_drops(
    values: list[list[int]], data: st.DataObject
) -> None:
    scores = {str(i): torch.tensor(layer, dtype=torch.float32) for i, layer in enumerate(values)}
    kept = data.draw(st.integers(len(scores), sum(map(len, values))))
    mask = keep_top_global(scores, kept)
    assert mask.kept == kept
    dropped = [score for name, bits in mask.items() for score in scores[name][~bits].tolist()]
    for name, bits in mask.items():
        chosen = sorted(scores[name][bits].tolist(), reverse=True)
        assert chosen
        assert chosen[0] == scores[name].max()
        assert all(score >= max(dropped, default=-9) for score in chosen[1:])


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.data())
def test_the_smallest_alive_scores_are_found_with_the_last_ties_first(values: list[int], data: st.DataObject) -> None:
    alive = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    scores = np.array(values, dtype=np.float32) * alive
    k = data.draw(st.integers(0, int(alive.sum())))
    order = sorted(np.flatnonzero(alive).tolist(), key=lambda i: (scores[i], -i))
    assert sorted(np.flatnonzero(smallest(scores, alive, k)).tolist()) == sorted(order[:k])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["normal", "few values", "sorted", "huge range"]),
)
def test_the_bracketed_threshold_of_a_large_array_is_exact(seed: int, share: float, zeros: float, kind: str) -> None:
    generator = np.random.default_rng(seed)
    scores = np.exp(generator.normal(size=300_000) * (12 if kind == "huge range" else 1)).astype(np.float32)
    if kind == "few values":
        scores = np.ceil(scores)
    if kind == "sorted":
        scores.sort()
    scores[generator.random(scores.size) < zeros] = 0
    k = max(1, round(share * scores.size))
    assert kth_smallest(scores, k) == np.sort(scores)[k - 1]
