from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hedgerow.errors import RunError
from hedgerow.ledger import Ledger
from hedgerow.server.report import Sizes, accuracy_picture, write_report
from hedgerow.server.report.comparison import spread
from hedgerow.server.report.render import HOW_TO_LOAD
from hedgerow.server.report.settings_text import settings_text
from hedgerow.server.report.summary import tiles
from hedgerow.server.report.tables import FAILURES_SHOWN
from hedgerow.telemetry.records import Failure, LevelRecord, Measured, PhaseBytes, PlanRecord, RoundRecord
from hedgerow.units import bytes_text, clean_text, percent_text, seconds_text

SIZES = Sizes(dense_model_bytes=40_000)
SETTINGS: dict[str, object] = {
    "recipe": "hedgerow",
    "seed": 7,
    "fleet": {"clients": 100, "deadline": None, "partition": {"alpha": 0.3}},
}
HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>'

Build = Callable[..., str]


def measured(number: int, **changes: object) -> Measured:
    peak = None if number == 0 else 3_000_000 + 100_000 * number
    values: dict[str, object] = {
        "seconds": 1.5,
        "evaluation_seconds": 0.5,
        "client_seconds": 9.0,
        "client_peak_bytes": peak,
        "coordinator_peak_bytes": 400_000_000,
    }
    return Measured.model_validate(values | changes)


def record(number: int, **changes: object) -> RoundRecord:
    """Round 0 sends nothing; every later one asks 5 clients, of which 4 reply; every second one is evaluated."""
    trained = number > 0
    evaluated = number % 2 == 0
    values: dict[str, object] = {
        "round": number,
        "accuracy": 0.9 - 0.8 * math.exp(-number / 4) if evaluated else None,
        "loss": 0.2 + 2.1 * math.exp(-number / 4) if evaluated else None,
        "train_loss": 0.1 + 2 * math.exp(-number / 4) if trained else None,
        "density": 0.05,
        "layer_density": {"conv1.weight": 0.4, "conv2.weight": 0.03, "head.weight": 0.2},
        "kept": 500,
        "cohort": 5 if trained else 0,
        "replies": 4 if trained else 0,
        "examples": 240 if trained else 0,
        "failures": (Failure(client=f"device-{number}", reason="deadline passed"),) if trained else (),
        "bytes_up": 300 if trained else 0,
        "bytes_down": 700 if trained else 0,
        "entropy_up": 250.0 if trained else 0.0,
        "entropy_down": 600.0 if trained else 0.0,
        "flip_rate": 0.2 * math.exp(-number / 5) if trained else None,
        "client_flip_rate": 0.3 * math.exp(-number / 5) if trained else None,
        "vote_margin": 1 - 0.6 * math.exp(-number / 5) if trained else None,
        "measured": measured(number),
    }
    return RoundRecord.model_validate(values | changes)


@pytest.fixture(scope="module")
def run() -> list[RoundRecord]:
    return [record(number) for number in range(11)]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def write(
        records: Sequence[RoundRecord],
        title: str = "Digits",
        settings: Mapping[str, object] = SETTINGS,
        facts: Mapping[str, str] = MappingProxyType({"Model": "lenet5", "Seed": "7"}),
        how_to_load: str = HOW_TO_LOAD,
        ledger: Ledger | None = None,
        paths: Mapping[str, object] | None = None,
    ) -> str:
        path = tmp_path / "out" / "report.html"
        write_report(
            path,
            title=title,
            settings=settings,
            records=records,
            facts=facts,
            sizes=SIZES,
            how_to_load=how_to_load,
            ledger=ledger,
            paths=paths,
        )
        return path.read_text(encoding="utf-8")

    return write


class Page(HTMLParser):
    """The tags and attributes of a page, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] != "style":
            self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


def headline(records: Sequence[RoundRecord], sizes: Sizes = SIZES) -> dict[str, tuple[str, str, str]]:
    return {tile.label: (tile.value, tile.aside, tile.note) for tile in tiles(records, sizes)}


def test_the_tiles_equal_numbers_worked_out_by_hand() -> None:
    records = [
        record(0, accuracy=0.1),
        record(1, accuracy=0.875, kept=400, replies=5, bytes_up=300, entropy_up=200.0),
        record(2, accuracy=0.8125, kept=500, measured=measured(2, seconds=60.25)),
        record(3, accuracy=None),
    ]
    shown = headline(records)
    assert shown["Final accuracy"] == ("81.2%", "", "test set, round 2")
    assert shown["Best accuracy"] == ("87.5%", "", "test set, round 1")
    assert shown["Density"] == ("5.0%", "", "500 weights kept")
    # 3 · (300 + 700) bytes; dense: 40,000 · (15 asked + 13 replied) = 1,120,000 bytes, 373 times as many
    value, aside, note = shown["Total bytes, both ways"]
    assert (value, aside) == ("3.0 kB", "373× fewer than dense fp32")
    assert note == (
        "900 B up, 2.1 kB down. Dense: sending the fp32 model (40.0 kB) to the same clients (15 times) and back "
        "(13 times) would take 1.1 MB; that is computed from the model’s size, not measured."
    )
    # 8 · 900 / (400 · 5 + 500 · 4 + 500 · 4) = 7200 / 6000 and 8 · (200 + 250 + 250) / 6000
    assert shown["Bits up per kept weight"] == ("1.20", "", "per reply; entropy bound 0.93")
    assert shown["Peak client memory"][0] == "3.3 MB"
    assert shown["Total time"] == ("64.8 s", "", "wall clock, rounds 0 to 3")


def test_every_tile_stands_in_the_page(build: Build, run: list[RoundRecord]) -> None:
    words = " ".join(Page(build(run)).words)
    for tile in tiles(run, SIZES):
        assert tile.value in words
        assert tile.note in words


def test_a_run_that_sends_more_than_dense_training_says_so() -> None:
    assert (
        headline([record(1)], Sizes(dense_model_bytes=50))["Total bytes, both ways"][1] == "2.2× more than dense fp32"
    )


def test_the_same_records_give_the_same_bytes(build: Build, run: list[RoundRecord]) -> None:
    assert build(run) == build(run)


def test_one_other_number_gives_another_page(build: Build, run: list[RoundRecord]) -> None:
    assert build(run) != build([*run[:-1], record(10, accuracy=0.5)])


def test_the_page_refers_to_nothing_outside_itself(build: Build, run: list[RoundRecord]) -> None:
    text = build(run)
    page = Page(text)
    assert "http" not in text.replace("http-equiv", "")
    assert not {"script", "iframe", "object", "embed", "img", "audio", "video", "base", "form"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    assert all(value.startswith(("#", "data:,")) for value in page.values("href") + page.values("xlink:href"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert "@import" not in text


def test_text_from_devices_and_users_never_becomes_markup(build: Build) -> None:
    plain = Page(build([record(1)]))
    failure = Failure(client=HOSTILE, reason=HOSTILE)
    hostile = Page(
        build(
            [record(1, failures=(failure,), layer_density={HOSTILE: 0.5, "a$b$ \x00": 0.1, "c": 0.2})],
            title=HOSTILE,
            settings={HOSTILE: HOSTILE, "fleet": {"a": 1, "b": {"c": 1}}},
            facts={"Model": HOSTILE, HOSTILE: "7"},
            how_to_load=HOSTILE,
        )
    )
    assert set(hostile.tags) == set(plain.tags)
    assert {name for _, name, _ in hostile.attributes} == {name for _, name, _ in plain.attributes}
    # title twice, client, reason, two facts, a layer in the text and the table, the code: all there, as text
    assert sum(word.count("<script>alert(1)</script>") for word in hostile.words) >= 8


def test_control_and_reordering_characters_of_a_device_are_dropped(build: Build) -> None:
    page = build([record(1, failures=(Failure(client="a\u202eb\x00", reason="c\ud800\nd" + "x" * 100_000),))])
    assert "<td>a b</td><td>c dxxx" in page
    assert "x" * 301 not in page


def test_only_the_latest_failures_are_shown_and_all_are_counted(build: Build) -> None:
    failures = tuple(Failure(client=f"client-{number}.", reason="late") for number in range(FAILURES_SHOWN + 3))
    page = build([record(1, failures=failures)])
    assert f"The latest {FAILURES_SHOWN} of {FAILURES_SHOWN + 3}" in page
    assert "client-2." not in page
    assert "client-3." in page


def test_a_run_without_failures_has_no_table_of_them(build: Build) -> None:
    assert "did not deliver" in build([record(1)])
    assert "did not deliver" not in build([record(1, failures=())])


@pytest.mark.parametrize("rounds", [1, 2, 3, 40])
def test_runs_of_any_length_are_drawn(build: Build, rounds: int) -> None:
    page = build([record(number) for number in range(rounds)])
    assert f"State after round {rounds - 1}." in page
    assert page.count('role="img"') == (4 if rounds == 1 else 8)


LEDGER = Ledger(
    weights=1000,
    indices=500,
    floats=100,
    optimiser=1000,
    gradients=1000,
    activations={"conv1": 40_000, "conv2": 20_000},
    transient=7000,
    transient_of="conv2",
    forward=61_000,
    backward=64_000,
    update=4000,
)
PATHS: dict[str, object] = {
    "layers": [
        {
            "name": "conv1",
            "kept": 250,
            "density": 0.05,
            "path": "native",
            "native_seconds": 0.001,
            "dense_seconds": 0.00425,
        },
        {
            "name": "odd",
            "kept": 3,
            "density": 1.0,
            "path": "unconverted",
            "native_seconds": None,
            "dense_seconds": None,
        },
    ],
    "step_ratio": 4.13,
    "unconverted": ["odd: a layer of yours"],
}


def computing(number: int, **changes: object) -> RoundRecord:
    phases = PhaseBytes(forward=60_000 + number, backward=65_000, update=4000)
    ledger = PhaseBytes(forward=61_000, backward=64_000, update=4000)
    return record(
        number,
        measured=measured(
            number,
            client_peak_bytes=phases.peak,
            client_phase_bytes=phases,
            client_ledger_bytes=ledger,
            **{"native_share": 0.75, **changes},
        ),
    )


def cells(page: str) -> list[str]:
    return [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", page)]


def test_measured_peaks_stand_beside_the_computed_ones(build: Build) -> None:
    page = build([computing(1), computing(2)], ledger=LEDGER, paths=PATHS)
    shown = cells(page)
    for row in (
        ["Forward", "60.0 kB", "61.0 kB"],
        ["Backward", "65.0 kB", "64.0 kB"],
        ["Update", "4.0 kB", "4.0 kB"],
        ["Peak", "65.0 kB", "64.0 kB"],
    ):
        start = shown.index(row[0])
        assert shown[start : start + 3] == row
    assert shown[shown.index("Kept for the backward pass") + 1] == "60.0 kB"
    assert shown[shown.index("Most that a layer needs beside (conv2)") + 1] == "7.0 kB"
    assert "computed: 64.0 kB" in page
    assert "… computed" in shown


def test_what_devices_have_memory_for_is_told(build: Build) -> None:
    levels = tuple(LevelRecord(level=k, kept=1000 >> k, replies=2 - k, examples=9) for k in (0, 1, 2))
    first = PlanRecord(
        levels={0: 2, 1: 1},
        refused=1,
        least_bytes=9_000_000,
        budgets={0: 30_000_000, 1: 12_000_000},
        predicted={0: 25_000_000, 1: 11_000_000},
        failures=(Failure(client=HOSTILE, reason="late"),),
        bytes_up=1,
        bytes_down=1,
    )
    second = PlanRecord(
        levels={0: 1},
        refused=2,
        least_bytes=8_000_000,
        budgets={0: 28_000_000},
        predicted={0: 26_000_000},
        bytes_up=1,
        bytes_down=1,
    )
    records = [record(0), record(1, levels=levels, plans=first), record(2, levels=levels, plans=second)]
    page = build(records)
    shown = cells(page)
    start = shown.index("the whole")
    assert shown[start : start + 18] == [
        *("the whole", "1,000", "3", "28.0 MB", "26.0 MB", "4"),
        *("level 1", "500", "1", "12.0 MB", "11.0 MB", "2"),
        *("level 2", "250", "0", "–", "–", "0"),
    ]
    assert "3 devices have too little memory for each part and did not train; 8.0 MB would do for the nearest" in page
    assert HOSTILE not in page
    assert "late" in shown


def test_a_run_of_one_part_tells_its_devices_memory_too(build: Build) -> None:
    plan = PlanRecord(
        levels={0: 4}, refused=0, budgets={0: 10_000_000}, predicted={0: 9_000_000}, bytes_up=1, bytes_down=1
    )
    shown = cells(build([record(0), record(1, plans=plan), record(2)]))
    start = shown.index("the whole")
    assert shown[start : start + 6] == ["the whole", "500", "4", "10.0 MB", "9.0 MB", "8"]
    assert "the whole" not in cells(build([record(0), record(1)]))


def test_what_computes_each_layer_and_how_fast_is_told(build: Build) -> None:
    page = build([computing(1)], ledger=LEDGER, paths=PATHS)
    shown = cells(page)
    start = shown.index("250 (5.0%)") - 1
    assert shown[start : start + 6] == ["conv1", "250 (5.0%)", "native", "1.00 ms", "4.25 ms", "40.0 kB"]
    start = shown.index("odd")
    assert shown[start : start + 6] == ["odd", "3 (100%)", "unconverted", "–", "–", "–"]
    assert "computed with 75.0% of the kept weights" in page
    assert "a step is 4.1× as fast as with dense layers only" in page
    assert "Without native kernels: odd: a layer of yours." in page


def test_where_dense_layers_are_faster_the_page_says_so(build: Build) -> None:
    page = build([computing(1, native_share=0.0)], paths={"step_ratio": 1.0})
    assert "dense layers are faster here" in page


def test_what_nobody_measured_or_can_read_is_left_out(build: Build) -> None:
    assert "Memory and kernels" not in build([record(1)])
    page = build([computing(1)], paths={"layers": "?", "step_ratio": "fast", "unconverted": 5})
    assert "What computes each layer" not in page
    assert "as fast as" not in page
    assert "Without native kernels" not in page


def test_a_record_of_an_older_version_shows_its_one_peak(build: Build) -> None:
    page = build([record(1), record(2)])
    assert "Largest of the cohort" in page
    assert "Computed peak" not in page


def test_a_run_without_rounds_has_a_page(build: Build) -> None:
    page = build([])
    assert "No round has finished yet." in page
    assert 'role="img"' not in page
    assert "seed = 7" not in page.partition("Settings")[0]
    assert "seed = 7" in page


def test_missing_numbers_leave_dashes_and_no_empty_picture(build: Build) -> None:
    nothing = {"accuracy": None, "loss": None, "train_loss": None, "flip_rate": None, "client_flip_rate": None}
    blind = measured(1, client_peak_bytes=None, coordinator_peak_bytes=None)
    records = [record(1, vote_margin=None, layer_density={}, measured=blind, **nothing)]
    ids = Page(build(records)).values("id")
    assert {"traffic", "seconds"} <= set(ids)
    assert not {"accuracy", "loss", "layers", "flips", "margin", "memory"} & set(ids)
    shown = headline(records)
    assert shown["Final accuracy"] == ("–", "", "not evaluated")
    assert shown["Peak client memory"] == ("–", "", "not measured on this system")


def test_where_devices_plan_the_memory_that_they_held_is_told(build: Build) -> None:
    planning = measured(1, client_peak_bytes=None, client_phase_bytes=None, client_held_bytes=2_000_000)
    records = [record(number, measured=planning) for number in (1, 2)]
    assert headline(records)["Peak client memory"] == (
        "2.0 MB",
        "",
        "measured, what one client’s process held for a request",
    )
    page = build(records)
    assert "Held for a request" in page
    assert "what a client’s process took at most while it answered" in page


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_never_reach_the_page(build: Build, bad: float) -> None:
    fields = ("accuracy", "loss", "train_loss", "density", "entropy_up", "entropy_down", "flip_rate", "vote_margin")
    times = dict.fromkeys(("seconds", "evaluation_seconds", "client_seconds"), bad)
    spoiled = record(2, layer_density={"a": bad, "b": 0.5}, measured=measured(2, **times), **dict.fromkeys(fields, bad))
    for records in ([spoiled], [record(1), spoiled, record(3)]):
        text = build(records, settings={"deadline": bad})
        assert not re.search(r"(?<![\w-])(nan|inf|infinity)(?!\w)", text.lower())


def test_every_id_is_unique_and_every_reference_has_its_target(build: Build, run: list[RoundRecord]) -> None:
    text = build(run)
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = [value[1:] for value in page.values("href") if value.startswith("#")] + re.findall(
        r"url\(#([^)]*)\)", text
    )
    labels = page.values("aria-labelledby") + page.values("aria-describedby")
    assert set(wanted + labels) <= set(ids)
    assert len(wanted) > 8


def test_figures_hold_text_and_take_their_colours_from_the_page(build: Build, run: list[RoundRecord]) -> None:
    svgs = re.findall(r'<svg [^>]*role="img".*?</svg>', build(run), re.DOTALL)
    assert len(svgs) == 8
    for svg in svgs:
        assert "<text" in svg
        assert "var(--" in svg
        assert not re.findall(r"#0102\w\w", svg)
        assert "font-family" not in svg
        assert "<style" not in svg


def test_the_accuracy_figure_says_in_words_what_it_shows(build: Build) -> None:
    page = build([record(0, accuracy=0.1), record(1, accuracy=0.75), record(2, accuracy=0.7)])
    said = "Test accuracy: 10.0% in round 0, 70.0% in round 2. Ringed: the best, 75.0% in round 1."
    assert f'<p id="accuracy-text" class="hidden">{said}</p>' in page


def test_the_table_of_rounds_holds_exact_numbers(build: Build) -> None:
    page = build([record(3, accuracy=0.12344, bytes_up=1_234_567)])
    assert "<td>12.34%</td>" in page
    assert "<td>1,234,567</td>" in page


def test_a_report_leaves_no_temporary_file_and_replaces_the_old_one(build: Build, tmp_path: Path) -> None:
    build([], title="Old")
    assert "<h1>New</h1>" in build([], title="New")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_keeps_its_place_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html cannot be written"):
        write_report(tmp_path / "report.html", title="x", settings={}, records=[], facts={}, sizes=SIZES)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_drawing_does_not_load_pyplot_nor_change_its_settings() -> None:
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "import pathlib, tempfile; from hedgerow.server.report import accuracy_picture\n"
        "accuracy_picture(pathlib.Path(tempfile.mkdtemp()) / 'a.png', {})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams.copy() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_comparison_is_a_large_png_and_the_same_each_time(tmp_path: Path, run: list[RoundRecord]) -> None:
    runs = {"hedgerow": run, "two": run[:5], "not evaluated": [record(1)], "nothing": []}
    for name in ("a.png", "b.png"):
        accuracy_picture(tmp_path / "docs" / name, runs)
    assert (tmp_path / "docs/a.png").read_bytes() == (tmp_path / "docs/b.png").read_bytes()
    with Image.open(tmp_path / "docs/a.png") as image:
        assert image.format == "PNG"
        assert image.width >= 1600
        assert len(image.getcolors(1 << 20) or []) > 100


@pytest.mark.parametrize("runs", [{}, {"$one$": [record(0)]}, {str(n): [record(2), record(4)] for n in range(20)}])
def test_any_number_of_runs_can_be_compared(tmp_path: Path, runs: dict[str, list[RoundRecord]]) -> None:
    accuracy_picture(tmp_path / "a.png", runs)
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_settings_read_back_as_toml() -> None:
    settings: dict[str, object] = {
        "fleet": {"clients": 4, "partition": {"alpha": 0.3}, "name": 'a "b"\n'},
        "seed": 7,
        "steps": [1, 2],
        "on": True,
        "odd key": {"x": 1.0},
    }
    assert tomllib.loads(settings_text(settings)) == settings


def test_a_setting_that_is_not_set_is_a_comment() -> None:
    assert settings_text({"fleet": {"deadline": None, "clients": 4}}) == "[fleet]\n# deadline is not set\nclients = 4"


@given(st.floats(min_value=0, max_value=9e17))
def test_bytes_keep_two_digits_of_what_they_say(size: float) -> None:
    number, unit = bytes_text(size).split(" ")
    shown = float(number.replace(",", "")) * 1000 ** ("B", "kB", "MB", "GB", "TB", "PB").index(unit)
    assert shown == pytest.approx(size, rel=0.05, abs=0.5)
    assert float(number.replace(",", "")) < 1000


@given(st.floats(min_value=1e-6, max_value=1))
def test_a_percentage_is_never_rounded_to_nothing(fraction: float) -> None:
    assert float(percent_text(fraction).removesuffix("%")) == pytest.approx(100 * fraction, rel=0.051)


@given(st.floats(min_value=0, max_value=1e6))
def test_a_time_never_says_sixty_of_the_smaller_unit(seconds: float) -> None:
    assert not re.search(r"(min 60 s|h 60 min)", seconds_text(seconds))


@given(st.text(max_size=50), st.integers(min_value=2, max_value=60))
def test_clean_text_is_printable_and_within_its_limit(text: str, limit: int) -> None:
    shown = clean_text(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()


def test_the_page_shows_names_that_exist(build: Build) -> None:
    compile(HOW_TO_LOAD, "how to load", "exec")
    assert callable(importlib.import_module("hedgerow.artifact").load_artifact)
    assert "from hedgerow.artifact import load_artifact" in build([])


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=7).map(sorted))
def test_labels_end_up_apart_in_order_and_inside(heights: list[float]) -> None:
    moved = spread(heights, 0.1)
    assert len(moved) == len(heights)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(moved))
    assert all(0.05 - 1e-9 <= height <= 0.95 + 1e-9 for height in moved)
