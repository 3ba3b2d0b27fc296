"""The baselines learn the digits, each by its own recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.telemetry import read_records
from tests.e2e.command import hedgerow, only_run

SMALL = (
    "--model=mlp",
    "--set=fleet.clients=8",
    "--set=fleet.cohort=4",
    "--set=training.kernels=dense",
    "--set=evaluation.every=8",
)


@pytest.mark.parametrize(
    ("recipe", "least", "changes"),
    [
        ("fedprox", 0.8, ("--rounds=4",)),
        ("static-snip", 0.6, ("--rounds=4", "--set=training.batch_size=8")),
        ("fedpm", 0.6, ("--rounds=8",)),
    ],
)
def test_a_baseline_learns_the_digits(recipe: str, least: float, changes: tuple[str, ...], tmp_path: Path) -> None:
    hedgerow("simulate", f"--recipe={recipe}", *SMALL, *changes, cwd=tmp_path)
    run = only_run(tmp_path)
    records = read_records(run / "metrics.jsonl")
    assert records[-1].accuracy is not None
    assert records[-1].accuracy > least
    assert all(record.failures == () for record in records)
    assert (run / "model.safetensors").exists()
    if recipe == "fedpm":
        # Half a bit a weight: what is broadcast tells most of a mask.
        assert records[-1].bytes_up / 4 < records[0].kept / 16
        assert "signs/symbols_rans" in records[-1].sections_up
