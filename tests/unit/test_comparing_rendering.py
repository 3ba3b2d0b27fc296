"""A comparison as text, tables and a page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hedgerow.server.comparing.figures import line_figures, run_figures
from hedgerow.server.comparing.folder import Found
from hedgerow.server.comparing.lines import Line
from hedgerow.server.comparing.looks import look_of
from hedgerow.server.comparing.placing import Box, Wanted, placed
from hedgerow.server.comparing.plan import Plan, planned
from hedgerow.server.comparing.plots import Point, front_of
from hedgerow.server.comparing.render_csv import lines_csv, runs_csv
from hedgerow.server.comparing.render_text import print_comparison
from hedgerow.server.comparing.telling import Teller
from hedgerow.server.comparing.text_plot import Mark, text_plot
from hedgerow.server.comparing.writing import write_comparison
from hedgerow.telemetry import RoundRecord
from tests.unit.control_server import record

HOSTILE = '"><script>alert(1)</script>'


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("comparing") / "some.toml"


@pytest.fixture(scope="module")
def plan(file: Path) -> Plan:
    file.write_text("rounds = 2\n")
    lines = [Line(name=name, settings=(("pruning.density", 0.1 + k / 10),)) for k, name in enumerate(("a", "b", "c"))]
    return planned(file, title="digits", lines=lines, seeds=2)


def run(accuracy: float, **changes: int) -> tuple[RoundRecord, ...]:
    return tuple(record(k, accuracy=a).model_copy(update=changes) for k, a in enumerate((0.1, 0.5, accuracy)))


@pytest.fixture(scope="module")
def found(plan: Plan) -> list[Found]:
    """a and b are done, of c one seed failed and one is on its way."""
    records = {"a": run(0.7), "b": run(0.6, bytes_up=10, bytes_down=20), "c": ()}
    done = [Found(run=r, stage="done", records=records[r.line]) for r in plan.runs if r.line != "c"]
    failed, begun = (r for r in plan.runs if r.line == "c")
    return [
        *done,
        Found(run=failed, stage="failed", reason=HOSTILE),
        Found(run=begun, stage="begun", records=run(0.5)[:2]),
    ]


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_a_line_has_means_deviations_and_comparisons(plan: Plan, found: list[Found]) -> None:
    a, b, c = read(lines_csv(line_figures(plan, found)))
    assert (a["line"], a["seeds"], float(a["accuracy"]), float(a["accuracy_sd"])) == ("a", "2", 0.7, 0.0)
    assert (a["points_over_first"], a["fewer_bytes_both"]) == ("", "")
    assert float(b["points_over_first"]) == pytest.approx(-10.0)
    assert float(b["fewer_bytes_both"]) == 10.0
    assert (b["bytes_both"], b["beaten_by"]) == ("90.0", "")
    assert (c["seeds"], c["accuracy"]) == ("0", "")


def test_a_row_a_run_has_its_figures_and_where_it_lies(plan: Plan, found: list[Found]) -> None:
    rows = read(runs_csv(found, places={one.run.name: f"at {one.run.name}" for one in found}))
    assert [(row["line"], row["seed"], row["stage"]) for row in rows] == [
        (one.run.line, str(one.run.seed), one.stage) for one in found
    ]
    assert (rows[0]["accuracy"], rows[0]["folder"], rows[0]["recipe"]) == ("0.7", "at a, seed 0", "hedgerow")
    assert (rows[-2]["accuracy"], rows[-2]["reason"]) == ("", HOSTILE)


def test_everything_is_written_beside_the_runs(plan: Plan, found: list[Found], tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_comparison(out, plan, found)
    assert sorted(path.name for path in out.iterdir()) == [
        "comparison.csv",
        "comparison.html",
        "comparison.json",
        "runs.csv",
    ]
    content = json.loads((out / "comparison.json").read_text())
    a, b, c = content["lines"]
    assert a["settings"] == {"pruning.density": 0.1}
    assert b["settings"] == {"pruning.density": 0.2}
    assert (b["figures"]["bytes_both"]["mean"], b["fewer_than_first"]["bytes_both"]) == (90.0, 10.0)
    assert c["seeds_done"] == []
    assert content["runs"][0]["accuracies"] == [[0, 0.1], [1, 0.5], [2, 0.7]]
    assert content["runs"][0]["figures"]["accuracy"] == run_figures(found[0].records).accuracy


def test_the_same_arguments_give_the_same_page(page: str, plan: Plan, found: list[Found], tmp_path: Path) -> None:
    write_comparison(tmp_path, plan, found)
    assert (tmp_path / "comparison.html").read_text() == page


class Page(HTMLParser):
    """What a page refers to, and whether each element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.referred: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = {key: value or "" for key, value in attrs}
        self.links += [values[key] for key in ("href", "src") if key in values]
        self.ids += [values["id"]] if "id" in values else []
        for key in ("aria-labelledby", "aria-describedby"):
            self.referred += values.get(key, "").split()


@pytest.fixture(scope="module")
def page(plan: Plan, found: list[Found], file: Path) -> str:
    write_comparison(file.parent / "page", plan, found)
    return (file.parent / "page/comparison.html").read_text()


def test_the_page_needs_nothing_but_itself_and_links_to_reports_only(page: str, found: Sequence[Found]) -> None:
    parsed = Page(page)
    outside = [link for link in parsed.links if not link.startswith(("#", "data:,"))]
    assert outside == [
        f"runs/{one.run.line}/seed-{one.run.seed}/{one.run.experiment.digest()}/report.html"
        for one in found
        if one.stage == "done"
    ]
    assert "url(" not in re.sub(r"url\(#", "", page)


def test_what_is_shown_is_named_for_those_who_cannot_see_it(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert set(parsed.referred) <= set(parsed.ids)
    assert page.count('role="img"') == 4
    assert "a: 70.0% for 900 B; b: 60.0% for 90 B" in page


def test_a_reason_cannot_become_markup(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_says_how_far_the_runs_are_and_what_differs(page: str, plan: Plan, file: Path, tmp_path: Path) -> None:
    assert "4 of 6 runs are done, 1 failed." in page
    assert "on the same splits and cohorts" in page
    assert "pruning.density" in page
    assert "1 of 2 rounds" in page
    other = planned(
        file,
        title="other",
        lines=[*plan.lines[:1], Line(name="d", settings=(("data.alpha", 0.1),))],
        seeds=1,
        allow_different=True,
    )
    write_comparison(tmp_path / "other", other, [Found(run=run, stage="waiting") for run in other.runs])
    text = (tmp_path / "other/comparison.html").read_text()
    assert "The lines are not on the same splits: they differ in data.alpha." in text
    assert "on the same splits and cohorts" not in text
    assert "No run is done yet." in text


def test_a_pipe_gets_the_whole_table_and_plots(plan: Plan, found: list[Found]) -> None:
    text = io.StringIO()
    print_comparison(Console(file=text, width=40), line_figures(plan, found), seeds=plan.seeds)
    lines = text.getvalue().splitlines()
    assert lines[0].split()[:3] == ["line", "seeds", "accuracy"]
    row = "b b 2 60.00% ± 0.00 -10.00 ± 0.00 90 B 10× fewer 1.0 kB 1.0× 9.00 s 1.0× nobody"
    assert " ".join(lines[2].split()) == row
    assert " ".join(lines[3].split()) == "c c 0 of 2 – – – – –"
    assert sum(line.startswith("Accuracy and") for line in lines) == 3


def test_a_narrow_terminal_gets_fewer_columns(plan: Plan, found: list[Found]) -> None:
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True, color_system=None)
    print_comparison(console, line_figures(plan, found), seeds=plan.seeds)
    assert "fewer" not in text.getvalue()
    assert "60.00% ± 0.00" in text.getvalue()
    assert max(map(len, text.getvalue().splitlines())) <= 100


def test_letters_stand_at_their_values() -> None:
    marks = [Mark(letter="a", x=10.0, y=0.5), Mark(letter="b", x=40.0, y=0.9), Mark(letter="c", x=25.0, y=0.7)]
    lines = text_plot(marks, x_text=lambda x: f"{x:.0f} s", x_label="seconds", width=19, height=3).splitlines()
    assert lines == [
        " 90.0% │          b",
        "       │     c",
        " 50.0% │a",
        "       └───────────",
        "        10 s   40 s",
        "          seconds",
    ]


def test_a_crowded_place_is_a_star_and_a_wide_axis_is_logarithmic() -> None:
    marks = [Mark(letter=letter, x=x, y=0.5) for letter, x in (("a", 1.0), ("b", 100.0), ("c", 10.0), ("d", 10.0))]
    lines = text_plot(marks, x_text=str, x_label="x", width=19, height=3).splitlines()
    assert lines[1] == "       │a    *    b"
    assert lines[-1].endswith("x, log scale")


def test_the_front_are_those_that_nobody_is_better_than_in_both() -> None:
    points = [
        Point(name=n, look=0, x=x, y=y) for n, x, y in (("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.6), ("d", 3, 0.5))
    ]
    assert [point.name for point in front_of(points)] == ["a", "c"]


def test_the_first_lines_all_look_different() -> None:
    assert len({look_of(place) for place in range(64)}) == 64


def test_a_name_stands_right_of_its_point_or_left_where_something_is_there() -> None:
    frame = Box(0, 0, 100, 100)
    (box,) = placed([Wanted(50, 50, 20, 10)], within=frame, gap=5)
    assert box == Box(55, 45, 75, 55)
    (box,) = placed([Wanted(50, 50, 20, 10)], within=frame, taken=[Box(60, 40, 61, 60)], gap=5)
    assert box == Box(25, 45, 45, 55)
    assert placed([Wanted(50, 50, 20, 10)], within=frame, taken=[frame], gap=5) == [None]


@given(
    st.lists(
        st.builds(Wanted, *[st.floats(0, 100)] * 2, *[st.floats(1, 40)] * 2),
        max_size=12,
    )
)
@settings(max_examples=50)
def test_names_cover_neither_each_other_nor_a_dot_nor_leave_the_frame(wanted: list[Wanted]) -> None:
    frame = Box(0, 0, 100, 100)
    dots = [Box(one.x - 1, one.y - 1, one.x + 1, one.y + 1) for one in wanted]
    boxes = [box for box in placed(wanted, within=frame, taken=dots, gap=3) if box is not None]
    for place, box in enumerate(boxes):
        assert box.inside(frame)
        assert not any(box.meets(other) for other in [*boxes[:place], *dots])


def test_a_line_is_said_for_each_run_that_ends(plan: Plan, found: list[Found]) -> None:
    text = io.StringIO()
    teller = Teller(Console(file=text, width=200))
    teller.started(found, jobs=2, remaining=65.0)
    teller.ended(found[0].run, found, remaining=32.5)
    teller.ended(found[-2].run, found, remaining=None)
    teller.close()
    assert text.getvalue().splitlines() == [
        "6 runs, 4 done before, 1 goes on where it stopped, 2 at once, about 65.0 s left",
        "5/6  a, seed 0: accuracy 70.00%, 900 B, client peak 1.0 kB, 6.00 s; about 32.5 s left",
        f"6/6  c, seed 0: failed: {HOSTILE}",
    ]


def test_where_devices_plan_what_they_held_stands_beside_peaks(plan: Plan, tmp_path: Path) -> None:
    measured = record(0).measured.model_copy(update={"client_peak_bytes": None, "client_held_bytes": 2_000_000})
    planning = tuple(one.model_copy(update={"measured": measured}) for one in run(0.7))
    records = {"a": run(0.7), "b": planning, "c": planning}
    found = [Found(run=one, stage="done", records=records[one.line]) for one in plan.runs]
    lines = line_figures(plan, found)
    text = io.StringIO()
    print_comparison(Console(file=text), lines, seeds=plan.seeds)
    cells = [re.split(r"  +", line) for line in text.getvalue().splitlines()[1:4]]
    assert ["1.0 kB" in row for row in cells] == [True, False, False]
    assert ["2.0 MB held" in row for row in cells] == [False, True, True]
    assert "Accuracy and memory held" in text.getvalue()
    write_comparison(tmp_path, plan, found)
    page = (tmp_path / "comparison.html").read_text()
    assert 'id="plot-client-held-bytes"' in page
    assert page.count("<td>2.0 MB held</td>") == 2 + 4, "lines and runs"
    assert float(read((tmp_path / "comparison.csv").read_text())[1]["client_held_bytes"]) == 2_000_000
    said = io.StringIO()
    teller = Teller(Console(file=said, width=200))
    teller.ended(found[2].run, found, remaining=None)
    teller.close()
    assert "client held 2.0 MB" in said.getvalue()
