"""What runs and lines come to, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.server.comparing.estimating import remaining_seconds
from hedgerow.server.comparing.figures import AXES, LineFigures, line_figures, run_figures
from hedgerow.server.comparing.folder import Found, Stage
from hedgerow.server.comparing.lines import Line
from hedgerow.server.comparing.pareto import beaten_by
from hedgerow.server.comparing.plan import Plan, planned
from hedgerow.telemetry import Failure, PlanRecord, RecalibrationRecord, RoundRecord
from tests.unit.control_server import record

ROUNDS = 4


def plan_of(tmp_path: Path, *names: str, seeds: int = 2) -> Plan:
    path = tmp_path / "some.toml"
    path.write_text(f"rounds = {ROUNDS}\n")
    lines = [Line(name=name, settings=(("pruning.density", 0.1 + k / 10),)) for k, name in enumerate(names)]
    return planned(path, title="some", lines=lines, seeds=seeds)


def rounds(*accuracies: float | None, **changes: object) -> tuple[RoundRecord, ...]:
    """Rounds from 0 on; each sends 100 bytes up and 200 down, takes 2 s, and 3 s of two clients."""
    return tuple(record(k, accuracy=accuracy).model_copy(update=changes) for k, accuracy in enumerate(accuracies))


def found(plan: Plan, stage: Stage = "done", **records: tuple[RoundRecord, ...]) -> list[Found]:
    return [Found(run=run, stage=stage, records=records[run.line]) for run in plan.runs if run.line in records]


def test_a_run_comes_to_the_sums_of_its_rounds_and_to_the_last_and_the_best_accuracy() -> None:
    failures = (Failure(client="a", reason="gone"),)
    records = [*rounds(0.1, 0.8, None), record(3, accuracy=0.7).model_copy(update={"failures": failures, "kept": 7})]
    figures = run_figures(records)
    assert (figures.accuracy, figures.best_accuracy, figures.best_round, figures.rounds) == (0.7, 0.8, 1, 3)
    assert (figures.bytes_up, figures.bytes_down, figures.bytes_both) == (400, 800, 1200)
    assert (figures.kept, figures.failures, figures.loss) == (7, 1, 0.5)
    assert (figures.seconds, figures.client_seconds) == (8.0, 12.0)
    assert figures.reply_seconds == 12.0 / 8
    assert (figures.client_peak_bytes, figures.client_held_bytes) == (1000, None)


def test_what_was_asked_beside_the_rounds_counts() -> None:
    beside = PlanRecord(
        levels={0: 1}, refused=0, bytes_up=5, bytes_down=7, failures=(Failure(client="b", reason="gone"),)
    )
    again = RecalibrationRecord(replies=1, bytes_up=11, bytes_down=13)
    figures = run_figures([record(1).model_copy(update={"plans": beside, "recalibration": again})])
    assert (figures.bytes_up, figures.bytes_down, figures.failures) == (116, 220, 1)


def test_the_memory_of_a_run_is_the_largest_of_its_rounds() -> None:
    peaks = (None, 500, 900, 700)
    records = [
        r.model_copy(
            update={"measured": r.measured.model_copy(update={"client_peak_bytes": peak, "client_held_bytes": peak})}
        )
        for r, peak in zip(rounds(0.1, 0.2, 0.3, 0.4), peaks, strict=True)
    ]
    assert run_figures(records).client_peak_bytes == 900
    assert run_figures(records).client_held_bytes == 900
    assert run_figures(records[:1]).client_peak_bytes is None


def test_a_run_that_nobody_evaluated_or_answered_has_no_accuracy_and_no_seconds_a_reply() -> None:
    figures = run_figures(rounds(None, replies=0))
    assert (figures.accuracy, figures.best_accuracy, figures.best_round, figures.reply_seconds) == (None,) * 4


def test_a_line_is_the_mean_over_its_seeds_and_their_standard_deviation(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "b")
    runs = [
        Found(run=plan.runs[0], stage="done", records=rounds(0.1, 0.70)),
        Found(run=plan.runs[1], stage="done", records=rounds(0.1, 0.72, bytes_up=50, bytes_down=50)),
        Found(run=plan.runs[2], stage="done", records=rounds(0.1, 0.80)),
        Found(run=plan.runs[3], stage="done", records=rounds(0.1, 0.84, bytes_up=50, bytes_down=50)),
    ]
    first, second = line_figures(plan, runs)
    assert first.name == "a"
    spread = second.over["accuracy"]
    assert spread.count == 2
    assert spread.mean == pytest.approx(0.78)
    assert spread.deviation == pytest.approx(0.12 / math.sqrt(2))
    assert (first.points, first.fewer) == (None, {})
    # Of the same seeds: 0.72 - 0.70 and 0.84 - 0.80.
    assert second.points is not None
    assert second.points.mean == pytest.approx(3.0)
    assert second.points.deviation == pytest.approx(math.sqrt(2))
    assert second.fewer == {"bytes_both": 3.0, "client_peak_bytes": 1.0, "client_seconds": 1.0}
    assert (first.beaten_by, second.beaten_by) == (("b",), ())


def memory(peak: int | None, held: int | None) -> dict[str, object]:
    measured = record(0).measured
    return {"measured": measured.model_copy(update={"client_peak_bytes": peak, "client_held_bytes": held})}


def test_lines_whose_devices_plan_are_compared_by_what_these_held(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "b", seeds=1)
    lines = line_figures(plan, found(plan, a=rounds(0.5, **memory(None, 900)), b=rounds(0.5, **memory(None, 300))))
    assert lines[1].fewer == {"bytes_both": 1.0, "client_held_bytes": 3.0, "client_seconds": 1.0}
    assert [line.beaten_by for line in lines] == [("b",), ()]


def test_what_one_held_and_another_allocated_at_most_are_not_compared(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "b", seeds=1)
    lines = line_figures(plan, found(plan, a=rounds(0.5, **memory(None, 900)), b=rounds(0.5, **memory(300, None))))
    assert lines[1].fewer == {"bytes_both": 1.0, "client_seconds": 1.0}
    assert [line.beaten_by for line in lines] == [(), ()]


def test_lines_are_compared_on_the_seeds_that_both_have_done(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "b")
    runs = [
        Found(run=plan.runs[0], stage="done", records=rounds(0.5)),
        Found(run=plan.runs[1], stage="done", records=rounds(0.6)),
        Found(run=plan.runs[2], stage="begun", records=rounds(0.9)),
        Found(run=plan.runs[3], stage="done", records=rounds(0.1)),
    ]
    first, second = line_figures(plan, runs)
    assert sorted(first.runs) == [0]
    assert second.points is not None
    assert second.points.mean == pytest.approx(10.0)
    assert (second.points.deviation, second.points.count) == (None, 1)


def test_a_line_of_which_nothing_is_done_has_no_figures(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "b")
    lines = line_figures(plan, found(plan, b=rounds(0.5)))
    assert lines[0] == LineFigures(name="a", runs={}, over={}, fewer={})
    assert lines[1].points is None
    assert lines[1].mean("accuracy") == 0.5
    assert lines[0].mean("accuracy") is None


def test_the_axes_are_figures() -> None:
    figures = run_figures(rounds(0.5))
    assert all(hasattr(figures, axis) for axis in AXES)


def test_nobody_is_beaten_by_one_who_is_worse_on_an_axis() -> None:
    points = {"cheap": [0.8, -1.0], "good": [0.9, -5.0], "poor": [0.7, -5.0], "middle": [0.85, -3.0]}
    assert beaten_by(points) == {"cheap": (), "good": (), "poor": ("cheap", "good", "middle"), "middle": ()}


def test_equals_do_not_beat_each_other_and_an_axis_that_one_lacks_counts_for_none() -> None:
    assert beaten_by({"a": [0.5, -1.0], "b": [0.5, -1.0]}) == {"a": (), "b": ()}
    assert beaten_by({"a": [0.5, None], "b": [0.6, -9.0]}) == {"a": ("b",), "b": ()}
    assert beaten_by({}) == {}


@given(st.dictionaries(st.text(), st.lists(st.integers(0, 3).map(float), min_size=3, max_size=3), max_size=8))
def test_somebody_unbeaten_beats_each_who_is_beaten(points: dict[str, list[float]]) -> None:
    found = beaten_by(points)
    unbeaten = {name for name, others in found.items() if not others}
    assert bool(unbeaten) == bool(points)
    for name, others in found.items():
        assert name not in others
        assert not others or unbeaten & set(others)


def test_what_remains_is_estimated_by_the_pace_of_each_line(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "b", "c")
    done = found(plan, a=rounds(*[0.5] * 5))
    assert len(done) == 2
    # Two seconds a round: b has 4 - 1 rounds left in both seeds, c did not begin and takes the mean of all.
    others = found(plan, "begun", b=rounds(0.1, 0.2)) + found(plan, "waiting", c=())
    assert remaining_seconds(done + others, jobs=1) == 2 * (6.0 + 8.0)
    assert remaining_seconds(done + others, jobs=2) == 6.0 + 8.0
    assert remaining_seconds(done + others, jobs=100) == 8.0, "a run is not divided"
    assert remaining_seconds(done, jobs=1) == 0.0
    assert remaining_seconds(found(plan, "waiting", a=()), jobs=1) is None


def test_a_run_that_did_not_begin_takes_as_long_as_those_of_its_line(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "a", "b")
    slow = tuple(record(k, seconds=10.0) for k in range(5))
    runs = [
        Found(run=plan.runs[0], stage="done", records=rounds(*[0.5] * 5)),
        Found(run=plan.runs[1], stage="done", records=slow),
        Found(run=plan.runs[2], stage="failed", reason="no"),
        Found(run=plan.runs[3], stage="waiting"),
    ]
    assert remaining_seconds(runs, jobs=1) == 40.0
