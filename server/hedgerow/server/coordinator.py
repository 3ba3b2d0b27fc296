"""A whole run: load or prune, play the rounds, evaluate, record, deliver."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

import numpy as np

from hedgerow.assembly import mask_of
from hedgerow.config import Experiment
from hedgerow.errors import InterruptedRunError, RunError
from hedgerow.pruning import prunable_tensors
from hedgerow.server.bench import Bench, description
from hedgerow.server.delivery import deliver
from hedgerow.server.evaluation import Evaluation, evaluate
from hedgerow.server.fleet import Fleet
from hedgerow.server.progress import Observer
from hedgerow.server.rounds import Round, play_round
from hedgerow.server.run_folder import RunFolder
from hedgerow.server.state import RoundState
from hedgerow.sparse import float_tensors, read_vector, variance_positions
from hedgerow.telemetry import Measured, RoundRecord
from hedgerow.telemetry.memory import peak_resident_bytes

__all__ = ["coordinate", "is_done"]


def is_done(folder: RunFolder) -> bool:
    """Whether there is nothing left to do."""
    records = folder.records()
    complete = bool(records) and records[-1].round == folder.experiment.rounds
    return complete and folder.model.exists() and folder.report.exists()


def coordinate(experiment: Experiment, *, bench: Bench, fleet: Fleet, folder: RunFolder, observer: Observer) -> None:
    """Runs an experiment to its end, from wherever `folder` left it.

    Raises:
        RunError: a round had too few usable replies, or the network's loss is not finite.
        InterruptedRunError: the user pressed Ctrl-C; the last finished round is on disk.
    """
    state = folder.load()
    observer.started(
        folder=folder.path,
        description=description(experiment, bench),
        rounds=experiment.rounds,
        done=0 if state is None else state.round,
    )
    variances = variance_positions(bench.initial)
    with _resumable(folder):
        if state is None:
            began = time.perf_counter()
            state = _initial_state(experiment, bench, observer)
            evaluation = evaluate(bench.network(state), bench.dataset, batch_size=experiment.evaluation.batch_size)
            record = _first_record(state, evaluation, seconds=time.perf_counter() - began)
            folder.save(state, record)
            observer.finished_round(record, rounds=experiment.rounds)
        while state.round < experiment.rounds:
            old = state
            played = play_round(
                state,
                experiment=experiment,
                representation=bench.representation,
                fleet=fleet,
                observer=observer,
                variances=variances,
            )
            state = played.state
            record = _record(played, old=old, experiment=experiment, bench=bench)
            folder.save(state, record)
            observer.finished_round(record, rounds=experiment.rounds)
        deliver(experiment, bench=bench, state=state, folder=folder)


@contextlib.contextmanager
def _resumable(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if not folder.checkpoint.exists():
            raise InterruptedRunError("stopped before the first round; nothing was kept") from None
        done = folder.records()[-1].round
        raise InterruptedRunError(
            f"stopped; {done} rounds are kept in {folder.path}, and the same command goes on from there"
        ) from None


def _initial_state(experiment: Experiment, bench: Bench, observer: Observer) -> RoundState:
    model = bench.initial
    mask = mask_of(experiment, model, bench.dataset.input_shape, progress=observer.pruning)
    weights = {name: w.detach() for name, w in prunable_tensors(model).items()}
    return RoundState(
        round=0,
        mask=mask,
        kept=bench.representation.initial(weights, mask),
        floats=read_vector(float_tensors(model)),
    )


def _first_record(state: RoundState, evaluation: Evaluation, *, seconds: float) -> RoundRecord:
    return RoundRecord(
        round=0,
        accuracy=evaluation.accuracy,
        loss=evaluation.loss,
        density=state.mask.density,
        layer_density=state.mask.layer_density(),
        kept=state.mask.kept,
        cohort=0,
        replies=0,
        examples=0,
        bytes_up=0,
        bytes_down=0,
        entropy_up=0.0,
        entropy_down=0.0,
        measured=Measured(
            seconds=seconds,
            evaluation_seconds=0.0,
            client_seconds=0.0,
            client_peak_bytes=None,
            coordinator_peak_bytes=peak_resident_bytes(),
        ),
    )


def _record(played: Round, *, old: RoundState, experiment: Experiment, bench: Bench) -> RoundRecord:
    state, fold = played.state, played.fold
    began, evaluation = time.perf_counter(), None
    if state.round % experiment.evaluation.every == 0 or state.round == experiment.rounds:
        evaluation = evaluate(bench.network(state), bench.dataset, batch_size=experiment.evaluation.batch_size)
        if not math.isfinite(evaluation.loss):
            raise RunError(f"round {state.round}: the network's test loss is {evaluation.loss}; lower the step sizes")
    evaluation_seconds = time.perf_counter() - began
    signs = experiment.representation == "signs"
    kept = state.mask.kept
    peaks = [int(m["peak-bytes"]) for m in fold.metrics if "peak-bytes" in m]
    return RoundRecord(
        round=state.round,
        accuracy=None if evaluation is None else evaluation.accuracy,
        loss=None if evaluation is None else evaluation.loss,
        train_loss=fold.train_loss(),
        density=state.mask.density,
        layer_density=state.mask.layer_density(),
        kept=kept,
        cohort=len(played.cohort),
        replies=len(fold.clients),
        examples=fold.examples,
        failures=tuple(sorted(fold.failures, key=lambda failure: failure.client)),
        bytes_up=fold.bytes_up,
        bytes_down=fold.bytes_down,
        entropy_up=math.fsum(fold.entropies),
        entropy_down=played.entropy_down,
        flip_rate=float(np.mean((state.kept >= 0) != (old.kept >= 0))) if signs else None,
        client_flip_rate=sum(fold.flips) / (len(fold.flips) * kept) if fold.flips else None,
        vote_margin=float(np.abs(state.kept).mean(dtype=np.float64)) if signs else None,
        measured=Measured(
            seconds=played.seconds + evaluation_seconds,
            evaluation_seconds=evaluation_seconds,
            client_seconds=math.fsum(m["seconds"] for m in fold.metrics),
            client_peak_bytes=max(peaks, default=None),
            coordinator_peak_bytes=peak_resident_bytes(),
        ),
    )
