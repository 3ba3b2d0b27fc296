"""The networks that devices choose from: what they are made of, and that the pool is always the same."""

from functools import cache

import numpy as np
import pytest
import torch

from hedgerow.assembly import mask_of, model_of, public_indices
from hedgerow.config import Experiment, load_experiment
from hedgerow.errors import PruningError, TrainingError
from hedgerow.pruning import prunable_tensors
from hedgerow.server.bench import Bench
from hedgerow.server.pool import Candidate, candidate_pool
from hedgerow.server.pretraining import pretrained
from hedgerow.server.progress import Observer
from hedgerow.sparse import float_tensors, gather_kept, read_vector

CHANGES = [("model.name", "mlp"), ("pruning.iterations", 3), ("selection.candidates", 9)]
FLOAT = ("representation", "weights")
PAPER = [FLOAT, ("selection.public_samples", 64), ("selection.candidates", 3)]


class Steps(Observer):
    """Remembers the steps of making masks."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def pruning(self, step: int, steps: int) -> None:
        self.seen.append((step, steps))


def experiment_with(*changes: tuple[str, object]) -> Experiment:
    return load_experiment(recipe="hidenseek", overrides=[*CHANGES, *changes])


@cache
def bench_of(representation: str) -> Bench:
    return Bench.of(experiment_with(("representation", representation)))


def pool_with(*changes: tuple[str, object]) -> tuple[Experiment, Bench, list[Candidate]]:
    experiment = experiment_with(*changes)
    # The exchange depends on all settings, the rest of a bench on none that these tests change.
    bench = Bench.of(experiment) if "signs.magnitude" in dict(changes) else bench_of(experiment.representation)
    return experiment, bench, candidate_pool(experiment, bench, Observer())


def names(pool: list[Candidate]) -> list[str]:
    return [candidate.name for candidate in pool]


def test_the_pool_is_one_network_for_each_entry_each_with_another_mask() -> None:
    experiment, _, pool = pool_with(FLOAT)
    assert names(pool) == list(experiment.selection.pool)
    assert len({candidate.state.mask.digest for candidate in pool}) == 9
    assert {candidate.state.mask.kept for candidate in pool} == {pool[0].state.mask.kept}
    assert {candidate.state.round for candidate in pool} == {0}


def test_a_pool_is_made_again_as_it_was() -> None:
    one, two = (pool_with(FLOAT, ("selection.candidates", 11))[2] for _ in range(2))
    assert names(one) == names(two)
    for a, b in zip(one, two, strict=True):
        assert a.state.mask == b.state.mask
        assert np.array_equal(a.state.kept, b.state.kept)
        assert np.array_equal(a.state.floats, b.state.floats)


def test_the_first_candidate_is_the_run_without_selection() -> None:
    experiment, bench, pool = pool_with(FLOAT)
    mask = mask_of(experiment, bench.initial, bench.dataset.input_shape)
    weights = {name: w.detach() for name, w in prunable_tensors(bench.initial).items()}
    assert pool[0].state.mask == mask
    assert np.array_equal(pool[0].state.kept, gather_kept(weights, mask))
    assert np.array_equal(pool[0].state.floats, read_vector(float_tensors(bench.initial)))


def test_after_the_last_entry_come_other_weights() -> None:
    entries = ("selection.pool", ["magnitude/erk", "random/erk"])
    experiment, bench, pool = pool_with(FLOAT, entries, ("selection.candidates", 6))
    assert names(pool)[2:] == ["magnitude/erk #2", "random/erk #2", "magnitude/erk #3", "random/erk #3"]
    models = [model_of(experiment, bench.dataset, draw=draw) for draw in range(3)]
    for number, candidate in enumerate(pool):
        weights = {name: w.detach() for name, w in prunable_tensors(models[number // 2]).items()}
        assert np.array_equal(candidate.state.kept, gather_kept(weights, candidate.state.mask))
    first = [next(iter(prunable_tensors(model).values())) for model in models]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])
    assert torch.equal(first[0], next(iter(prunable_tensors(bench.initial).values())))


def test_signs_of_other_weights_come_with_frozen_sizes_that_devices_can_compute() -> None:
    changes = [("selection.pool", ["magnitude/erk", "random/erk"]), ("selection.candidates", 4)]
    constant = pool_with(*changes)[2]
    assert names(constant) == ["magnitude/erk", "random/erk", "magnitude/erk #2", "random/erk #2"]
    _, bench, pool = pool_with(*changes, ("signs.magnitude", "random"))
    # Sizes are those of the run's own weights, so only what draws numbers comes again, from these weights.
    assert names(pool) == ["magnitude/erk", "random/erk", "random/erk #2", "random/erk #3"]
    weights = {name: w.detach() for name, w in prunable_tensors(bench.initial).items()}
    for candidate in pool:
        state = candidate.state
        assert np.array_equal(state.kept > 0, gather_kept(weights, state.mask) >= 0)
        sizes = bench.exchange.representation.kept_weights(state.kept, bench.initial, state.mask)
        assert np.array_equal(sizes, gather_kept(weights, state.mask))


def test_a_mask_that_is_there_already_is_left_out() -> None:
    twice = ("selection.pool", ["magnitude/erk", "magnitude/erk", "random/erk~"])
    pool = pool_with(FLOAT, twice, ("selection.candidates", 3))[2]
    assert names(pool) == ["magnitude/erk", "random/erk~"]
    # Within a layer LAMP ranks weights as their magnitudes do.
    alike = ("selection.pool", ["lamp/erk", "magnitude/erk"])
    assert names(pool_with(FLOAT, alike, ("selection.candidates", 2))[2]) == ["lamp/erk"]
    # Without jitter an entry with ~ is the one without.
    plain = ("selection.pool", ["magnitude/erk", "magnitude/erk~"])
    assert names(pool_with(FLOAT, plain, ("selection.candidates", 2), ("selection.jitter", 0))[2]) == ["magnitude/erk"]


def test_the_steps_of_all_synflow_masks_are_counted_as_one_way() -> None:
    entries = ("selection.pool", ["synflow/global", "random/erk"])
    observer = Steps()
    candidate_pool(experiment_with(FLOAT, entries, ("selection.candidates", 4)), bench_of("weights"), observer)
    assert observer.seen == [(step, 6) for step in range(1, 7)]


def test_a_mask_that_cannot_be_made_names_its_candidate() -> None:
    experiment = experiment_with(FLOAT, ("pruning.density", 1e-9), ("selection.pool", ["lamp/global"]))
    with pytest.raises(PruningError, match=r"^candidate lamp/global: density 1e-09 keeps 0 of"):
        candidate_pool(experiment, bench_of("weights"), Observer())


def test_candidates_of_public_samples_are_jittered_magnitude_masks_of_one_trained_network() -> None:
    experiment, bench, pool = pool_with(*PAPER)
    assert names(pool) == ["magnitude/uniform~", "magnitude/uniform~ #2", "magnitude/uniform~ #3"]
    indices = public_indices(experiment, bench.dataset)
    model = pretrained(experiment, model=bench.initial, dataset=bench.dataset, indices=indices)
    weights = {name: w.detach() for name, w in prunable_tensors(model).items()}
    for candidate in pool:
        mask = candidate.state.mask
        assert np.array_equal(candidate.state.kept, gather_kept(weights, mask))
        assert np.array_equal(candidate.state.floats, read_vector(float_tensors(model)))
        for name, kept in mask.items():
            assert weights[name][kept].abs().min() >= weights[name][~kept].abs().max()
    assert len({tuple(candidate.state.mask.layer_kept().values()) for candidate in pool}) == 3
    assert len({candidate.state.mask.kept for candidate in pool}) == 1


def test_training_on_public_samples_that_fails_says_what_to_lower() -> None:
    experiment = experiment_with(*PAPER, ("weights.learning_rate", 1e30))
    with pytest.raises(TrainingError, match=r"lower weights\.learning_rate$"):
        candidate_pool(experiment, bench_of("weights"), Observer())
