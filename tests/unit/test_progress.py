"""What people are told while a run waits for its devices, chooses its mask, and changes it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from hedgerow.server.progress import (
    ManyObservers,
    Observer,
    PlainObserver,
    TerminalObserver,
    adjustment_text,
    round_text,
    selection_text,
)
from hedgerow.telemetry import AdjustmentRecord, CandidateRecord, Failure, RecalibrationRecord, SelectionRecord
from tests.unit.control_server import record


def selection(*losses: float | None, winner: int) -> SelectionRecord:
    return SelectionRecord(
        candidates=tuple(
            CandidateRecord(name=f"rule {place}", loss=loss, kept=10, layer_density={})
            for place, loss in enumerate(losses)
        ),
        winner=winner,
        replies=(10, 9),
        failures=(Failure(client="tablet", reason="deadline passed"),),
        bytes_up=1000,
        bytes_down=7000,
    )


@pytest.mark.parametrize("kind", [PlainObserver, TerminalObserver])
def test_waiting_and_playing_again_are_told_in_a_line_each(kind: type[PlainObserver]) -> None:
    written = io.StringIO()
    observer: Observer = ManyObservers(kind(Console(file=written, width=40)), Observer())
    observer.chosen(["native kernels compute 5 of 6 layers", "conv1 stays dense"])
    observer.chosen([])
    observer.waiting(attached=2, needed=4)
    observer.replaying(reason="round 3: 1 of 4 clients gave a usable reply [and more]", seconds=8)
    assert written.getvalue().splitlines() == [
        "native kernels compute 5 of 6 layers",
        "waiting for devices: 2 of 4 are there",
        "round 3: 1 of 4 clients gave a usable reply [and more]; playing the round again in 8 s",
    ]


def test_where_devices_plan_a_round_tells_what_they_held() -> None:
    measured = record(1).measured.model_copy(update={"client_peak_bytes": None, "client_held_bytes": 2_000_000})
    assert "  client held 2.0 MB  2.0 s" in round_text(record(1).model_copy(update={"measured": measured}), rounds=2)


@pytest.mark.parametrize("kind", [PlainObserver, TerminalObserver])
def test_the_choice_of_a_mask_is_one_line_before_that_of_round_0(kind: type[PlainObserver]) -> None:
    written = io.StringIO()
    observer = kind(Console(file=written, width=40))
    observer.selecting("statistics", 10)
    observer.replied()
    observer.finished_round(record(0).model_copy(update={"selection": selection(2.0, 1.0, 3.0, winner=1)}), rounds=10)
    assert written.getvalue().splitlines() == [
        "selection: tablet failed: deadline passed",
        "selection   3 candidates, rule 1 wins with loss 1.000 (mean 2.000; 10 and 9 devices)",
        "round  0/10  accuracy 75.00%  up 1.1 kB  down 7.2 kB  client peak 1.0 kB  2.0 s",
    ]


def test_candidates_whose_loss_is_not_finite_are_not_in_the_mean() -> None:
    assert "wins with loss 1.000 (mean 1.500;" in selection_text(selection(None, 1.0, 2.0, winner=1))
    assert "1 candidate, rule 0 wins with loss – (mean –;" in selection_text(selection(None, winner=0))


def test_a_round_that_changes_the_mask_says_so_even_where_nothing_is_evaluated() -> None:
    written = io.StringIO()
    observer = PlainObserver(Console(file=written, width=40))
    exchange = AdjustmentRecord(
        block=0, pruned={"conv3.weight": 1200, "conv4.weight": 34}, grown={"conv3.weight": 1200, "conv4.weight": 34}
    )
    observer.finished_round(record(3, accuracy=None), rounds=10)
    observer.finished_round(record(4, accuracy=None).model_copy(update={"adjustment": exchange}), rounds=10)
    assert written.getvalue() == (
        "round  4/10  up 100 B  down 200 B  client peak 1.0 kB  exchanged 1,234 weights in conv3, conv4  2.0 s\n"
    )


def test_a_line_names_a_few_tensors_and_counts_the_others() -> None:
    exchanged = {f"blocks.{place}.weight": 1 for place in range(6)}
    told = adjustment_text(AdjustmentRecord(block=0, pruned=exchanged, grown=exchanged))
    assert told == "exchanged 6 weights in blocks.0, blocks.1, blocks.2, blocks.3 and 2 more"
    assert (
        adjustment_text(AdjustmentRecord(block=0, pruned={"a.weight": 1}, grown={"a.weight": 1}))
        == "exchanged 1 weight in a"
    )
    assert (
        adjustment_text(AdjustmentRecord(block=0, pruned={"a.weight": 0}, grown={"a.weight": 0}))
        == "exchanged no weights"
    )


def test_the_bytes_of_a_recalibration_are_in_the_line_of_its_round() -> None:
    recalibration = RecalibrationRecord(replies=2, bytes_up=900, bytes_down=1800)
    assert "up 1.0 kB  down 2.0 kB" in round_text(
        record(5).model_copy(update={"recalibration": recalibration}), rounds=10
    )


def test_each_step_of_the_selection_has_its_bar(tmp_path: Path) -> None:
    written = io.StringIO()
    observer = TerminalObserver(Console(file=written, width=120, force_terminal=True, color_system=None))
    observer.started(folder=tmp_path, description="x", rounds=10, done=0)
    observer.selecting("statistics", 7)
    observer.replied()
    observer.selecting("losses", 6)
    observer.asked(round=1, clients=5)
    observer.close()
    shown = written.getvalue()
    assert "clients of round 1" in shown
    assert "0/5" in shown


def test_nothing_that_an_observer_is_told_is_lost_on_the_way_to_several() -> None:
    told = {name for name in vars(Observer) if not name.startswith("_")}
    assert told == {name for name in vars(ManyObservers) if not name.startswith("_")}
