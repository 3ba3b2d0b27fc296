"""One round: ask a cohort, fold each reply as it arrives, make the next state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hedgerow.codec import Header
from hedgerow.config import Experiment
from hedgerow.errors import RunError, TooFewRepliesError
from hedgerow.exchange import Exchange, growth_of
from hedgerow.pruning import adjustment_of
from hedgerow.schedules import step_scale
from hedgerow.server.aggregation import Aggregator, FloatMean, SignMean
from hedgerow.server.cohort import cohort_of
from hedgerow.server.fleet import GRIDS_OWN, Fleet, Reply, Request
from hedgerow.server.fold import Fold
from hedgerow.server.growth import GradientSum, adjusted_state
from hedgerow.server.history import History, MemoryHistory
from hedgerow.server.journal import Journal, NoJournal
from hedgerow.server.outgoing import Outgoing
from hedgerow.server.progress import Observer
from hedgerow.server.state import RoundState
from hedgerow.telemetry import AdjustmentRecord, SectionBytes

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
        adjustment: what the round exchanged in the mask; None where it was not to.
        seconds: how long it took, without waiting for devices.
    """

    state: RoundState
    fold: Fold
    cohort: Sequence[int]
    entropy_down: float
    sections_down: dict[str, SectionBytes]
    bases: Mapping[int, int]
    adjustment: AdjustmentRecord | None
    seconds: float


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
) -> Round:
    """Plays the round after `state`, or goes on with it where `journal` says that it was begun.

    The round ends when `fleet.cohort` usable replies are in, when its deadline is over and the quorum is in, or when
    everybody who was asked has replied or failed.

    Args:
        state: where it starts.
        experiment: the settings.
        exchange: what is trained and sent.
        fleet: whom to ask.
        observer: is told how it goes.
        history: the versions that were sent before; none when None.
        journal: where it is kept while it is played; nowhere when None.
        least: nodes that have to be there before a round is begun; `fleet.cohort` when None.

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
    began = time.monotonic()
    if opened is None:
        # Whose reply is kept from a play that came to nothing need not be there to take part.
        kept = {reply.node for reply, _ in journal.replies(number)}
        cohort: Sequence[int] = cohort_of(experiment, sorted(kept.union(nodes)), round=number, least=least)
        journal.begin(number, cohort)
    else:
        cohort = opened.cohort
    adjustment = adjustment_of(number, settings=experiment.adjustment, rounds=experiment.rounds, mask=state.mask)
    growth = () if adjustment is None else growth_of(adjustment.counts, mask=state.mask)
    header = Header(bytes.fromhex(experiment.digest()), number, state.mask.digest, growth=growth)
    version = exchange.version(number, state.mask.digest, kept=state.kept, floats=state.floats)
    history = MemoryHistory(most=0) if history is None else history
    outgoing = Outgoing(header, version, exchange=exchange, state=state, history=history)
    fold = Fold(
        header=header,
        version=version,
        layers=list(state.mask.layer_kept().values()),
        exchange=exchange,
        kept=_aggregator(experiment, state.kept.size),
        floats=FloatMean(state.floats.size),
        gradients=GradientSum(state.mask, growth) if growth else None,
    )
    observer.asked(round=number, clients=len(cohort))
    for reply, name in journal.replies(number):
        fold.take(reply, name=name)
        observer.replied()
    if counted is None:
        over = _over(fold, experiment, began=began)
        missing = [] if over() else [node for node in cohort if node not in fold.answered]
        lost = _ask(
            outgoing.requests(missing), fold, round=number, fleet=fleet, over=over, journal=journal, observer=observer
        )
        _require_enough(fold, cohort, experiment, round=number)
        journal.close(number, counted=fold.clients, lost=lost)
    elif fold.clients != counted:
        raise RunError(f"round {number}: the journal lacks replies that count; delete it to play the round again")
    asked = frozenset(cohort)
    following = replace(
        state,
        round=number,
        kept=exchange.representation.following(
            state.kept,
            start=exchange.starts(version)[0],
            mean=fold.kept.mean(),
            scale=step_scale(experiment, round=number),
        ),
        floats=fold.floats.mean(),
        # Whoever failed or came too late may have lost its state, so it is given the mask again.
        held={node: held for node, held in state.held.items() if node not in asked}
        | dict.fromkeys(fold.clients, number),
    )
    answered = sorted(fold.answered)
    changed, exchanged = adjusted_state(following, adjustment, fold.gradients, representation=exchange.representation)
    return Round(
        changed,
        fold,
        cohort,
        outgoing.entropy(answered),
        outgoing.sections(answered),
        outgoing.bases(answered),
        exchanged,
        time.monotonic() - began,
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


def _aggregator(experiment: Experiment, kept: int) -> Aggregator:
    if experiment.representation != "signs":
        return FloatMean(kept)
    return SignMean(kept, of_speakers=experiment.signs.abstain > 0 and experiment.signs.voters == "random")


def _require_enough(fold: Fold, cohort: Sequence[int], experiment: Experiment, *, round: int) -> None:
    needed = experiment.aggregation.min_replies
    if len(fold.clients) >= needed:
        return
    first = min(fold.failures, key=lambda failure: failure.client, default=None)
    why = "lower aggregation.min_replies" if first is None else f"{first.client}: {first.reason}"
    raise TooFewRepliesError(
        f"round {round}: {len(fold.clients)} of {len(cohort)} clients gave a usable reply and {needed} are needed; "
        f"{why}",
        usable=frozenset(fold.clients),
        answered=any(failure.kind not in GRIDS_OWN for failure in fold.failures),
    )
