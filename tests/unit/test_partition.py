"""Every sample lands with exactly one client, each rule divides as its source says, and no client is empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hedgerow.data import Dirichlet, Iid, Partition, Shards, partition
from hedgerow.errors import DataError

RULES: list[Partition] = [Iid(), Dirichlet(0.5, min_samples=1), Dirichlet(100.0), Shards(), Shards(per_client=1)]
BALANCED = np.repeat(np.arange(10), 50)

labels_strategy = hnp.arrays(np.int64, st.integers(1, 120), elements=st.integers(0, 9))
rule_strategy: st.SearchStrategy[Partition] = st.one_of(
    st.just(Iid()),
    st.builds(Dirichlet, st.floats(0.01, 1000), min_samples=st.integers(1, 5)),
    st.builds(Shards, per_client=st.integers(1, 4)),
)


@given(labels=labels_strategy, clients=st.integers(1, 12), rule=rule_strategy, seed=st.integers(0, 2**32))
def test_every_sample_lands_with_exactly_one_client(
    labels: npt.NDArray[np.int64], clients: int, rule: Partition, seed: int
) -> None:
    before = labels.copy()
    needed = clients * (rule.per_client if isinstance(rule, Shards) else 1)
    refused = ""
    try:
        parts = partition(labels, clients, rule=rule, seed=seed)
    except DataError as error:
        refused = str(error)
    if refused:
        assert "client" in refused
        assert needed > len(labels) or isinstance(rule, Dirichlet)
        return
    assert len(parts) == clients
    assert sorted(index for part in parts for index in part.tolist()) == list(range(len(labels)))
    least = rule.min_samples if isinstance(rule, Dirichlet) else 1
    for part in parts:
        assert part.dtype == np.int64
        assert len(part) >= least
        assert (np.diff(part) > 0).all()
    np.testing.assert_array_equal(labels, before)


@pytest.mark.parametrize("rule", RULES)
def test_the_seed_alone_decides(rule: Partition) -> None:
    def parts(seed: int) -> list[list[int]]:
        return [part.tolist() for part in partition(BALANCED, 10, rule=rule, seed=seed)]

    first = parts(3)
    np.random.default_rng(0)
    np.random.seed(1)
    assert parts(3) == first
    assert parts(4) != first


@pytest.mark.parametrize("rule", RULES)
def test_one_client_gets_everything(rule: Partition) -> None:
    (part,) = partition(BALANCED, 1, rule=rule, seed=0)
    assert part.tolist() == list(range(500))


def test_iid_parts_differ_in_size_by_one_at_most() -> None:
    sizes = [len(part) for part in partition(np.zeros(11, np.int64), 4, rule=Iid(), seed=0)]
    assert sizes == [3, 3, 3, 2]


def test_a_shard_is_one_label_when_shards_divide_the_classes() -> None:
    labels = np.random.default_rng(0).permutation(BALANCED)
    parts = partition(labels, 10, rule=Shards(per_client=2), seed=0)
    assert all(len(part) == 50 for part in parts)
    assert all(len(np.unique(labels[part])) <= 2 for part in parts)
    for part in parts:  # 20 shards of 25: each client has 25 or 50 of a label
        assert set(np.bincount(labels[part])) <= {0, 25, 50}


def test_shards_by_hand() -> None:
    labels = np.array([1, 0, 2, 0, 1, 2])
    parts = partition(labels, 3, rule=Shards(per_client=1), seed=0)
    assert sorted(part.tolist() for part in parts) == [[0, 4], [1, 3], [2, 5]]


def largest_share(alpha: float) -> float:
    parts = partition(BALANCED, 5, rule=Dirichlet(alpha, min_samples=5), seed=1)
    counts = np.array([np.bincount(BALANCED[part], minlength=10) for part in parts])
    return float((counts.max(axis=0) / counts.sum(axis=0)).mean())


def test_a_small_alpha_gives_a_class_to_one_client_and_a_large_one_to_all() -> None:
    assert largest_share(0.05) > 0.8
    assert largest_share(1e4) < 0.25


def test_the_proportions_have_the_mean_and_variance_of_the_dirichlet_distribution() -> None:
    clients, alpha = 4, 0.5
    labels = np.repeat(np.arange(2000), 100)  # many classes are many draws
    parts = partition(labels, clients, rule=Dirichlet(alpha), seed=0)
    shares = np.array([np.bincount(labels[part], minlength=2000) / 100 for part in parts])
    # Var of a share of Dir(alpha, …) over K: (K - 1) / (K² (K alpha + 1)) = 3 / 48 = 0.0625
    np.testing.assert_allclose(shares.mean(axis=1), 0.25, atol=0.02)
    np.testing.assert_allclose(shares.var(axis=1), 0.0625, atol=0.005)


def test_the_samples_of_a_class_are_shuffled_before_they_are_divided() -> None:
    first, _ = partition(np.zeros(100, np.int64), 2, rule=Dirichlet(10.0), seed=0)
    assert first[-1] - first[0] + 1 > len(first)


def test_dirichlet_says_who_goes_short_and_what_to_change() -> None:
    with pytest.raises(DataError, match=r"client \d+ got only \d+ samples of the 40 asked in the best of 200 draws"):
        partition(BALANCED, 10, rule=Dirichlet(0.01, min_samples=40), seed=0)
    with pytest.raises(DataError, match=r"client 50 would get fewer .*fewer clients, a larger alpha or a smaller min"):
        partition(BALANCED, 60, rule=Dirichlet(0.5, min_samples=10), seed=0)


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1e6])
def test_an_extreme_alpha_loses_no_sample(alpha: float) -> None:
    parts = partition(BALANCED, 3, rule=Dirichlet(alpha, min_samples=1), seed=0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(500))


@pytest.mark.parametrize("rule", [Iid(), Dirichlet(1.0, min_samples=1), Shards(per_client=1)])
def test_more_clients_than_samples_name_the_client_without_any(rule: Partition) -> None:
    with pytest.raises(DataError, match="client 3 would get no sample: there are 5 clients and 3 samples"):
        partition(np.array([0, 1, 2]), 5, rule=rule, seed=0)


def test_more_shards_than_samples_name_the_client_that_goes_short() -> None:
    with pytest.raises(DataError, match="client 1 would go short: 2 clients with 2 shards each need 4 samples"):
        partition(np.array([0, 1, 2]), 2, rule=Shards(per_client=2), seed=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dirichlet(0.0), "alpha is 0.0"),
        (lambda: Dirichlet(float("nan")), "alpha is nan"),
        (lambda: Dirichlet(float("inf")), "alpha is inf"),
        (lambda: Dirichlet(1.7e308), "up to 1e6"),
        (lambda: Dirichlet(1.0, min_samples=0), "min_samples is 0"),
        (lambda: Shards(per_client=0), "per_client is 0"),
        (lambda: partition(BALANCED, 0, rule=Iid(), seed=0), "at least 1 client"),
        (lambda: partition(BALANCED, 2, rule=Iid(), seed=-1), "seed is -1"),
        (lambda: partition(BALANCED[:, None], 2, rule=Iid(), seed=0), "shape"),
        (lambda: partition(BALANCED / 2, 2, rule=Iid(), seed=0), "float64"),
    ],
)
def test_arguments_without_meaning_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()
