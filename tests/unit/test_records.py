"""Lines of metrics.jsonl: what they hold, and that old ones stay readable."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from hedgerow.telemetry import (
    AdjustmentRecord,
    CandidateRecord,
    RecalibrationRecord,
    RoundRecord,
    SelectionRecord,
    read_records,
)
from tests.unit.control_server import record

CANDIDATE = CandidateRecord(name="random/erk", loss=2.25, kept=10, layer_density={"a.weight": 0.25})
SELECTION = SelectionRecord(candidates=(CANDIDATE,), winner=0, replies=(4, 3), bytes_up=1000, bytes_down=7000)
RECALIBRATION = RecalibrationRecord(replies=4, bytes_up=10, bytes_down=20)
FULL = record(0).model_copy(
    update={
        "selection": SELECTION,
        "adjustment": AdjustmentRecord(
            block=2, pruned={"a.weight": 3, "b.weight": 4}, grown={"a.weight": 3, "b.weight": 4}
        ),
        "recalibration": RECALIBRATION,
    }
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(FULL.model_dump_json() + "\n" + record(1).model_dump_json() + "\n")
    assert read_records(path) == [FULL, record(1)]


def test_a_line_of_an_older_version_has_none_of_the_new_parts(tmp_path: Path) -> None:
    new = ("selection", "adjustment", "recalibration")
    line = {name: value for name, value in json.loads(FULL.model_dump_json()).items() if name not in new}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = read_records(tmp_path / "metrics.jsonl")
    assert (found.selection, found.adjustment, found.recalibration) == (None, None, None)
    assert found == record(0)


def test_a_loss_that_is_not_finite_is_read_as_unknown() -> None:
    spoiled = CANDIDATE.model_copy(update={"loss": float("nan")})
    line = FULL.model_copy(update={"selection": SELECTION.model_copy(update={"candidates": (spoiled,)})})
    again = RoundRecord.model_validate_json(line.model_dump_json())
    assert again.selection is not None
    assert again.selection.candidates[0].loss is None


@pytest.mark.parametrize("winner", [-1, 1])
def test_a_winner_that_is_none_of_the_candidates_is_refused(winner: int) -> None:
    with pytest.raises(ValidationError, match="one of the candidates"):
        SelectionRecord(candidates=(CANDIDATE,), winner=winner, replies=(1, 1), bytes_up=0, bytes_down=0)


def test_all_bytes_are_those_of_training_of_the_selection_and_of_the_recalibration() -> None:
    assert (FULL.bytes_up, FULL.all_bytes_up) == (100, 100 + 1000 + 10)
    assert (FULL.bytes_down, FULL.all_bytes_down) == (200, 200 + 7000 + 20)
    assert (FULL.all_entropy_up, FULL.all_entropy_down) == (90 + 1010, 150 + 7020)
    assert (record(1).all_bytes_up, record(1).all_bytes_down, record(1).all_entropy_up) == (100, 200, 90)


def test_an_adjustment_adds_up_its_tensors() -> None:
    assert FULL.adjustment is not None
    assert FULL.adjustment.weights == 7
