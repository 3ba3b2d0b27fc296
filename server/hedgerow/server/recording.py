"""What is recorded of a round."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from hedgerow.config import Experiment
from hedgerow.errors import RunError
from hedgerow.exchange import Measures
from hedgerow.ledger import ledger, plan_of
from hedgerow.pruning import Mask, Moves
from hedgerow.server.bench import Bench
from hedgerow.server.evaluation import Evaluation, evaluate
from hedgerow.server.rounds import Round
from hedgerow.server.state import RoundState
from hedgerow.telemetry import LevelRecord, Measured, PhaseBytes, RecalibrationRecord, RoundRecord, SelectionRecord
from hedgerow.telemetry.memory import peak_resident_bytes

__all__ = ["first_record", "is_evaluated", "is_recalibrated", "mask_churn", "record_of"]


def is_evaluated(experiment: Experiment, *, round: int) -> bool:
    """Whether the network is evaluated after a round."""
    return round % experiment.evaluation.every == 0 or round == experiment.rounds


def is_recalibrated(experiment: Experiment, *, round: int) -> bool:
    """Whether clients say the batch-norm statistics of the network before it is evaluated after a round."""
    wanted = experiment.evaluation.recalibrate
    return round == experiment.rounds if wanted == "last" else bool(wanted) and is_evaluated(experiment, round=round)


def first_record(
    state: RoundState, evaluation: Evaluation, *, selection: SelectionRecord | None, seconds: float
) -> RoundRecord:
    """The record of round 0, which is the state before any training."""
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
        selection=selection,
        measured=Measured(
            seconds=seconds,
            evaluation_seconds=0.0,
            client_seconds=0.0,
            client_peak_bytes=None,
            coordinator_peak_bytes=peak_resident_bytes(),
        ),
    )


def record_of(
    played: Round,
    *,
    old: RoundState,
    recalibration: RecalibrationRecord | None,
    experiment: Experiment,
    bench: Bench,
) -> RoundRecord:
    """The record of a round that was played from the state `old`; evaluates the network when it is time to.

    `experiment` are the settings of the round, and `bench` is that of the round too.

    Raises:
        RunError: the network's loss is not finite.
    """
    state, fold, old = played.state.best(), played.fold, old.best()
    began, evaluation = time.perf_counter(), None
    if is_evaluated(experiment, round=state.round):
        evaluation = evaluate(bench.kept_network(state), bench.dataset, batch_size=experiment.evaluation.batch_size)
        if not math.isfinite(evaluation.loss):
            raise RunError(f"round {state.round}: the network's test loss is {evaluation.loss}; lower the step sizes")
    evaluation_seconds = time.perf_counter() - began
    signs = experiment.representation == "signs"
    kept = state.mask.kept
    phases = _phases(fold.measures)
    measures = fold.measures
    share = math.fsum(m.native_share for m in measures) / len(measures)
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
        late=len(played.cohort) - len(fold.answered),
        examples=fold.examples,
        failures=tuple(sorted(fold.failures, key=lambda failure: failure.client)),
        bytes_up=fold.bytes_up,
        bytes_down=fold.bytes_down,
        entropy_up=math.fsum(fold.entropies),
        entropy_down=played.entropy_down,
        sections_up=fold.sections(),
        sections_down=played.sections_down,
        updated=sum(count for base, count in played.bases.items() if base > 0),
        adjustment=played.adjustment,
        levels=_levels(played),
        plans=played.plans,
        recalibration=recalibration,
        mask_churn=mask_churn(old.mask, state.mask),
        flip_rate=_flip_rate(old, state) if signs else None,
        client_flip_rate=sum(fold.flips) / fold.told if fold.flips else None,
        vote_margin=float(np.abs(state.kept).mean(dtype=np.float64)) if signs else None,
        measured=Measured(
            seconds=played.seconds + evaluation_seconds,
            evaluation_seconds=evaluation_seconds,
            client_seconds=math.fsum(m.seconds for m in measures),
            client_peak_bytes=None if phases is None else phases.peak,
            client_phase_bytes=phases,
            client_held_bytes=_held(measures),
            client_ledger_bytes=_computed(experiment, bench, state.mask, native=share > 0.5),
            native_share=share,
            coordinator_peak_bytes=peak_resident_bytes(),
        ),
    )


def _levels(played: Round) -> tuple[LevelRecord, ...]:
    fold, kept = played.fold, played.kept
    if len(kept) < 2:
        return ()
    return tuple(
        LevelRecord(level=level, kept=count, replies=fold.replies[level], examples=fold.samples[level])
        for level, count in enumerate(kept)
    )


def _phases(measures: Sequence[Measures]) -> PhaseBytes | None:
    phases = PhaseBytes(
        forward=int(max(m.forward_bytes for m in measures)),
        backward=int(max(m.backward_bytes for m in measures)),
        update=int(max(m.update_bytes for m in measures)),
        growth=int(max(m.growth_bytes for m in measures)),
    )
    return phases if phases.peak else None


def _held(measures: Sequence[Measures]) -> int | None:
    return int(max(m.held_bytes for m in measures)) or None


def _computed(experiment: Experiment, bench: Bench, mask: Mask, *, native: bool) -> PhaseBytes:
    plan = plan_of(experiment, native=native)
    found = ledger(bench.initial, mask, bench.dataset.input_shape, plan)
    return PhaseBytes(forward=found.forward, backward=found.backward, update=found.update)


def _flip_rate(old: RoundState, new: RoundState) -> float:
    """Fraction of the signs that both masks keep and the round changed."""
    before, after = old.kept >= 0, new.kept >= 0
    if new.mask is not old.mask:
        moves = Moves.between(old.mask, new.mask)
        before, after = before[moves.stays], after[moves.stayed]
    return float(np.mean(before != after)) if before.size else 0.0


def mask_churn(old: Mask, new: Mask) -> float:
    """Fraction of the positions that `new` keeps and `old` does not; the masks are of the same tensors."""
    if new is old or new.kept == 0:
        return 0.0
    return float(np.count_nonzero(new.flat() & ~old.flat())) / new.kept
