"""Gradients that decide what goes and comes: the same bits whoever computes them and whoever is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.telemetry import read_records
from tests.e2e.command import hedgerow, lasting, only_run
from tests.e2e.killing import adjusting, kill, rounds

PRUNEFL = adjusting("prunefl")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("finished")
    hedgerow(*PRUNEFL, "--workers=2", cwd=cwd)
    return only_run(cwd)


def test_each_adjustment_moves_weights_between_layers_and_the_density_stays(finished: Path) -> None:
    records = read_records(finished / "metrics.jsonl")
    for record in records:
        assert record.density == records[0].density
        adjusts = record.round in (1, 2, 3)
        assert (record.adjustment is not None) == (record.mask_churn > 0) == adjusts
        assert any(label.startswith("gradients") for label in record.sections_up) == adjusts
        assert record.failures == ()
        if record.adjustment is not None:
            assert record.adjustment.balanced
            assert not record.adjustment.exchange
    assert len({str(record.layer_density) for record in records}) == 4
    assert [record.replies for record in records] == [0, 3, 3, 3, 3]


def test_a_run_of_one_worker_that_is_killed_ends_with_the_bits_of_two_undisturbed(
    finished: Path, tmp_path: Path
) -> None:
    kill(*PRUNEFL, "--workers=1", cwd=tmp_path, reached=lambda cwd: rounds(cwd) >= 2)
    assert rounds(tmp_path) < 4
    out, _ = hedgerow(*PRUNEFL, "--workers=1", cwd=tmp_path)
    assert "resuming after round" in out
    assert lasting(only_run(tmp_path)) == lasting(finished)
