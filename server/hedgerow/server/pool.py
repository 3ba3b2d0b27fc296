"""The networks that devices choose from before the first round."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from hedgerow.assembly import mask_seed, model_of, origins_of, public_indices, redraws_weights
from hedgerow.config import Experiment
from hedgerow.errors import PruningError
from hedgerow.pruning import Origin, candidate_mask
from hedgerow.server.bench import Bench
from hedgerow.server.pretraining import pretrained
from hedgerow.server.progress import Observer
from hedgerow.server.state import RoundState

__all__ = ["Candidate", "candidate_pool"]


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
    made = origins_of(experiment)
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


def _models(experiment: Experiment, bench: Bench, made: list[Origin]) -> Iterator[tuple[Origin, nn.Module]]:
    """Each origin with the network whose weights it looks at; one network at a time."""
    if experiment.selection.public_samples:
        indices = public_indices(experiment, bench.dataset)
        trained = pretrained(experiment, model=bench.initial, dataset=bench.dataset, indices=indices)
        yield from ((origin, trained) for origin in made)
        return
    redraws = redraws_weights(experiment)
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
            seed=mask_seed(experiment),
            progress=progress,
        )
    except PruningError as error:
        raise PruningError(f"candidate {origin.name}: {error}") from error
    return Candidate(origin.name, bench.start(mask, model=model))
