"""Devices that change their masks themselves: the same bits whoever computes them and whoever is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hedgerow.telemetry import read_records
from tests.e2e.command import hedgerow, lasting, only_run
from tests.e2e.killing import adjusting, kill, rounds

FEDDST = adjusting("feddst")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("finished")
    hedgerow(*FEDDST, "--workers=2", cwd=cwd)
    return only_run(cwd)


def test_each_adjustment_changes_the_mask_and_no_density(finished: Path) -> None:
    records = read_records(finished / "metrics.jsonl")
    for record in records:
        assert record.layer_density == records[0].layer_density
        adjusts = record.round in (1, 2, 3)
        assert (record.adjustment is not None) == (record.mask_churn > 0) == adjusts
        assert any(label.startswith("mask_delta") for label in record.sections_up) == adjusts
        assert record.failures == ()
    assert [record.replies for record in records] == [0, 3, 3, 3, 3]


def test_a_run_of_one_worker_that_is_killed_twice_ends_with_the_bits_of_two_undisturbed(
    finished: Path, tmp_path: Path
) -> None:
    moments: list[Callable[[Path], bool]] = [lambda cwd: rounds(cwd) >= 1, lambda cwd: rounds(cwd) >= 2]
    for reached in moments:
        kill(*FEDDST, "--workers=1", cwd=tmp_path, reached=reached)
    assert rounds(tmp_path) < 4
    out, _ = hedgerow(*FEDDST, "--workers=1", cwd=tmp_path)
    assert "resuming after round" in out
    assert lasting(only_run(tmp_path)) == lasting(finished)
