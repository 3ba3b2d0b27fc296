"""What is recorded of a mask that changes, of what clients say of their memory, and what older versions recorded."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from hedgerow.assembly import mask_of
from hedgerow.config import load_experiment
from hedgerow.exchange import Measures
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.server.bench import Bench
from hedgerow.server.outgoing import NEW, WHOLE
from hedgerow.server.recording import is_recalibrated, mask_churn, record_of
from hedgerow.server.rounds import Round
from hedgerow.server.state import RoundState
from hedgerow.sparse import float_tensors, read_vector
from hedgerow.telemetry import PhaseBytes, RoundRecord, SectionBytes, read_records


def keeping(*kept: int) -> Mask:
    return Mask({"w": torch.tensor([[index in kept for index in range(8)]])})


@pytest.mark.parametrize(
    ("old", "new", "churn"),
    [((0, 1, 2, 3), (0, 1, 2, 3), 0.0), ((0, 1, 2, 3), (0, 1, 2, 7), 0.25), ((0, 1), (4, 5, 6, 7), 1.0)],
)
def test_churn_is_the_fraction_of_kept_positions_that_are_new(
    old: tuple[int, ...], new: tuple[int, ...], churn: float
) -> None:
    assert mask_churn(keeping(*old), keeping(*new)) == churn


def test_positions_that_are_only_removed_are_no_churn() -> None:
    assert mask_churn(keeping(0, 1, 2, 3), keeping(0, 1)) == 0.0


EXPERIMENT = load_experiment(overrides=[("model.name", "mlp"), ("evaluation.every", 2), ("pruning.saliency", "random")])


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.of(EXPERIMENT)


@pytest.fixture(scope="module")
def state(bench: Bench) -> RoundState:
    mask = mask_of(EXPERIMENT, bench.initial, bench.dataset.input_shape)
    weights = {name: weight.detach() for name, weight in prunable_tensors(bench.initial).items()}
    kept = bench.exchange.representation.initial(weights, mask)
    return RoundState(round=1, mask=mask, kept=kept, floats=read_vector(float_tensors(bench.initial)))


def recorded(
    state: RoundState,
    bench: Bench,
    *measures: Measures,
    cohort: int | None = None,
    bases: Mapping[int, int] | None = None,
) -> RoundRecord:
    fold = SimpleNamespace(
        measures=[*measures],
        train_loss=lambda: 1.0,
        sections=lambda: {"counts/float32": SectionBytes(bytes=28, entropy=28.0)},
        clients=[*measures],
        answered=[*measures],
        examples=1,
        failures=[],
        bytes_up=0,
        bytes_down=0,
        entropies=[1.5, 2.25],
        flips=[],
    )
    played = SimpleNamespace(
        state=state,
        fold=fold,
        cohort=range(len(measures) if cohort is None else cohort),
        entropy_down=4.5,
        sections_down={"votes/symbols_rans": SectionBytes(bytes=7, entropy=4.5)},
        bases=bases or {},
        adjustment=None,
        seconds=1.0,
        kept=(state.mask.kept,),
        plans=None,
    )
    return record_of(cast(Round, played), old=state, recalibration=None, experiment=EXPERIMENT, bench=bench)


def said(forward: float, backward: float, update: float, share: float, *, seconds: float = 1.0) -> Measures:
    return Measures(
        examples=1,
        loss=1.0,
        seconds=seconds,
        forward_bytes=forward,
        backward_bytes=backward,
        update_bytes=update,
        native_share=share,
    )


def test_the_largest_of_the_cohort_is_recorded_by_phase_and_the_share_as_a_mean(
    state: RoundState, bench: Bench
) -> None:
    first, second = said(100, 300, 50, 1.0, seconds=0.25), said(200, 250, 60, 0.5, seconds=2)
    found = recorded(state, bench, first, second).measured
    assert found.client_phase_bytes == PhaseBytes(forward=200, backward=300, update=60)
    assert found.client_peak_bytes == 300
    assert found.native_share == 0.75
    assert found.client_seconds == 2.25


def test_looking_for_gradients_of_pruned_weights_is_a_phase_of_its_own(state: RoundState, bench: Bench) -> None:
    measures = replace(said(100, 300, 50, 1.0), growth_bytes=900)
    found = recorded(state, bench, measures, said(1, 2, 3, 1.0)).measured
    assert found.client_phase_bytes == PhaseBytes(forward=100, backward=300, update=50, growth=900)
    assert found.client_peak_bytes == 900


def test_where_no_client_measured_a_step_there_is_no_peak(state: RoundState, bench: Bench) -> None:
    found = recorded(state, bench, said(0, 0, 0, 1.0)).measured
    assert (found.client_peak_bytes, found.client_phase_bytes) == (None, None)


def test_the_most_that_a_request_held_is_recorded_where_somebody_measured_it(state: RoundState, bench: Bench) -> None:
    measures = replace(said(100, 300, 50, 1.0), held_bytes=5000)
    assert recorded(state, bench, measures, said(1, 2, 3, 1.0)).measured.client_held_bytes == 5000
    assert recorded(state, bench, said(1, 2, 3, 1.0)).measured.client_held_bytes is None


def test_what_was_computed_is_about_the_kernels_that_clients_used(state: RoundState, bench: Bench) -> None:
    native = recorded(state, bench, said(1, 1, 1, 0.9)).measured.client_ledger_bytes
    dense = recorded(state, bench, said(1, 1, 1, 0.1)).measured.client_ledger_bytes
    assert native is not None
    assert dense is not None
    assert native.peak < dense.peak


def test_those_that_were_sent_changes_are_counted_whatever_they_are_changes_of(state: RoundState, bench: Bench) -> None:
    measures = [said(1, 1, 1, 1)] * 11
    assert recorded(state, bench, *measures, bases={NEW: 3, WHOLE: 2, 4: 5, 9: 1}).updated == 6
    assert recorded(state, bench, *measures, bases={NEW: 6, WHOLE: 5}).updated == 0


def test_bytes_and_bounds_of_both_directions_are_recorded(state: RoundState, bench: Bench) -> None:
    found = recorded(state, bench, said(1, 1, 1, 1), cohort=3)
    assert (found.entropy_up, found.entropy_down) == (3.75, 4.5)
    assert found.sections_up == {"counts/float32": SectionBytes(bytes=28, entropy=28.0)}
    assert found.sections_down == {"votes/symbols_rans": SectionBytes(bytes=7, entropy=4.5)}
    assert (found.cohort, found.replies, found.late) == (3, 1, 2)


@pytest.mark.parametrize(("wanted", "rounds"), [(False, []), (True, [3, 6, 7]), ("last", [7])])
def test_statistics_are_asked_for_before_evaluations_or_only_the_last(wanted: bool | str, rounds: list[int]) -> None:
    overrides: list[tuple[str, object]] = [("rounds", 7), ("evaluation.every", 3), ("evaluation.recalibrate", wanted)]
    experiment = load_experiment(recipe="hidenseek", overrides=overrides)
    assert [round for round in range(1, 8) if is_recalibrated(experiment, round=round)] == rounds


def test_records_of_an_older_version_are_read(tmp_path: Path) -> None:
    line = {
        "round": 1,
        "accuracy": 0.5,
        "loss": 1.0,
        "train_loss": 1.0,
        "density": 0.1,
        "layer_density": {"a": 0.1},
        "kept": 10,
        "cohort": 2,
        "replies": 2,
        "late": 0,
        "examples": 40,
        "failures": [],
        "bytes_up": 10,
        "bytes_down": 20,
        "entropy_up": 9.0,
        "entropy_down": 18.0,
        "sections_up": {},
        "sections_down": {},
        "mask_churn": 0.0,
        "flip_rate": None,
        "client_flip_rate": None,
        "vote_margin": None,
        "measured": {
            "seconds": 1.0,
            "evaluation_seconds": 0.1,
            "client_seconds": 1.5,
            "client_peak_bytes": 123,
            "coordinator_peak_bytes": 456,
        },
    }
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(line) + "\n")
    (record,) = read_records(path)
    assert record.measured.client_peak_bytes == 123
    assert (record.measured.client_phase_bytes, record.measured.native_share) == (None, None)
    assert record.updated == 0
