"""Batch-norm statistics: those of parts make those of the whole, and collecting them leaves no trace in a network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hedgerow.assembly import model_of
from hedgerow.codec import Section
from hedgerow.data import load_dataset
from hedgerow.errors import PayloadError, TrainingError
from hedgerow.exchange import (
    LARGEST_LOSS,
    LARGEST_STATISTIC,
    losses_section,
    read_losses,
    read_samples,
    read_statistics,
    samples_section,
    statistics_section,
)
from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.recalibration import (
    Moments,
    batch_statistics,
    collect,
    merged,
    norm_channels,
    pooled,
    statistics_into,
    statistics_positions,
)
from hedgerow.sparse import float_tensors, read_vector, sparsify, write_vector
from hedgerow.v1 import payload_pb2 as pb
from tests.unit.test_answer import experiment_with

SAMPLES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def moments(mean: float, variance: float, count: int) -> Moments:
    return Moments(np.array([mean], float), np.array([variance], float), count)


def of(values: np.ndarray) -> Moments:
    """Of (n, channels) values."""
    return Moments(values.mean(axis=0), values.var(axis=0), len(values))


def same(one: Moments, other: Moments) -> bool:
    return (
        one.count == other.count
        and np.array_equal(one.mean, other.mean)
        and np.array_equal(one.variance, other.variance)
    )


def norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def statistics(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance, count = norm.running_mean, norm.running_var, norm.num_batches_tracked
    assert mean is not None
    assert variance is not None
    assert count is not None
    return mean, variance, count


def network(seed: int = 0) -> nn.Sequential:
    """Batch norms of two and of four dimensions, with statistics that are not those of the data, and dropout."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
        nn.BatchNorm1d(5, affine=False),
        nn.Linear(5, 3),
    )
    for norm in norms(model):
        for tensor, value in zip(statistics(norm), (7, 9, 3), strict=True):
            tensor.fill_(value)
    return model


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def traces(model: nn.Module) -> list[object]:
    tensors = {name: t.clone().numpy().tobytes() for name, t in model.state_dict().items()}
    hooks = [len(m._forward_pre_hooks) for m in model.modules()]
    return [tensors, [m.training for m in model.modules()], hooks, [p.grad for p in model.parameters()]]


def test_two_clients_have_the_moments_of_all_values_together() -> None:
    # 0, 2 and 4, 4, 10: the mean is 20 / 5 = 4, the variance (16 + 4 + 0 + 0 + 36) / 5 = 11.2.
    both = pooled([moments(1, 1, 2), moments(6, 8, 3)])
    assert both.mean.item() == pytest.approx(4)
    assert both.variance.item() == pytest.approx(11.2)
    assert both.count == 5


def test_what_lies_between_clients_counts_even_where_nothing_varies_within_them() -> None:
    both = pooled([moments(-1, 0, 1), moments(1, 0, 1)])
    assert (both.mean.item(), both.variance.item()) == (0.0, 1.0)


@given(SAMPLES, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 1e3, 1e6]), st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=60, deadline=None)
def test_pooled_moments_are_those_of_the_union(sizes: list[int], seed: int, mean: float, spread: float) -> None:
    random = np.random.default_rng(seed)
    # The last client is far larger than the others.
    parts = [random.normal(mean, spread, (n, 3)) + random.normal(0, spread, 3) for n in [*sizes, 5000]]
    found, union = pooled([of(part) for part in parts]), np.concatenate(parts)
    np.testing.assert_allclose(found.mean, union.mean(axis=0), rtol=1e-5, atol=1e-5 * spread)
    np.testing.assert_allclose(found.variance, union.var(axis=0), rtol=1e-5)
    assert found.count == len(union)


@given(SAMPLES, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_clients_changes_no_bit(sizes: list[int], seed: int, shuffle: Random) -> None:
    random = np.random.default_rng(seed)
    parts = [of(random.normal(3, 1, (n, 4))) for n in sizes]
    expected = pooled(parts)
    shuffle.shuffle(parts)
    assert same(pooled(parts), expected)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.sampled_from([0.0, 1e6]))
@settings(max_examples=30, deadline=None)
def test_parts_merged_one_by_one_are_the_union_too(sizes: list[int], mean: float) -> None:
    random = np.random.default_rng(sum(sizes))
    parts = [random.normal(mean, 0.1, (n, 2)) for n in sizes]
    found, union = of(parts[0]), np.concatenate(parts)
    for part in parts[1:]:
        found = merged(found, of(part))
    np.testing.assert_allclose(found.variance, union.var(axis=0), rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(found.mean, union.mean(axis=0), rtol=1e-9, atol=1e-9)


def test_norms_are_found_in_order_and_in_hollow_networks_too() -> None:
    for hollow in (False, True):
        model = model_of(experiment_with(model={"name": "conv4"}), load_dataset("digits"), hollow=hollow)
        found = norm_channels(model)
        assert [n.channels for n in found] == [64, 64, 128, 128, 256, 256]
        assert found[0].name == "conv1_norm"
        assert sum(len(part) for part in statistics_positions(model)) == 2 * 896


def test_statistics_land_in_the_buffers_and_nowhere_else() -> None:
    model = network()
    before = read_vector(float_tensors(model))
    new = Moments(-np.arange(9.0), np.arange(9.0) + 20, 5)
    after = statistics_into(before, model, new)
    write_vector(float_tensors(model), after)
    found = [[tensor.tolist() for tensor in statistics(norm)[:2]] for norm in norms(model)]
    assert found[0] == [[0, -1, -2, -3], [20, 21, 22, 23]]
    assert found[1] == [[-4, -5, -6, -7, -8], [24, 25, 26, 27, 28]]
    changed = np.flatnonzero(after != before)
    assert sorted(changed.tolist()) == sorted(np.concatenate(statistics_positions(model)).tolist())
    assert np.array_equal(before, read_vector(float_tensors(network())))


def test_one_batch_has_the_moments_of_what_torch_says_went_into_the_norms() -> None:
    model, batch = network(), images(6)
    found = collect(model, [batch])
    first = model[0](batch).detach().double()
    between = nn.functional.batch_norm(first.float(), None, None, training=True)
    second = model[5](between.relu().flatten(1)).detach().double()
    mean = torch.cat([first.mean((0, 2, 3)), second.mean(0)])
    variance = torch.cat([first.var((0, 2, 3), correction=0), second.var(0, correction=0)])
    np.testing.assert_allclose(found.mean, mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.variance, variance.numpy(), rtol=1e-5)
    assert found.count == 6


@given(st.lists(st.integers(2, 12), min_size=1, max_size=4), st.sampled_from([0.0, 1e4]))
@settings(max_examples=15, deadline=None)
def test_the_first_norm_sees_the_union_of_all_batches(sizes: list[int], mean: float) -> None:
    norm = nn.Sequential(nn.BatchNorm2d(1))
    batches = [images(n, seed=k) * 0.1 + mean * (1 + 1e-4 * k) for k, n in enumerate(sizes)]
    union = torch.cat(batches).double()
    found = collect(norm, batches)
    np.testing.assert_allclose(found.mean, union.mean((0, 2, 3)), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(found.variance, union.var((0, 2, 3), correction=0), rtol=1e-5)
    assert found.count == sum(sizes)


def test_clients_pooled_are_one_client_with_all_their_batches() -> None:
    model, batches = network(), [images(n, seed=n) for n in (2, 7, 30)]
    together = collect(model, batches)
    apart = pooled([collect(model, [batch]) for batch in batches])
    np.testing.assert_allclose(apart.mean, together.mean, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(apart.variance, together.variance, rtol=1e-5)


def test_the_network_comes_out_as_it_went_in() -> None:
    model = network()
    model.train()
    model[1].eval()
    before, buffer = traces(model), statistics(norms(model)[1])[0]
    collect(model, [images(4), images(5, seed=1)])
    assert traces(model) == before
    assert statistics(norms(model)[1])[0] is buffer  # who holds the vector of floats holds this very tensor

    def breaks() -> Iterator[Tensor]:
        yield images(3)
        raise MemoryError

    with pytest.raises(MemoryError):
        collect(model, breaks())
    assert traces(model) == before


def test_dropout_and_the_running_statistics_play_no_part() -> None:
    model = network()
    expected = collect(model, [images(8)])
    torch.rand(3)
    statistics(norms(model)[0])[0].fill_(-50)
    assert same(collect(model, [images(8)]), expected)


def test_batch_statistics_are_those_that_training_normalises_by() -> None:
    model, batch = network(), images(8)
    model[3] = nn.Identity()
    with batch_statistics(model), torch.no_grad():
        found = model(batch)
    model.train()
    assert torch.equal(found, model(batch).detach())


def test_a_batch_with_one_value_a_channel_is_left_out() -> None:
    model = network()
    assert same(collect(model, [images(4), images(1, seed=1)]), collect(model, [images(4)]))
    with pytest.raises(TrainingError, match="no batch has two values a channel"):
        collect(model, [images(1), images(1, seed=1)])
    # A single image has many values a channel where no norm comes after the flattening.
    assert collect(model[:2], [images(1)]).count == 1


def test_a_network_without_batch_norms_says_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.BatchNorm1d(2, track_running_stats=False))
    found = collect(model, [images(4), images(2)])
    assert (found.mean.size, found.variance.size, found.count) == (0, 0, 6)
    assert norm_channels(model) == []
    floats = read_vector(float_tensors(model))
    assert np.array_equal(statistics_into(floats, model, pooled([found, found])), floats)
    assert read_statistics(told([found, found]), networks=2, channels=0)[1].count == 6


def test_a_norm_that_is_called_twice_says_both_and_one_that_never_is_says_nothing() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.used = nn.BatchNorm1d(3), nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            total: Tensor = self.used(flat[:, :2]) + self.used(flat[:, 2:4] + 10)
            return total

    batch = images(6)
    found, flat = collect(Odd(), [batch]), batch.flatten(1).double()
    both = torch.cat([flat[:, :2], flat[:, 2:4] + 10])
    assert found.mean[:3].tolist() == [0, 0, 0]
    assert found.variance[:3].tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.mean[3:], both.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.variance[3:], both.var(0, correction=0), rtol=1e-5)


@pytest.mark.parametrize("name", ["conv4", "resnet18", "mobilenetv2"])
def test_native_kernels_see_what_dense_ones_see(name: str) -> None:
    if not status().available:
        pytest.skip("there are no native kernels here")
    torch.manual_seed(0)
    model = model_of(experiment_with(model={"name": name}), load_dataset("digits"))
    generator = torch.Generator().manual_seed(0)
    mask = Mask({n: torch.rand(w.shape, generator=generator) < 0.2 for n, w in prunable_tensors(model).items()})
    found = []
    for kernels in ("dense", "native"):
        sparse = sparsify(model, mask, kernels=kernels)
        random = np.random.default_rng(0)
        write_vector(sparse.kept, random.normal(0, 0.1, mask.kept).astype(np.float32))
        before = read_vector(sparse.floats).tobytes()
        found.append(collect(sparse.module, [images(6), images(4, seed=1)]))
        assert read_vector(sparse.floats).tobytes() == before
    np.testing.assert_allclose(found[0].mean, found[1].mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[0].variance, found[1].variance, rtol=1e-3, atol=1e-6)


def told(parts: Sequence[Moments]) -> dict[int, Section]:
    return {section.kind: section for section in (statistics_section(parts), samples_section(parts[0].count))}


def with_values(sections: Mapping[int, Section], kind: pb.Kind, values: Sequence[float]) -> dict[int, Section]:
    data = np.asarray(values, "<f4").tobytes()
    return {**sections, kind: replace(sections[kind], data=data, count=len(data) // 4)}


def test_statistics_travel_one_network_after_the_other_means_first() -> None:
    parts = [Moments(np.array([1.0, -2.0]), np.array([3.0, 4.0]), 9), Moments(np.array([5.0, 6.0]), np.ones(2), 9)]
    sections = told(parts)
    data = sections[pb.KIND_STATISTICS].data
    assert np.frombuffer(data, "<f4").tolist() == [1, -2, 3, 4, 5, 6, 1, 1]
    assert all(same(*pair) for pair in zip(read_statistics(sections, networks=2, channels=2), parts, strict=True))


def test_a_network_that_overflows_is_said_with_finite_numbers() -> None:
    wild = Moments(np.array([np.nan, np.inf, -np.inf, 1e30]), np.array([np.nan, np.inf, 1e30, 2.0]), 3)
    (found,) = read_statistics(told([wild]), networks=1, channels=4)
    most = LARGEST_STATISTIC
    assert found.mean.tolist() == [0, most, -most, most]
    assert found.variance.tolist() == [most, most, most, 2]


@pytest.mark.parametrize(
    ("kind", "values", "failure"),
    [
        (pb.KIND_STATISTICS, [0, np.nan, 1, 1], "not_finite"),
        (pb.KIND_STATISTICS, [np.inf, 0, 1, 1], "not_finite"),
        (pb.KIND_STATISTICS, [0, -(2.0**41), 1, 1], "bounds"),
        (pb.KIND_STATISTICS, [0, 0, 1, 2.0**41], "bounds"),
        (pb.KIND_STATISTICS, [0, 0, 1, -1e-30], "bounds"),
        (pb.KIND_STATISTICS, [0, 0, 1], "mismatch"),
        (pb.KIND_STATISTICS, [0, 0, 1, 1, 1], "mismatch"),
        (pb.KIND_COUNTS, [0], "metrics"),
        (pb.KIND_COUNTS, [-1], "metrics"),
        (pb.KIND_COUNTS, [1.5], "metrics"),
        (pb.KIND_COUNTS, [2.0**25], "metrics"),
        (pb.KIND_COUNTS, [np.nan], "not_finite"),
        (pb.KIND_COUNTS, [1, 1], "mismatch"),
        (pb.KIND_COUNTS, [], "mismatch"),
    ],
)
def test_statistics_out_of_bounds_are_refused(kind: pb.Kind, values: list[float], failure: str) -> None:
    sections = told([Moments(np.zeros(2), np.ones(2), 5)])
    read_statistics(sections, networks=1, channels=2)
    with pytest.raises(PayloadError) as caught:
        read_statistics(with_values(sections, kind, values), networks=1, channels=2)
    assert caught.value.kind == failure


def test_statistics_that_are_missing_or_short_or_coded_otherwise_are_refused() -> None:
    sections = told([Moments(np.zeros(2), np.ones(2), 5)])
    section = sections[pb.KIND_STATISTICS]
    damaged: list[dict[int, Section]] = [
        {pb.KIND_COUNTS: sections[pb.KIND_COUNTS]},
        {pb.KIND_STATISTICS: section},
        {**sections, pb.KIND_STATISTICS: replace(section, data=section.data[:-1])},
        {**sections, pb.KIND_STATISTICS: replace(section, codec=pb.CODEC_FLOAT16)},
        {**sections, pb.KIND_STATISTICS: replace(section, count=2**60, data=b"")},
    ]
    for changed in damaged:
        with pytest.raises(PayloadError):
            read_statistics(changed, networks=1, channels=2)


def test_losses_come_back_and_what_is_no_loss_is_the_largest() -> None:
    section = losses_section([0.25, float("nan"), float("inf"), 1e30])
    assert read_losses({section.kind: section}, networks=4).tolist() == [0.25, *[LARGEST_LOSS] * 3]


@pytest.mark.parametrize(
    ("values", "failure"),
    [([0, np.nan], "not_finite"), ([0, -1], "metrics"), ([0, 2.0**21], "metrics"), ([0], "mismatch"), ([], "mismatch")],
)
def test_losses_out_of_bounds_are_refused(values: list[float], failure: str) -> None:
    section = losses_section([1.0, 2.0])
    with pytest.raises(PayloadError) as caught:
        read_losses(with_values({section.kind: section}, section.kind, values), networks=2)
    assert caught.value.kind == failure


def test_a_number_of_samples_comes_back() -> None:
    for count in (1, 60, 2**24):
        section = samples_section(count)
        assert read_samples({section.kind: section}) == count
