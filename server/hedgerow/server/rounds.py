"""One round: ask a cohort, fold each reply as it arrives, make the next state."""

from __future__ import annotations

import time
from dataclasses import dataclass

from hedgerow.codec import Bits, Header
from hedgerow.config import Experiment
from hedgerow.errors import RunError
from hedgerow.representation import Representation
from hedgerow.schedules import step_scale
from hedgerow.seeds import numpy_generator
from hedgerow.server.aggregation import Aggregator, FloatMean, SignMean
from hedgerow.server.fleet import Fleet
from hedgerow.server.fold import Fold
from hedgerow.server.outgoing import Outgoing
from hedgerow.server.progress import Observer
from hedgerow.server.state import RoundState

__all__ = ["Round", "cohort_of", "play_round"]


@dataclass(frozen=True, slots=True)
class Round:
    """What a round came to.

    Attributes:
        state: the state after it.
        fold: what was taken in.
        cohort: nodes that were asked.
        entropy_down: Shannon's bound of what was sent, in bytes.
        seconds: how long it took.
    """

    state: RoundState
    fold: Fold
    cohort: list[int]
    entropy_down: float
    seconds: float


def cohort_of(experiment: Experiment, nodes: list[int], *, round: int) -> list[int]:
    """The nodes that a round asks, drawn without replacement from (seed, round), in ascending order.

    Raises:
        RunError: there are fewer nodes than the cohort needs.
    """
    size = experiment.fleet.cohort
    if len(nodes) < size:
        raise RunError(f"round {round}: the cohort needs {size} clients and only {len(nodes)} are there")
    chosen = numpy_generator(experiment.seed, "cohort", round).choice(len(nodes), size, replace=False)
    return sorted(nodes[i] for i in chosen)


def play_round(
    state: RoundState,
    *,
    experiment: Experiment,
    representation: Representation,
    fleet: Fleet,
    observer: Observer,
    variances: Bits | None = None,
) -> Round:
    """Plays the round after `state`; `variances` tells which floats cannot be negative (see `Fold`).

    Raises:
        RunError: fewer usable replies than `aggregation.min_replies`.
    """
    began, number = time.perf_counter(), state.round + 1
    cohort = cohort_of(experiment, list(fleet.nodes()), round=number)
    header = Header(bytes.fromhex(experiment.digest()), number, state.mask.digest)
    broadcast = representation.broadcast(state.kept)
    outgoing = Outgoing(header, broadcast, state)
    fold = Fold(
        header=header,
        start=broadcast.start,
        representation=representation,
        kept=_aggregator(experiment, state.kept.size),
        floats=FloatMean(state.floats.size),
        float_count=state.floats.size,
        variances=variances,
    )
    observer.asked(round=number, clients=len(cohort))
    for reply in fleet.exchange(outgoing.requests(cohort), round=number):
        fold.take(reply, name=fleet.name(reply.node))
        observer.replied()
    _require_enough(fold, cohort, experiment, round=number)
    following = RoundState(
        round=number,
        mask=state.mask,
        kept=representation.following(
            state.kept,
            start=broadcast.start,
            mean=fold.kept.mean(),
            scale=step_scale(experiment, round=number),
        ),
        floats=fold.floats.mean(),
        # Whoever failed may have lost its state, so it is given the mask again.
        holders=(state.holders - frozenset(cohort)) | frozenset(fold.clients),
    )
    return Round(following, fold, cohort, outgoing.entropy(cohort), time.perf_counter() - began)


def _aggregator(experiment: Experiment, kept: int) -> Aggregator:
    return SignMean(kept) if experiment.representation == "signs" else FloatMean(kept)


def _require_enough(fold: Fold, cohort: list[int], experiment: Experiment, *, round: int) -> None:
    needed = experiment.aggregation.min_replies
    if len(fold.clients) < needed:
        first = min(fold.failures, key=lambda failure: failure.client, default=None)
        why = "lower aggregation.min_replies" if first is None else f"{first.client}: {first.reason}"
        raise RunError(
            f"round {round}: {len(fold.clients)} of {len(cohort)} clients gave a usable reply and {needed} are needed; "
            f"{why}"
        )
