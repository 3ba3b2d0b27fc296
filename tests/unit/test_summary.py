"""What a finished run says on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hedgerow.config import Experiment
from hedgerow.server.summary import summary
from hedgerow.telemetry import AdjustmentRecord, CandidateRecord, RoundRecord, SelectionRecord
from tests.unit.control_server import record


def lines(records: Sequence[RoundRecord], folder: Path) -> dict[str, str]:
    (folder / "model.safetensors").write_bytes(b"1234")
    told = summary(Experiment(), list(records), folder, already_done=False)
    return {line[2:18].strip(): line[18:] for line in told.splitlines() if line.startswith("  ")}


def chosen(name: str) -> RoundRecord:
    candidates = tuple(CandidateRecord(name=n, loss=1.0, kept=10, layer_density={}) for n in ("a", name))
    selection = SelectionRecord(candidates=candidates, winner=1, replies=(4, 4), bytes_up=1000, bytes_down=7000)
    return record(0).model_copy(update={"selection": selection})


def adjusted(number: int, **exchanged: int) -> RoundRecord:
    return record(number).model_copy(
        update={"adjustment": AdjustmentRecord(block=0, pruned=exchanged, grown=exchanged)}
    )


def test_the_choice_of_the_mask_and_its_changes_are_one_line(tmp_path: Path) -> None:
    told = lines([chosen("synflow/global"), adjusted(1, a=12_000, b=340), adjusted(2, a=5)], tmp_path)
    assert told["mask"] == "chosen among 2 candidates (synflow/global), 2 adjustments exchanged 12,345 weights"


def test_only_what_there_was_is_told(tmp_path: Path) -> None:
    assert "mask" not in lines([record(0), record(1)], tmp_path)
    assert lines([chosen("b\x1b")], tmp_path)["mask"] == "chosen among 2 candidates (b)"
    assert lines([record(0), adjusted(1, a=1)], tmp_path)["mask"] == "1 adjustment exchanged 1 weight"


def test_the_bytes_of_the_selection_count_but_not_as_what_a_reply_takes(tmp_path: Path) -> None:
    told = lines([chosen("b"), record(1)], tmp_path)
    assert told["bytes"] == "up 1.2 kB, down 7.4 kB, both 8.6 kB"
    # 8 · 200 bytes / (4 replies · 10 weights)
    assert told["uplink"].startswith("40.00 bits")
