"""The parts of a report about how the mask was chosen and how it changed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from hedgerow.server.report import write_report
from hedgerow.server.report.mask_pictures import STRIP, exchange_rows, mask_pictures, selected
from hedgerow.telemetry import (
    AdjustmentRecord,
    CandidateRecord,
    Failure,
    RecalibrationRecord,
    RoundRecord,
    SelectionRecord,
)
from tests.unit.test_report import HOSTILE, SIZES, Page, cells, headline, record

LAYERS = {"conv1.weight": 0.5, "conv2.weight": 0.03125, "head.weight": 0.25}


def candidate(name: str, loss: float | None, **densities: float) -> CandidateRecord:
    return CandidateRecord(name=name, loss=loss, kept=1234, layer_density=densities or LAYERS)


def chosen(*candidates: CandidateRecord, winner: int = 0, layers: dict[str, float] = LAYERS) -> RoundRecord:
    selection = SelectionRecord(
        candidates=candidates,
        winner=winner,
        replies=(10, 1),
        failures=(Failure(client="tablet", reason="battery is empty"),),
        bytes_up=120_000,
        bytes_down=900_000,
    )
    return record(0, selection=selection, layer_density=layers)


def adjusted(number: int, block: int, layers: dict[str, float] = LAYERS, /, **exchanged: int) -> RoundRecord:
    return record(
        number, layer_density=layers, adjustment=AdjustmentRecord(block=block, pruned=exchanged, grown=exchanged)
    )


def deep(layers: int) -> dict[str, float]:
    return {f"blocks.{place}.depthwise.weight": 0.5 / (place + 1) for place in range(layers)}


RUN = [
    chosen(candidate("synflow/global", 2.5), candidate("random/erk", 2.25), candidate("lamp/global", None), winner=1),
    record(1, layer_density=LAYERS),
    adjusted(2, 0, head=40, conv2=600),
    record(3, layer_density=LAYERS),
    adjusted(4, 1, conv1=7),
    adjusted(5, 0, head=20, conv2=300),
]


def page_of(records: Sequence[RoundRecord], folder: Path) -> str:
    write_report(folder / "r.html", title="Digits", settings={}, records=records, facts={}, sizes=SIZES)
    return (folder / "r.html").read_text(encoding="utf-8")


def test_candidates_stand_in_the_order_of_their_losses_and_the_chosen_one_is_marked(tmp_path: Path) -> None:
    shown = cells(page_of(RUN, tmp_path))
    start = shown.index("random/erk chosen")
    assert shown[start : start + 3] == ["random/erk chosen", "2.2500", "1,234"]
    assert shown[start + 4 : start + 7] == ["synflow/global", "2.5000", "1,234"]
    assert shown[start + 8 : start + 11] == ["lamp/global", "–", "1,234"]


def test_the_figure_of_the_losses_names_and_numbers_every_candidate(tmp_path: Path) -> None:
    page = page_of(RUN, tmp_path)
    (svg,) = re.findall(r'<svg [^>]*"selection-title".*?</svg>', page, re.DOTALL)
    for text in ("random/erk", "2.250, chosen", "synflow/global", ">2.500<", "lamp/global", "not finite"):
        assert text in svg
    assert "Selection among 3 masks" in page
    assert "came from 10 devices, losses from 1 device; that took 120 kB up and 900 kB down." in page
    said = (
        "Loss of 3 candidates on the devices. Chosen: random/erk with 2.250; the others: synflow/global 2.500, "
        "lamp/global –."
    )
    assert said in page


def test_a_device_that_failed_in_the_selection_is_in_the_table_of_failures(tmp_path: Path) -> None:
    assert "<td>tablet</td><td>battery is empty</td>" in page_of(RUN, tmp_path)


def test_the_bars_of_all_candidates_have_one_logarithmic_scale() -> None:
    told = selected([chosen(candidate("a", 1.0, x=1.0, y=0.1, z=0.0), candidate("b", 2.0, x=0.01, y=0.1, z=1.0))])
    assert told is not None
    # 0.01 is the least, so 0.1 is half way between 1 and STRIP.
    half = f"{1 + (STRIP - 1) / 2:.1f}"
    assert [row.strip for row in told.rows] == [(f"{STRIP:.1f}", half, "0.0"), ("1.0", half, f"{STRIP:.1f}")]
    assert told.rows[1].text == "Kept of each tensor: from 1.0% (x) to 100% (z)"


def test_the_words_of_the_pictures_say_what_they_show() -> None:
    densities, exchanged = mask_pictures(RUN)
    assert densities.text.startswith(
        "Kept fraction of each tensor in round 0 and in round 5: conv1: 50.0%, 50.0%; conv2: 3.1%, 3.1%; head:"
    )
    assert exchanged.title == "Weights exchanged, by block"
    assert "head conv2: 640 in round 2, 320 in round 5; conv1: 7 in round 4." in exchanged.text
    for text in (">640<", ">320<", ">7<", ">head<", ">conv2<", ">conv1<"):
        assert text in exchanged.svg, text


def test_each_layer_is_named_at_the_end_of_its_line() -> None:
    densities = mask_pictures(RUN)[0]
    for text in ("conv1 50.0%", "conv2 3.1%", "head 25.0%", "all 5.0%"):
        assert text in densities.svg
    assert "log scale" in densities.svg


def test_densities_of_one_size_have_a_linear_axis() -> None:
    even = {"a": 0.2, "b": 0.3}
    (picture,) = mask_pictures([record(0, layer_density=even), record(1, layer_density={"a": 0.25, "b": 0.25})])
    assert "log scale" not in picture.svg


def test_every_tensor_has_its_row_of_exchanges(tmp_path: Path) -> None:
    layers = {"a": 0.5, "b": 0.25}
    records = [
        record(0, layer_density={"a": 1.0}),
        adjusted(1, 0, layers, a=1000, b=5),
        adjusted(2, 1, layers, a=234, b=0),
    ]
    shown = cells(page_of(records, tmp_path))
    start = shown.index("Weights pruned") + 1
    assert shown[start : start + 10] == ["a", "100%", "50.0%", "2", "1,234", "b", "–", "25.0%", "1", "5"]
    assert "2 adjustments exchanged 1,239 weights: so many were pruned" in page_of(records, tmp_path)


def test_a_mask_that_never_changes_has_no_section(tmp_path: Path) -> None:
    page = page_of([record(number) for number in range(4)], tmp_path)
    assert 'id="h-mask"' not in page
    assert 'id="h-selection"' not in page
    assert exchange_rows([record(0), record(1)]) == []


def test_a_mask_that_only_became_sparser_has_a_picture_and_no_exchange(tmp_path: Path) -> None:
    records = [record(number, layer_density={"a": 0.5**number, "b": 0.5}) for number in range(8)]
    page = page_of(records, tmp_path)
    assert 'id="densities"' in page
    assert 'id="exchanged"' not in page
    assert "adjustment" not in page


def test_an_adjustment_that_exchanged_nothing_is_told_and_not_drawn(tmp_path: Path) -> None:
    page = page_of([record(0), adjusted(1, 0, head=0)], tmp_path)
    assert "1 adjustment exchanged 0 weights" in page
    assert 'id="exchanged"' not in page


@pytest.mark.parametrize("layers", [1, 7, 11, 50])
def test_networks_of_any_depth_are_drawn_and_a_deep_one_names_some_layers(layers: int, tmp_path: Path) -> None:
    densities = deep(layers)
    records = [
        chosen(candidate("a", 1.0, **densities), layers=densities),
        adjusted(1, 0, densities, **dict.fromkeys(densities, 3)),
    ]
    page = page_of(records, tmp_path)
    (svg,) = re.findall(r'<svg [^>]*"densities-title".*?</svg>', page, re.DOTALL)
    assert len(re.findall(r">blocks\.[^<]*%<", svg)) == min(layers, 10)
    assert f"blocks.{layers - 1}.depthwise" in svg, "the sparsest is always named"
    assert (f"Named: 10 of {layers} tensors" in page) == (layers > 10)
    assert len(exchange_rows(records)) == layers


@pytest.mark.parametrize(("rounds", "blocks"), [(2, 1), (30, 30), (300, 5)])
def test_any_number_of_adjustments_and_blocks_is_drawn(rounds: int, blocks: int) -> None:
    records = [record(0, layer_density=LAYERS)]
    records += [adjusted(number, number % blocks, **{f"t{number % blocks}": number}) for number in range(1, rounds)]
    exchanged = mask_pictures(records)[1]
    assert exchanged.svg.count(">Round<") == 1
    assert exchanged.title == ("Weights exchanged" if blocks == 1 else "Weights exchanged, by block")


def test_the_names_of_candidates_never_become_markup(tmp_path: Path) -> None:
    plain = Page(page_of(RUN, tmp_path))
    layers = {HOSTILE: 0.5, "a$b$ \x00": 0.01}
    hostile = Page(
        page_of(
            [
                chosen(candidate(HOSTILE, 2.5, **layers), candidate("b\u202ec", None, **layers), layers=layers),
                adjusted(1, 0, layers, **{HOSTILE: 5}),
                adjusted(2, 1, layers, **{"a$b$ \x00": 5}),
            ],
            tmp_path,
        )
    )
    assert set(hostile.tags) == set(plain.tags)
    assert {name for _, name, _ in hostile.attributes} == {name for _, name, _ in plain.attributes}
    assert any("<script>alert(1)</script>" in word for word in hostile.words)
    assert any("b c" in word for word in hostile.words)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_never_reach_the_page(bad: float, tmp_path: Path) -> None:
    layers = {"a": bad, "b": 0.5}
    first = chosen(candidate("x", bad, **layers), candidate("y", 1.0, **layers), layers=layers)
    page = page_of([first, adjusted(1, 0, layers, a=3)], tmp_path)
    assert not re.search(r"(?<![\w-])(nan|inf|infinity)(?!\w)", page.lower())


def test_losses_that_are_all_equal_or_all_unknown_are_drawn(tmp_path: Path) -> None:
    for loss in (2.0, 0.0, None):
        page = page_of([chosen(candidate("x", loss), candidate("y", loss), winner=1)], tmp_path)
        assert "Chosen: y with" in page


def test_ids_are_unique_and_references_have_their_targets(tmp_path: Path) -> None:
    page = Page(page_of(RUN, tmp_path))
    ids = page.values("id")
    assert {"h-selection", "selection", "h-mask", "densities", "exchanged"} <= set(ids)
    assert len(ids) == len(set(ids))
    wanted = [value[1:] for value in page.values("href") if value.startswith("#")]
    assert set(wanted + page.values("aria-labelledby") + page.values("aria-describedby")) <= set(ids)


def test_the_bytes_of_the_selection_and_of_recalibrations_count(tmp_path: Path) -> None:
    recalibration = RecalibrationRecord(replies=4, bytes_up=1000, bytes_down=2000)
    records = [RUN[0], record(1, recalibration=recalibration)]
    # 120,000 + 300 + 1000 up and 900,000 + 700 + 2000 down
    assert headline(records)["Total bytes, both ways"][0] == "1.0 MB"
    assert headline(records)["Total bytes, both ways"][2].startswith("121 kB up, 903 kB down.")
    # 8 · 300 / (500 · 4): what training takes
    assert headline(records)["Bits up per kept weight"][0] == "1.20"
    assert "<td>1,300</td>" in page_of(records, tmp_path)
