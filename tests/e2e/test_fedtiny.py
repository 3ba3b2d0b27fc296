"""Devices that choose the mask, and a mask that changes: the same bits whoever computes them and whoever is killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow.telemetry import read_records
from tests.e2e.command import hedgerow, lasting, only_run, start
from tests.e2e.killing import kill, rounds, wait_for

FEDTINY = (
    "--recipe=fedtiny",
    "--model=lenet5",
    "--density=0.2",
    "--rounds=5",
    "--set=fleet.clients=3",
    "--set=fleet.cohort=3",
    "--set=data.partition=iid",
    "--set=training.epochs=1",
    "--set=training.steps=5",
    "--set=training.kernels=dense",
    "--set=pruning.iterations=5",
    "--set=selection.candidates=3",
    "--set=selection.trial_steps=2",
    "--set=adjustment.every=2",
    "--set=adjustment.until=4",
    "--set=adjustment.blocks=2",
    "--set=evaluation.recalibrate=true",
    "--set=wire.down=bf16",
)
"""A run of seconds; in rounds 2 and 4 the mask changes."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("finished")
    out, _ = hedgerow("simulate", *FEDTINY, "--workers=2", cwd=cwd)
    assert "chosen among 3 candidates" in out
    return only_run(cwd)


def test_the_records_say_what_was_chosen_and_exchanged(finished: Path) -> None:
    records = read_records(finished / "metrics.jsonl")
    selection = records[0].selection
    assert selection is not None
    assert selection.replies == (3, 3)
    losses = [candidate.loss for candidate in selection.candidates]
    assert losses[selection.winner] == min(loss for loss in losses if loss is not None)
    assert records[0].layer_density == selection.candidates[selection.winner].layer_density
    assert {record.kept for record in records} == {records[0].kept}
    for record in records[1:]:
        assert record.selection is None
        assert record.layer_density == records[0].layer_density
        assert record.recalibration is not None
        assert record.recalibration.replies == 3
        assert (record.adjustment is None) == (record.mask_churn == 0) == (record.round in (1, 3, 5))
    blocks = [record.adjustment.block for record in records if record.adjustment is not None]
    assert blocks == [0, 1]


def test_a_new_mask_is_told_as_what_changed(finished: Path) -> None:
    records = read_records(finished / "metrics.jsonl")
    # What devices chose from they do not take for their mask.
    brought = [sorted(label for label in record.sections_down if label.startswith("mask")) for record in records]
    assert [[label.split("/")[0] for label in labels] for labels in brought] == [
        [],
        ["mask"],
        [],
        ["mask_delta"],
        [],
        ["mask_delta"],
    ]
    assert [record.updated for record in records] == [0, 0, 3, 3, 3, 3]


def test_a_run_of_one_worker_killed_while_choosing_and_later_ends_with_the_bits_of_two_undisturbed(
    finished: Path, tmp_path: Path
) -> None:
    arguments = ("simulate", *FEDTINY, "--workers=1")
    moments: list[Callable[[Path], bool]] = [choosing, lambda cwd: rounds(cwd) >= 1, lambda cwd: rounds(cwd) >= 2]
    seen = []
    for reached in moments:
        kill(*arguments, cwd=tmp_path, reached=reached)
        seen.append(rounds(tmp_path))
    assert seen[0] == -1, "nothing was chosen yet"
    assert 2 <= seen[2] < 5, "the mask had changed"
    out, _ = hedgerow(*arguments, cwd=tmp_path)
    assert "resuming after round" in out
    assert lasting(only_run(tmp_path)) == lasting(finished)


def test_a_choice_that_is_stopped_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    process = start("simulate", *FEDTINY, "--set=fleet.cohort=2", "--set=selection.trial_steps=5000", cwd=tmp_path)
    wait_for(lambda: choosing(tmp_path), process.poll)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "hedgerow: stopped before the first round; nothing was kept"
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_a_pool_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    _, err = hedgerow("simulate", *FEDTINY, "--density=0.00001", cwd=tmp_path, code=1)
    assert err.splitlines()[-1].startswith("hedgerow: candidate ")
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def choosing(cwd: Path) -> bool:
    """Whether a client has kept the networks that it was sent to choose from."""
    return any(path.stat().st_size > 50_000 for path in cwd.glob("runs/*/clients.sqlite*"))
