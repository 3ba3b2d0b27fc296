"""One round: ask a cohort, fold each reply as it arrives, make the next state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hedgerow.codec import Growth
from hedgerow.config import Experiment
from hedgerow.errors import RunError, TooFewRepliesError
from hedgerow.exchange import Exchange, growth_of
from hedgerow.pruning import adjustment_of
from hedgerow.schedules import step_scale
from hedgerow.server.aggregation import Aggregator, FloatMean, HeldMean, Nested, SignMean
from hedgerow.server.cohort import cohort_of
from hedgerow.server.fleet import GRIDS_OWN, Fleet, Reply, Request
from hedgerow.server.fold import Fold
from hedgerow.server.growth import GradientSum, adjusted_state, agreed_state
from hedgerow.server.history import History, MemoryHistory
from hedgerow.server.journal import Journal, NoJournal
from hedgerow.server.levels import following_floats, planned, renested, running_statistics
from hedgerow.server.planning import Planner
from hedgerow.server.progress import Observer
from hedgerow.server.state import RoundState
from hedgerow.server.strands import Strands
from hedgerow.telemetry import AdjustmentRecord, PlanRecord, SectionBytes

__all__ = ["Round", "play_round"]


@dataclass(frozen=True, slots=True)
class Round:
    """What a round came to.

    Attributes:
        state: the state after it.
        fold: what was taken in.
        cohort: nodes that were asked.
        entropy_down: Shannon's bound of what was sent to those that replied or failed, in bytes.
        sections_down: what that was, by kind and codec.
        bases: how many of those were sent what changed since each version; see `Outgoing.bases`.
        adjustment: what the round pruned and grew; None where it was not to.
        seconds: how long it took, without waiting for devices.
        kept: how many weights each level had in it.
        plans: what nodes said of their memory before it; None where nobody was asked.
    """

    state: RoundState
    fold: Fold
    cohort: Sequence[int]
    entropy_down: float
    sections_down: dict[str, SectionBytes]
    bases: Mapping[int, int]
    adjustment: AdjustmentRecord | None
    seconds: float
    kept: Sequence[int] = ()
    plans: PlanRecord | None = None


def play_round(
    state: RoundState,
    *,
    experiment: Experiment,
    exchange: Exchange,
    fleet: Fleet,
    observer: Observer,
    history: History | None = None,
    journal: Journal | None = None,
    least: int | None = None,
    planner: Planner | None = None,
    operations: Mapping[str, int] | None = None,
) -> Round:
    """Plays the round after `state`, or goes on with it where `journal` says that it was begun.

    The round ends when `fleet.cohort` usable replies are in, when its deadline is over and the quorum is in, or when
    everybody who was asked has replied or failed.

    Args:
        state: where it starts.
        experiment: the settings.
        exchange: what is trained and sent in this round.
        fleet: whom to ask.
        observer: is told how it goes.
        history: the versions that were sent before; none when None.
        journal: where it is kept while it is played; nowhere when None.
        least: nodes that have to be there before a round is begun; `fleet.cohort` when None.
        planner: asks nodes which level they have memory for; nobody is asked when None.
        operations: what a weight of each tensor costs, for `adjustment.criterion = "gradient"`; all the same when None.

    Raises:
        TooFewRepliesError: fewer usable replies than `aggregation.min_replies`.
        RunError: the journal cannot be used.
    """
    number, journal = state.round + 1, NoJournal() if journal is None else journal
    opened = journal.open_round(number)
    counted = None if opened is None else opened.counted
    least = experiment.fleet.cohort if least is None else least
    # A round that was begun has its cohort; who of it is away is waited for when it is asked.
    nodes = fleet.wait_for(least, observer=observer) if opened is None else []
    began, plans = time.monotonic(), None
    if opened is None:
        # Whose reply is kept from a play that came to nothing need not be there to take part.
        kept = {reply.node for reply, _ in journal.replies(number)}
        there = sorted(kept.union(nodes))
        if planner is not None:
            there = planner.able(there)
            least = min(least, len(there))
        cohort: Sequence[int] = cohort_of(experiment, there, round=number, least=least)
        if planner is not None:
            state, plans = planner.plan(
                state, cohort, experiment=experiment, exchange=exchange, fleet=fleet, observer=observer
            )
            cohort = [node for node in planner.able(cohort) if node in state.plans]
        journal.begin(number, cohort, levels=state.plans)
    else:
        cohort = opened.cohort
        # As the replies were asked for that are here.
        state = planned(state, {node: opened.levels.get(node, 0) for node in cohort if state.nests})
    if planner is not None:
        observer.planned({**dict.fromkeys(planner.refused), **state.plans})
    adjustment = adjustment_of(
        number,
        settings=experiment.adjustment,
        rounds=experiment.rounds,
        mask=state.mask,
        pruning=experiment.pruning,
    )
    growth: tuple[Growth, ...] = ()
    presses = experiment.extrusion.penalty > 0
    if adjustment is not None:
        growth = growth_of(adjustment.comes, mask=state.mask, marked=adjustment.goes if presses else None)
    own_masks = adjustment is not None and experiment.adjustment.by == "devices"
    version = exchange.version(
        number, state.mask.digest, kept=state.kept, floats=state.floats, layers=list(state.mask.layer_kept().values())
    )
    history = MemoryHistory(most=0) if history is None else history
    strands = Strands.of(
        state,
        cohort,
        experiment=bytes.fromhex(experiment.digest()),
        growth=growth,
        exchange=exchange,
        history=history,
        own_masks=own_masks,
    )
    asks = any(asked.count for asked in growth) and not own_masks
    by_gradient = experiment.adjustment.criterion == "gradient"
    fold = Fold(
        strands.readers,
        kept=_kept_sums(experiment, state),
        floats=_float_sums(state),
        gradients=GradientSum(state.mask, growth, kept=by_gradient) if asks else None,
        held=HeldMean(state.mask.size) if own_masks else None,
        levels=strands.levels,
    )
    observer.asked(round=number, clients=len(cohort))
    for reply, name in journal.replies(number):
        fold.take(reply, name=name)
        observer.replied()
    if counted is None:
        over = _over(fold, experiment, began=began)
        missing = [] if over() else [node for node in cohort if node not in fold.answered]
        lost = _ask(
            strands.requests(missing), fold, round=number, fleet=fleet, over=over, journal=journal, observer=observer
        )
        if planner is not None:
            planner.heard(fold)
        _require_enough(fold, cohort, experiment, round=number)
        journal.close(number, counted=fold.clients, lost=lost)
    elif fold.clients != counted:
        raise RunError(f"round {number}: the journal lacks replies that count; delete it to play the round again")
    asked = frozenset(cohort)
    start = exchange.starts(version)[0]
    # What each device kept is not yet known of one mask; see `agreed_state`.
    mean = state.kept if own_masks else fold.kept.mean()
    moved = exchange.representation.following(
        state.kept, start=start, mean=mean, scale=step_scale(experiment, round=number), round=number
    )
    running, share = running_statistics(exchange.architecture), experiment.aggregation.statistics
    floats, own_floats = following_floats(state, fold.floats, running, share=share)
    largest = min(fold.replies)
    following = replace(
        state,
        round=number,
        # What nobody held stays what it was, whatever the others moved by.
        kept=np.where(fold.kept.held(), moved, state.kept) if state.nests else moved,
        floats=floats,
        own_floats=own_floats,
        trained=min(state.trained, largest) if state.round else largest,
        # Whoever failed or came too late may have lost its state, so it is given the mask again.
        held={node: held for node, held in state.held.items() if node not in asked}
        | dict.fromkeys(fold.clients, number),
    )
    answered = sorted(fold.answered)
    exchanged: AdjustmentRecord | None
    whole = replace(following, nests=(), own_floats=(), trained=0)
    if adjustment is not None and fold.held is not None:
        changed, exchanged = agreed_state(whole, adjustment, fold.held)
    else:
        changed, exchanged = adjusted_state(
            whole,
            adjustment,
            fold.gradients,
            representation=exchange.representation,
            # What nobody held has no vote, so what was there before has to do.
            mean=np.where(fold.kept.held(), mean, state.kept) if state.nests else mean,
            marked_by=start if presses else None,
            operations=operations,
        )
    changed = renested(changed, before=following, experiment=experiment, representation=exchange.representation)
    sections_down = strands.sections(answered)
    return Round(
        changed,
        fold,
        cohort,
        sum(found.entropy for found in sections_down.values()),
        sections_down,
        strands.bases(answered),
        exchanged,
        time.monotonic() - began,
        kept=(state.kept.size, *(int(np.count_nonzero(nest)) for nest in state.nests)),
        plans=plans,
    )


def _ask(
    requests: Iterable[Request],
    fold: Fold,
    *,
    round: int,
    fleet: Fleet,
    over: Callable[[], bool],
    journal: Journal,
    observer: Observer,
) -> list[tuple[Reply, str]]:
    """Folds what comes of the requests; the failures that a device knows nothing of, with its name, come back."""
    lost = []
    for reply in fleet.exchange(requests, round=round, over=over):
        name = fleet.name(reply.node)
        if reply.payload is None and reply.kind in GRIDS_OWN:
            lost.append((reply, name))
        else:
            journal.add(round, reply, name=name)
        fold.take(reply, name=name)
        observer.replied()
    return lost


def _over(fold: Fold, experiment: Experiment, *, began: float) -> Callable[[], bool]:
    fleet, quorum = experiment.fleet, experiment.aggregation.min_replies

    def over() -> bool:
        usable = len(fold.clients)
        late = fleet.deadline is not None and time.monotonic() - began >= fleet.deadline
        return usable >= fleet.cohort or (late and usable >= quorum)

    return over


def _kept_sums(experiment: Experiment, state: RoundState) -> Nested:
    sizes = [state.kept.size, *(int(np.count_nonzero(nest)) for nest in state.nests)]
    representation = experiment.at(state.round + 1).representation
    of_speakers = experiment.signs.abstain > 0 and experiment.signs.voters == "random"
    parts: list[Aggregator] = [
        SignMean(size, of_speakers=of_speakers) if representation != "weights" else FloatMean(size) for size in sizes
    ]
    return Nested(parts, places=[None, *state.nests], count=state.kept.size)


def _float_sums(state: RoundState) -> Nested:
    count = state.floats.size
    return Nested([FloatMean(count) for _ in range(state.levels)], places=[None] * state.levels, count=count)


def _require_enough(fold: Fold, cohort: Sequence[int], experiment: Experiment, *, round: int) -> None:
    needed = experiment.aggregation.min_replies
    if len(fold.clients) >= needed:
        return
    first = min(fold.failures, key=lambda failure: failure.client, default=None)
    why = "lower aggregation.min_replies" if first is None else f"{first.client}: {first.reason}"
    if not cohort:
        why = "none of those that are there has memory enough, or said so; add a smaller part to budget.levels"
    raise TooFewRepliesError(
        f"round {round}: {len(fold.clients)} of {len(cohort)} clients gave a usable reply and {needed} are needed; "
        f"{why}",
        usable=frozenset(fold.clients),
        answered=any(failure.kind not in GRIDS_OWN for failure in fold.failures),
    )
