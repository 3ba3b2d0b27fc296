"""A whole run: load or prune, play the rounds, evaluate, record, deliver."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator

from hedgerow.assembly import mask_of
from hedgerow.config import Experiment
from hedgerow.errors import InterruptedRunError, TooFewRepliesError
from hedgerow.ledger import weight_operations
from hedgerow.server.bench import Bench, description
from hedgerow.server.delivery import deliver
from hedgerow.server.evaluation import evaluate
from hedgerow.server.finish import begun
from hedgerow.server.fleet import Fleet
from hedgerow.server.journal import Journal, NoJournal, SqliteJournal
from hedgerow.server.levels import levelled
from hedgerow.server.patience import patiently
from hedgerow.server.planning import Planner
from hedgerow.server.pool import candidate_pool
from hedgerow.server.progress import Observer
from hedgerow.server.recalibrating import recalibrate
from hedgerow.server.recording import first_record, is_recalibrated, record_of
from hedgerow.server.rounds import Round, play_round
from hedgerow.server.run_folder import RunFolder
from hedgerow.server.selection import select
from hedgerow.server.state import RoundState

__all__ = ["coordinate", "is_done", "play_until_enough", "prepare", "resumable"]


def is_done(folder: RunFolder) -> bool:
    """Whether there is nothing left to do."""
    records = folder.records()
    complete = bool(records) and records[-1].round == folder.experiment.rounds
    return complete and folder.model.exists() and folder.report.exists()


def prepare(
    experiment: Experiment,
    *,
    bench: Bench,
    fleet: Fleet,
    folder: RunFolder,
    observer: Observer,
    live: bool = False,
    least: int | None = None,
) -> RoundState:
    """The state to go on from. That of a new run is made, evaluated and put on disk first.

    Args:
        experiment: what to run.
        bench: what was built from it.
        fleet: whom to ask where the devices choose the mask.
        folder: where it is kept.
        observer: is told that the run starts, and how it goes.
        live: devices come and go; a choice that too few took part in is made again.
        least: nodes that have to be there for that; `fleet.cohort` when None.

    Raises:
        RunError: a file cannot be used, or too few devices took part in the choice.
        PruningError: no such mask exists at this density.
        InterruptedRunError: the user pressed Ctrl-C.
    """
    state = folder.load()
    observer.started(
        folder=folder.path,
        description=description(experiment, bench),
        rounds=experiment.rounds,
        done=0 if state is None else state.round,
    )
    if state is not None:
        return state
    with resumable(folder):
        began, selection = time.perf_counter(), None
        if experiment.selection.candidates:
            chose = functools.partial(
                select,
                candidate_pool(experiment, bench, observer),
                experiment=experiment,
                bench=bench,
                fleet=fleet,
                observer=observer,
                least=least,
            )
            chosen = patiently(chose, again=lambda error: None, observer=observer) if live else chose()
            state, selection = chosen.state, chosen.record
        else:
            dataset = bench.dataset
            mask = mask_of(experiment, bench.initial, dataset.input_shape, progress=observer.pruning, dataset=dataset)
            state = bench.start(mask)
        exchange = bench.exchange
        state = levelled(
            state, experiment=experiment, architecture=exchange.architecture, representation=exchange.representation
        )
        evaluation = evaluate(bench.kept_network(state), bench.dataset, batch_size=experiment.evaluation.batch_size)
        record = first_record(state, evaluation, selection=selection, seconds=time.perf_counter() - began)
        folder.save(state, record)
        observer.finished_round(record, rounds=experiment.rounds)
    return state


def coordinate(
    experiment: Experiment,
    *,
    bench: Bench,
    fleet: Fleet,
    folder: RunFolder,
    observer: Observer,
    live: bool = False,
    least: int | None = None,
) -> None:
    """Runs an experiment to its end, from wherever `folder` left it.

    Args:
        experiment: what to run.
        bench: what was built from it.
        fleet: whom to ask.
        folder: where it is kept.
        observer: is told how it goes.
        live: devices come and go. Each reply is kept on disk from its arrival on, and a round with too few usable
            replies is played again.
        least: nodes that have to be there before a round is begun; `fleet.cohort` when None.

    Raises:
        RunError: a round had too few usable replies, the network's loss is not finite, or a file cannot be used.
        InterruptedRunError: the user pressed Ctrl-C; the last finished round is on disk.
    """
    state = prepare(experiment, bench=bench, fleet=fleet, folder=folder, observer=observer, live=live, least=least)
    operations = None
    if experiment.adjustment.criterion == "gradient":
        operations = weight_operations(bench.initial, bench.dataset.input_shape)
    with resumable(folder):
        with SqliteJournal(folder.journal) if live else contextlib.nullcontext(NoJournal()) as journal:
            planner = Planner()
            while state.round < experiment.rounds:
                number, old = state.round + 1, begun(state, experiment=experiment, bench=bench)
                there = bench.at(experiment, round=number)
                if number == experiment.stretch(number).start:
                    # What devices said of their memory was about what they trained before.
                    planner = Planner()
                play = functools.partial(
                    play_round,
                    experiment=experiment,
                    exchange=there.exchange,
                    fleet=fleet,
                    observer=observer,
                    history=folder.history,
                    journal=journal,
                    least=least,
                    planner=planner if experiment.budget.plan else None,
                    operations=operations,
                )
                played = play_until_enough(play, old, journal=journal, observer=observer) if live else play(old)
                recalibration = None
                if is_recalibrated(experiment, round=played.state.round):
                    found = recalibrate(
                        played.state,
                        cohort=sorted(played.fold.clients),
                        experiment=experiment,
                        bench=bench,
                        fleet=fleet,
                        observer=observer,
                        history=folder.history,
                    )
                    played, recalibration = dataclasses.replace(played, state=found.state), found.record
                state = played.state
                record = record_of(
                    played, old=old, recalibration=recalibration, experiment=experiment.at(number), bench=there
                )
                folder.save(state, record)
                journal.forget(state.round)
                observer.finished_round(record, rounds=experiment.rounds)
        there = bench.at(experiment, round=state.round)
        deliver(experiment, bench=there, state=state.best(), folder=folder)
        folder.remove_journal()
        folder.remove_versions()


def play_until_enough(
    play: Callable[[RoundState], Round], state: RoundState, *, journal: Journal, observer: Observer
) -> Round:
    """Plays the round after `state` until it has enough usable replies."""

    def again(error: TooFewRepliesError) -> None:
        nonlocal state
        journal.retry(state.round + 1, keep=error.usable)
        # Who was not usable may have lost the mask, and is given it again.
        held = {node: version for node, version in state.held.items() if node in error.usable}
        state = dataclasses.replace(state, held=held)

    return patiently(lambda: play(state), again=again, observer=observer)


@contextlib.contextmanager
def resumable(folder: RunFolder) -> Iterator[None]:
    """Turns Ctrl-C inside the block into what the user has to know about it.

    Raises:
        InterruptedRunError: the user pressed Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not folder.checkpoint.exists():
            raise InterruptedRunError("stopped before the first round; nothing was kept") from None
        done = folder.records()[-1].round
        raise InterruptedRunError(
            f"stopped; {done} rounds are kept in {folder.path}, and the same command goes on from there"
        ) from None
