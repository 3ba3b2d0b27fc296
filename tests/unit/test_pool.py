"""Candidate masks: which ones a pool stands for, and that each keeps exactly as many weights as all others."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from types import SimpleNamespace
from typing import cast, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.assembly import mask_of
from hedgerow.config import PoolEntry, SelectionSettings, load_experiment
from hedgerow.errors import ConfigError, PruningError
from hedgerow.models import build_model
from hedgerow.pruning import (
    DensityRuleName,
    Mask,
    Origin,
    SaliencyName,
    candidate_mask,
    erk,
    jittered,
    kept_count,
    origins,
    prunable_tensors,
)
from hedgerow.seeds import derive_seed

SHAPE = (1, 8, 8)
DEFAULT = SelectionSettings().entries


def fixed(*numbers: float) -> np.random.Generator:
    """Stands for a generator whose numbers are known."""

    def uniform(low: float, high: float, *, size: int) -> np.ndarray:
        assert all(low <= number <= high for number in numbers)
        assert len(numbers) == size
        return np.array(numbers)

    return cast(np.random.Generator, SimpleNamespace(uniform=uniform))


def pool_of(*texts: str) -> list[PoolEntry]:
    return [PoolEntry.of(text) for text in texts]


def names(found: Sequence[Origin]) -> list[str]:
    return [origin.name for origin in found]


@cache
def model_named(name: str) -> nn.Module:
    return build_model(name, input_shape=SHAPE, classes=10, seed=0)


def mask_from(origin: Origin, *, model: str = "mlp", density: float = 0.1, seed: int = 3) -> Mask:
    return candidate_mask(model_named(model), SHAPE, origin, density=density, iterations=2, seed=seed)


def test_an_entry_says_saliency_rule_and_whether_chance_changes_the_densities() -> None:
    assert PoolEntry.of("lamp/global") == PoolEntry(saliency="lamp", rule="global")
    assert PoolEntry.of("random/erk~") == PoolEntry(saliency="random", rule="erk", jittered=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("random", "'random' is not saliency/rule; write it as 'random/erk', for example"),
        ("", "'' is not saliency/rule"),
        ("rndom/erk", "'rndom/erk' has the unknown saliency 'rndom'; allowed are synflow, magnitude, random, lamp"),
        ("random/erk/", "has the unknown rule 'erk/'; allowed are global, uniform, erk, igq"),
        ("random/erk~~", "has the unknown rule 'erk~'"),
        ("random/erk ", "has the unknown rule 'erk '"),
        ("synflow/erk", "SynFlow decides the density of each layer itself; write 'synflow/global'"),
        ("synflow/erk~", "SynFlow decides the density of each layer itself"),
        ("synflow/global~", "leave ~ out, or take the rule uniform, erk or igq"),
        ("lamp/global~", "leave ~ out, or take the rule uniform, erk or igq"),
    ],
)
def test_an_entry_that_no_mask_can_have_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PoolEntry.of(text)
    assert str(caught.value).startswith("selection.pool: ")
    assert sentence in str(caught.value)


def test_entries_know_all_saliencies_and_rules_that_there_are() -> None:
    for saliency in get_args(SaliencyName):
        assert PoolEntry.of(f"{saliency}/global").saliency == saliency
    for rule in get_args(DensityRuleName):
        assert PoolEntry.of(f"random/{rule}").rule == rule


def test_after_the_last_entry_comes_the_first_from_the_next_draw() -> None:
    found = origins(pool_of("synflow/global", "random/erk~"), count=5, jitter=0.5)
    assert found == [
        Origin(saliency="synflow", rule="global"),
        Origin(saliency="random", rule="erk", jitter=0.5, place=1),
        Origin(saliency="synflow", rule="global", draw=1),
        Origin(saliency="random", rule="erk", jitter=0.5, draw=1, place=1),
        Origin(saliency="synflow", rule="global", draw=2),
    ]
    assert names(found) == ["synflow/global", "random/erk~", "synflow/global #2", "random/erk~ #2", "synflow/global #3"]


def test_a_pool_that_is_longer_than_the_candidates_is_cut() -> None:
    assert names(origins(DEFAULT, count=2, jitter=0.5)) == ["synflow/global", "random/erk"]
    assert origins(DEFAULT, count=0, jitter=0.5) == []


def test_where_weights_stay_only_what_draws_numbers_comes_again() -> None:
    pool = pool_of("lamp/global", "random/erk", "magnitude/erk~")
    found = origins(pool, count=6, jitter=0.5, redrawn=False)
    assert names(found)[:3] == ["lamp/global", "random/erk", "magnitude/erk~"]
    assert names(found)[3:] == ["random/erk #2", "magnitude/erk~ #2", "random/erk #3"]
    assert names(origins(pool_of("lamp/erk"), count=6, jitter=0.5, redrawn=False)) == ["lamp/erk"]
    assert names(origins(pool_of("lamp/erk~"), count=6, jitter=0, redrawn=False)) == ["lamp/erk"]


def test_jittered_counts_are_scaled_to_the_sum_that_they_had() -> None:
    # 20, 20, 20 times 0.5, 1 and 1.5 add up already.
    shapes = {"a": (50,), "b": (50,), "c": (50,)}
    counts = dict.fromkeys(shapes, 20)
    assert jittered(counts, shapes, jitter=0.5, generator=fixed(-0.5, 0, 0.5)) == {"a": 10, "b": 20, "c": 30}
    # Times 1.5, 1.5 and 0.75 they are 75, scaled by 60 / 75.
    assert jittered(counts, shapes, jitter=0.5, generator=fixed(0.5, 0.5, -0.25)) == {"a": 24, "b": 24, "c": 12}


def test_jitter_empties_no_layer_and_overfills_none() -> None:
    # 1, 9 and 10 times 0.5, 1.5 and 1: `a` would keep half a weight, `b` more than its 9; `c` takes the rest.
    shapes = {"a": (10,), "b": (3, 3), "c": (20,)}
    counts = {"a": 1, "b": 9, "c": 10}
    assert jittered(counts, shapes, jitter=0.5, generator=fixed(-0.5, 0.5, 0)) == counts


def test_without_jitter_counts_stay() -> None:
    counts = {"a": 3, "b": 7}
    assert jittered(counts, {"a": (10,), "b": (8,)}, jitter=0, generator=np.random.default_rng(0)) == counts


@pytest.mark.parametrize(
    ("counts", "jitter", "sentence"),
    [
        ({"b": 1}, 0.5, "pass the same layers"),
        ({"a": 0}, 0.5, "'a' cannot keep 0 of 10 weights"),
        ({"a": 11}, 0.5, "'a' cannot keep 11 of 10 weights"),
        ({"a": 1}, 1.0, "jitter is 1, but it must be at least 0 and below 1"),
        ({"a": 1}, float("nan"), "jitter is nan"),
    ],
)
def test_counts_that_cannot_be_jittered_are_refused(counts: dict[str, int], jitter: float, sentence: str) -> None:
    with pytest.raises(PruningError, match=sentence):
        jittered(counts, {"a": (10,)}, jitter=jitter, generator=np.random.default_rng(0))


@settings(max_examples=100)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    st.floats(0.001, 1),
    st.floats(0, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_jittered_counts_fit_their_layers_and_sum_exactly(
    sizes: list[int], density: float, jitter: float, seed: int
) -> None:
    shapes = {str(i): (size,) for i, size in enumerate(sizes)}
    if round(density * sum(sizes)) < len(sizes):
        return
    counts = erk(shapes, density=density)
    found = jittered(counts, shapes, jitter=jitter, generator=np.random.default_rng(seed))
    assert sum(found.values()) == sum(counts.values())
    assert all(1 <= found[name] <= shape[0] for name, shape in shapes.items())


@pytest.mark.parametrize("text", ["synflow/global", "random/erk", "lamp/global", "magnitude/uniform", "random/global"])
def test_a_plain_candidate_of_the_first_draw_is_the_mask_of_a_run_without_selection(text: str) -> None:
    entry = PoolEntry.of(text)
    changes = {"saliency": entry.saliency, "rule": entry.rule, "density": 0.1, "iterations": 2}
    experiment = load_experiment(overrides=[(f"pruning.{key}", value) for key, value in changes.items()])
    seed = derive_seed(experiment.seed, "mask")
    expected = mask_of(experiment, model_named("mlp"), SHAPE)
    for place in (0, 5):
        assert mask_from(Origin(saliency=entry.saliency, rule=entry.rule, place=place), seed=seed) == expected


@pytest.mark.parametrize(("name", "density"), [("mlp", 0.1), ("conv4", 0.05), ("resnet20", 0.01), ("conv4", 0.9)])
def test_every_candidate_keeps_exactly_as_many_and_leaves_no_layer_empty(name: str, density: float) -> None:
    weights = prunable_tensors(model_named(name))
    kept = kept_count(density, size=sum(w.numel() for w in weights.values()), layers=len(weights))
    for origin in origins(DEFAULT, count=2 * len(DEFAULT), jitter=0.9):
        mask = mask_from(origin, model=name, density=density)
        assert mask.kept == kept
        assert min(mask.layer_kept().values()) >= 1


@settings(max_examples=25)
@given(st.floats(0.001, 1), st.floats(0, 0.99), st.integers(0, 5), st.sampled_from(["uniform", "erk"]))
def test_candidates_are_exact_at_every_density(density: float, jitter: float, draw: int, rule: DensityRuleName) -> None:
    mask = mask_from(Origin(saliency="random", rule=rule, jitter=jitter, draw=draw), density=density)
    assert mask.kept == round(density * mask.size)
    assert min(mask.layer_kept().values()) >= 1


def test_candidates_of_chance_differ_by_seed_draw_and_place_and_by_nothing_else() -> None:
    for entry in (
        Origin(saliency="random", rule="erk"),
        Origin(saliency="random", rule="erk", jitter=0.5),
        Origin(saliency="magnitude", rule="erk", jitter=0.5),
    ):
        masks = [mask_from(entry), mask_from(entry, seed=4)]
        for draw, place in ((1, 0), (1, 1), (2, 0)):
            other = replace(entry, draw=draw, place=place)
            masks.append(mask_from(other))
            assert masks[-1] == mask_from(other)
        assert all(one != other for one, other in combinations(masks, 2))


def test_jitter_changes_the_density_of_layers_by_what_it_may_at_most() -> None:
    plain = mask_from(Origin(saliency="magnitude", rule="uniform")).layer_density()
    ratios = []
    for draw in range(20):
        mask = mask_from(Origin(saliency="magnitude", rule="uniform", jitter=0.5, draw=draw))
        ratios += [density / plain[name] for name, density in mask.layer_density().items()]
    # Two factors of [0.5, 1.5] are at most 3 apart, and scaling keeps their ratio.
    assert 1 / 3 <= min(ratios) < 0.8
    assert 1.2 < max(ratios) <= 3


def test_making_a_candidate_changes_neither_the_model_nor_the_global_random_state() -> None:
    before = {name: tensor.clone() for name, tensor in model_named("mlp").state_dict().items()}
    state = torch.get_rng_state()
    for origin in origins(DEFAULT, count=len(DEFAULT), jitter=0.5):
        mask_from(origin)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model_named("mlp").state_dict().items())
