"""What the benchmark of all recipes trains, and what it makes of the records, by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from benchmarks.__main__ import BENCHMARKS
from benchmarks.compare.lines import ABLATIONS, ADDITIONS, LINES, OURS, QUICK_LINES, RECIPES, YARDSTICK
from benchmarks.compare.picture import pareto_picture
from benchmarks.compare.rows import case_tables, effect, targets
from benchmarks.compare.runs import plan_of
from benchmarks.compare.summary import beside, summarised
from benchmarks.compare.wanted import Wanted
from benchmarks.environment import DATA, ONLY, ROUNDS, SEEDS
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.config import recipe_names
from hedgerow.errors import ConfigError
from hedgerow.server.comparing.figures import LineFigures, line_figures, run_figures
from hedgerow.server.comparing.folder import Found
from hedgerow.server.comparing.plan import SPLITS, differing
from hedgerow.telemetry import RoundRecord
from tests.unit.control_server import record

RUN = {"bytes_up": 100, "bytes_down": 200, "client_peak_bytes": 1000, "client_seconds": 3.0}


@pytest.fixture(autouse=True)
def nothing_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (ONLY, DATA, SEEDS, ROUNDS):
        monkeypatch.delenv(name, raising=False)


def one(accuracy: float | None, **changes: float) -> tuple[RoundRecord, ...]:
    """The only record of a run: 100 bytes up and 200 down, a peak of 1,000 bytes, 3 seconds."""
    own = {**RUN, **changes}
    measured = {key: own.pop(key) for key in ("client_peak_bytes", "client_seconds")}
    made = record(1, accuracy=accuracy)
    return (made.model_copy(update={**own, "measured": made.measured.model_copy(update=measured)}),)


def line(name: str, *accuracies: float | None, **changes: float) -> LineFigures:
    """A line with a run for each accuracy, with seeds from 0."""
    plan = plan_of(wanted(name, seeds=range(len(accuracies))), title="x", data={}, quick=True)
    found = [
        Found(run=run, stage="done", records=one(a, **changes)) for run, a in zip(plan.runs, accuracies, strict=True)
    ]
    return line_figures(plan, found)[0]


def wanted(*lines: str, seeds: range = range(1), rounds: int = 30) -> Wanted:
    return Wanted(lines=lines, data=["digits"], seeds=list(seeds), rounds=rounds)


def test_there_is_a_line_for_every_recipe_and_the_yardstick_is_the_first() -> None:
    assert set(RECIPES) == set(recipe_names())
    assert RECIPES[0] == YARDSTICK
    assert set(QUICK_LINES) <= set(LINES)
    assert len(set(LINES)) == len(LINES)


@pytest.mark.parametrize("quick", [False, True])
def test_lines_share_all_but_their_recipes(quick: bool) -> None:
    plan = plan_of(wanted(*(QUICK_LINES if quick else LINES)), title="x", data={"data.name": "digits"}, quick=quick)
    shared = (
        *SPLITS,
        "seed",
        "model.name",
        "training.steps",
        "training.epochs",
        "training.batch_size",
        "evaluation.every",
    )
    assert differing(plan.runs, only=(*shared, "training.kernels", "training.precision")) == []
    assert plan.different == (() if quick else ("selection.public_samples",))
    public = [run.line for run in plan.runs if run.experiment.selection.public_samples]
    assert public == ([] if quick else ["static-snip"])


def test_an_ablation_changes_nothing_but_what_it_leaves_out_and_an_addition_but_what_it_has_more() -> None:
    pieces = {**ABLATIONS, **ADDITIONS}
    plan = plan_of(wanted(OURS, *pieces), title="x", data={}, quick=False)
    ours, *others = plan.runs
    for run in others:
        # Who changes the mask is told until when.
        assert set(differing([ours, run])) - {"adjustment.until"} == set(pieces[run.line]), run.line


@pytest.mark.parametrize(("rounds", "last"), [(30, 24), (10, 8), (100, 80)])
def test_masks_change_in_the_first_four_fifths_of_the_rounds(rounds: int, last: int) -> None:
    plan = plan_of(wanted(*RECIPES, rounds=rounds), title="x", data={}, quick=False)
    until = {run.line: run.experiment.adjustment.until for run in plan.runs if run.experiment.adjustment.every}
    assert set(until) == {"rigl", "gmp", "prunefl", "feddst", "fedtiny", "fedmef"}
    assert set(until.values()) == {last}
    assert {run.experiment.rounds for run in plan.runs} == {rounds}


def test_runs_go_seed_by_seed_with_the_seeds_that_are_wanted() -> None:
    picked = Wanted(lines=[YARDSTICK, OURS], data=[], seeds=[5, 2], rounds=4)
    plan = plan_of(picked, title="x", data={}, quick=False)
    found = [(run.line, run.experiment.seed) for run in plan.runs]
    assert found == [(YARDSTICK, 5), (OURS, 5), (YARDSTICK, 2), (OURS, 2)]
    assert plan.seeds == (5, 2)


def test_the_environment_picks_lines_data_seeds_and_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Wanted.of(quick=False)
    assert (tuple(whole.lines), list(whole.seeds), whole.rounds) == (LINES, [0, 1, 2], 60)
    monkeypatch.setenv(ONLY, "whole-batch, fedpm,fedavg")
    monkeypatch.setenv(DATA, "cifar10-jpeg")
    monkeypatch.setenv(SEEDS, "7")
    monkeypatch.setenv(ROUNDS, "12")
    picked = Wanted.of(quick=False)
    assert picked == Wanted(lines=["fedavg", "fedpm", "whole-batch"], data=["cifar10-jpeg"], seeds=[7], rounds=12)
    monkeypatch.setenv(ONLY, "ablations")
    assert Wanted.of(quick=False).lines == [OURS, *ABLATIONS, *ADDITIONS]
    monkeypatch.setenv(ONLY, "fedavg")
    assert (Wanted.of(quick=True).lines, Wanted.of(quick=True).seeds) == (["fedavg"], [0])
    monkeypatch.setenv(ONLY, "fedavgg")
    with pytest.raises(ConfigError, match="there is no 'fedavgg'"):
        Wanted.of(quick=True)


@pytest.mark.parametrize("rounds", ["3,4", "0", "-1", "many"])
def test_rounds_are_one_number(rounds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROUNDS, rounds)
    with pytest.raises(ConfigError, match=ROUNDS):
        Wanted.of(quick=False)


def test_a_line_comes_to_means_spreads_and_ratios_to_the_yardstick() -> None:
    dense = line(YARDSTICK, 0.90, 0.92, bytes_up=40_000, bytes_down=20_000, client_peak_bytes=8000)
    ours = line(OURS, 0.89, 0.92, client_seconds=6.0)
    figures = summarised([dense, ours])
    assert figures["fedavg.accuracy"] == pytest.approx(0.91)
    assert figures["fedavg.spread"] == pytest.approx(0.02 / math.sqrt(2))
    assert (figures["fedavg.accuracy.0"], figures["fedavg.seeds"], figures["fedavg.bytes_both"]) == (0.90, 2, 60_000)
    assert figures["hedgerow.points"] == pytest.approx(-0.5)
    assert figures["hedgerow.points_spread"] == pytest.approx(1 / math.sqrt(2)), "-1 and 0 points"
    # 60,000 / 300, 8,000 / 1,000, and 3 / 6 seconds.
    assert [figures[f"hedgerow.{name}"] for name in ("fewer_bytes", "less_memory", "less_time")] == [200, 8, 0.5]
    assert "fedavg.points" not in figures
    assert not any(name.startswith(("ablation.", "hedgerow_over_")) for name in figures)
    assert "hedgerow.points" not in summarised([ours]), "without the yardstick nothing is compared with it"


def test_an_ablation_and_the_rival_are_compared_on_the_seeds_that_both_have() -> None:
    ours = line(OURS, 0.90, 0.80, 0.10)
    without = line("synflow", 0.89, 0.76, bytes_up=50, bytes_down=100, client_peak_bytes=1500)
    rival = line("fedpm", 0.80, bytes_up=2800, bytes_down=200)
    figures = summarised([rival, ours, without])
    assert figures["ablation.synflow.points"] == pytest.approx(2.5), "1 and 4 points"
    assert figures["ablation.synflow.points_spread"] == pytest.approx(3 / math.sqrt(2))
    assert figures["ablation.synflow.seeds"] == 2
    assert figures["ablation.synflow.fewer_bytes"] == 0.5
    assert figures["ablation.synflow.less_memory"] == 1.5
    assert figures["hedgerow_over_fedpm.points"] == pytest.approx(10)
    assert (figures["hedgerow_over_fedpm.fewer_bytes"], figures["hedgerow_over_fedpm.seeds"]) == (10, 1)


def test_who_is_better_in_all_three_is_counted_and_device_time_and_ablations_are_not() -> None:
    ours = line(OURS, 0.9)
    slow = line("rigl", 0.9, client_peak_bytes=999, client_seconds=99.0)
    greedy = line("gmp", 0.99, client_peak_bytes=1001)
    piece = line("half-precision-down", 0.99)
    assert summarised([ours, greedy, piece])["hedgerow.beaten_by"] == 0
    assert summarised([ours, greedy, slow, piece])["hedgerow.beaten_by"] == 1
    assert summarised([ours, line("rigl", 0.9)])["hedgerow.beaten_by"] == 0, "as good is not better"


def test_what_was_not_measured_has_no_figure() -> None:
    dense, ours = line(YARDSTICK, None), line(OURS, 0.9)
    found = beside(ours, dense)
    assert "points" not in found
    assert found["fewer_bytes"] == 1
    assert beside(ours, LineFigures(name="rigl", runs={}, over={}, fewer={})) == {}
    figures = summarised([dense, ours, LineFigures(name="rigl", runs={}, over={}, fewer={})])
    assert not any(name.startswith("rigl.") for name in figures)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5),
    st.integers(1, 10**9),
    st.integers(1, 10**9),
)
def test_comparing_the_other_way_round_negates_points_and_inverts_ratios(
    accuracies: list[tuple[float, float]], bytes_one: int, bytes_other: int
) -> None:
    def made(name: str, which: int, count: int) -> LineFigures:
        runs = {s: run_figures(one(pair[which], bytes_up=count, bytes_down=0)) for s, pair in enumerate(accuracies)}
        return LineFigures(name=name, runs=runs, over={}, fewer={})

    first, second = made("a", 0, bytes_one), made("b", 1, bytes_other)
    there, back = beside(first, second), beside(second, first)
    assert there["points"] == pytest.approx(-back["points"])
    assert there["points_spread"] == pytest.approx(back["points_spread"], abs=1e-9)
    assert there["fewer_bytes"] * back["fewer_bytes"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("points", "seeds", "fewer_bytes", "less_memory", "says"),
    [
        (0.5, 3, 1.0, 1.0, "helps accuracy"),
        (0.5, 1, 1.0, 1.0, "does not help"),
        (0.2, 3, 1.0, 1.0, "does not help"),
        (-0.5, 3, 1.5, 1.0, "helps bytes, costs accuracy"),
        (0.0, 3, 1.01, 0.99, "does not help"),
        (0.0, 3, 0.5, 1.5, "helps memory, costs bytes"),
        (-0.5, 3, 0.5, 0.5, "costs accuracy and bytes and memory"),
    ],
)
def test_a_piece_that_does_not_help_is_said_not_to(
    points: float, seeds: int, fewer_bytes: float, less_memory: float, says: str
) -> None:
    found = effect(points=points, spread=0.2, seeds=seeds, fewer_bytes=fewer_bytes, less_memory=less_memory)
    assert found == says


def figures_of(*lines: LineFigures) -> dict[str, float]:
    return {f"compare.x.{name}": value for name, value in summarised(lines).items()} | {"compare.failed": 0}


def test_targets_are_those_of_the_figures_that_there_are() -> None:
    dense = line(YARDSTICK, 0.90, bytes_up=30_000, bytes_down=30_000, client_peak_bytes=4000)
    good = figures_of(dense, line("fedpm", 0.80, bytes_up=400), line(OURS, 0.895))
    asked = list(targets(good, data=["x"], quick=False))
    assert [target.reached(good) for target in asked] == [True] * 7
    worse = figures_of(
        dense, line("fedpm", 0.90, bytes_down=100), line(OURS, 0.88, bytes_up=101, client_peak_bytes=1001)
    )
    missed = [target.figure for target in targets(worse, data=["x"], quick=False) if not target.reached(worse)]
    assert missed == [
        "compare.x.hedgerow.points",
        "compare.x.hedgerow.fewer_bytes",
        "compare.x.hedgerow.less_memory",
        "compare.x.hedgerow.beaten_by",
        "compare.x.hedgerow_over_fedpm.fewer_bytes",
        "compare.x.hedgerow_over_fedpm.points",
    ]
    assert [t.figure for t in targets(worse, data=["x"], quick=True)] == ["compare.failed"]
    assert [t.figure for t in targets(figures_of(dense), data=["x"], quick=False)] == ["compare.failed"]


def test_tables_have_a_line_for_each_that_ran_and_each_piece() -> None:
    found = figures_of(line(YARDSTICK, 0.9, 0.9), line(OURS, 0.8, 0.9), line("half-precision-down", 0.7, 0.8))
    lines, pieces = case_tables("x", found)
    assert "| `fedavg` | 90.00% | 0.00 | 2 |  |  | 10 |" in lines
    assert "| `hedgerow` | 85.00% | 7.07 | 2 | -5.00 |" in lines
    assert "rigl" not in lines
    assert "| `half-precision-down` | +10.00 | 0.00 | 1.00× | 1.00× | 1.00× | helps accuracy |" in pieces
    more = figures_of(line(OURS, 0.8, 0.9), line("with-selection", 0.7, 0.8, bytes_up=400))
    assert "| `with-selection` | -10.00 | 0.00 | 0.50× | 1.00× | 1.00× | costs accuracy and bytes |" in next(
        text for text in case_tables("x", more) if "with-selection" in text and "piece" in text
    )
    assert len(list(case_tables("x", figures_of(line(YARDSTICK, 0.9))))) == 1


def test_the_picture_is_drawn_whatever_is_missing(tmp_path: Path) -> None:
    lines = [line(YARDSTICK, 0.9, 0.91), line(OURS, 0.8), line("rigl", None), line("half-precision-down", 0.7)]
    pareto_picture(tmp_path / "a.png", {"x": lines, "y": [line("rigl", None)]})
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_of_what_papers_say_names_commands_and_pages_that_exist() -> None:
    page = Path(__file__).parents[2] / "benchmarks" / "papers.md"
    text = page.read_text(encoding="utf-8")
    commands = set(re.findall(r"scripts/bench (\w+)", text))
    assert {"compare", "recipes", "selection"} <= commands <= set(BENCHMARKS)
    assert all((page.parent / target).exists() for target in re.findall(r"\]\(([^)]+)\)", text))


def test_every_line_that_leaves_something_out_is_explained() -> None:
    readme = (Path(__file__).parents[2] / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert [name for name in ABLATIONS if f"`{name}`" not in readme] == []
