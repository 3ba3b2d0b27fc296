"""The networks that devices choose from before the first round."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from hedgerow.assembly import model_of, public_indices
from hedgerow.config import Experiment, PoolEntry
from hedgerow.errors import PruningError
from hedgerow.pruning import Origin, candidate_mask, origins
from hedgerow.seeds import derive_seed
from hedgerow.server.bench import Bench
from hedgerow.server.pretraining import pretrained
from hedgerow.server.progress import Observer
from hedgerow.server.state import RoundState

__all__ = ["Candidate", "candidate_pool"]

_PUBLIC = PoolEntry(saliency="magnitude", rule="uniform", jittered=True)
"""Of a network that was trained on public samples, as in the paper."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A network that training could start from.

    Attributes:
        name: how it was made, for people.
        state: of round 0.
    """

    name: str
    state: RoundState


def candidate_pool(experiment: Experiment, bench: Bench, observer: Observer) -> list[Candidate]:
    """The candidates of `experiment.selection`, always the same; no two have the same mask.

    A mask that is in the pool already is left out, and the pool is smaller by it. Within a layer LAMP ranks weights as
    their magnitudes do, for example, so that lamp/erk and magnitude/erk are one. It is smaller too where weights that
    are not redrawn leave nothing that could differ.

    Args:
        experiment: what to run.
        bench: what was built from it; not changed.
        observer: is told of the steps of SynFlow, counted over all candidates that it makes.

    Raises:
        PruningError: no such mask exists at this density; the message begins with the candidate's name.
        TrainingError: the training on public samples failed.
        DataError: there are not so many public samples.
    """
    made = _origins(experiment)
    iterations = experiment.pruning.iterations
    flows = sum(origin.saliency == "synflow" for origin in made)
    flowed = 0

    def progress(step: int, _: int) -> None:
        observer.pruning(flowed * iterations + step, flows * iterations)

    pool: dict[bytes, Candidate] = {}
    for origin, model in _models(experiment, bench, made):
        candidate = _candidate(experiment, bench, origin, model, progress)
        flowed += origin.saliency == "synflow"
        pool.setdefault(candidate.state.mask.digest, candidate)
    return list(pool.values())


def _origins(experiment: Experiment) -> list[Origin]:
    selection = experiment.selection
    if selection.public_samples:
        return origins([_PUBLIC], count=selection.candidates, jitter=selection.jitter)
    return origins(
        selection.entries, count=selection.candidates, jitter=selection.jitter, redrawn=_redraws_weights(experiment)
    )


def _redraws_weights(experiment: Experiment) -> bool:
    # Devices derive frozen magnitudes from the run's own weights at initialization, and know of no other draw: there
    # only the numbers of random scores and of jitters are drawn again.
    return not (experiment.representation == "signs" and experiment.signs.magnitude == "random")


def _models(experiment: Experiment, bench: Bench, made: list[Origin]) -> Iterator[tuple[Origin, nn.Module]]:
    """Each origin with the network whose weights it looks at; one network at a time."""
    if experiment.selection.public_samples:
        indices = public_indices(experiment, bench.dataset)
        trained = pretrained(experiment, model=bench.initial, dataset=bench.dataset, indices=indices)
        yield from ((origin, trained) for origin in made)
        return
    redraws = _redraws_weights(experiment)
    for draw, group in itertools.groupby(made, key=lambda origin: origin.draw):
        model = model_of(experiment, bench.dataset, draw=draw) if draw and redraws else bench.initial
        yield from ((origin, model) for origin in group)


def _candidate(
    experiment: Experiment, bench: Bench, origin: Origin, model: nn.Module, progress: Callable[[int, int], None]
) -> Candidate:
    try:
        mask = candidate_mask(
            model,
            bench.dataset.input_shape,
            origin,
            density=experiment.first_density,
            iterations=experiment.pruning.iterations,
            seed=derive_seed(experiment.seed, "mask"),
            progress=progress,
        )
    except PruningError as error:
        raise PruningError(f"candidate {origin.name}: {error}") from error
    return Candidate(origin.name, bench.start(mask, model=model))
