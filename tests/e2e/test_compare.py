"""`hedgerow compare` as its user sees it: real processes, stopped and gone on with."""

from __future__ import annotations

import csv
import signal
import subprocess
from pathlib import Path

import pytest

from hedgerow.config import load_experiment
from hedgerow.server.simulation import simulate
from hedgerow.telemetry import read_records
from tests.e2e.command import hedgerow, lasting, start
from tests.waiting import until

ROUNDS = 12
PATIENCE = 900.0
"""Seconds; several runs, each of which starts two processes that import torch."""
EXPERIMENT = f"""\
rounds = {ROUNDS}
[data]
name = "digits"
min_samples = 4
[model]
name = "mlp"
[fleet]
clients = 6
cohort = 3
[pruning]
iterations = 10
[training]
batch_size = 8
steps = 4
kernels = "dense"
[evaluation]
every = 10
"""
COMPARE = ("compare", "digits.toml", "--recipes=hidenseek,fedavg", "--seeds=2", "--jobs=2")


def ended(process: subprocess.Popen[str], *, code: int = 0) -> tuple[str, str]:
    """What it printed, and what went to stderr."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.terminate()
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def rounds_done(comparison: Path) -> dict[Path, int]:
    """The last round of each run that has one, by its folder."""
    found = {path.parent: read_records(path) for path in comparison.glob("runs/*/*/*/metrics.jsonl")}
    return {folder: records[-1].round for folder, records in found.items() if records}


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.slow
def test_a_comparison_that_was_stopped_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "digits.toml").write_text(EXPERIMENT)
    comparison = tmp_path / "comparisons/digits"
    process = start(*COMPARE, cwd=tmp_path)
    try:
        until(lambda: max(rounds_done(comparison).values(), default=0) >= 2, "rounds", seconds=PATIENCE)
    finally:
        process.send_signal(signal.SIGTERM)
    out, err = ended(process, code=130)
    assert "0 of 4 runs are done in comparisons/digits, and the same command goes on from there" in err
    assert "Traceback" not in out + err
    begun = rounds_done(comparison)
    assert begun, "it was stopped on the way"
    assert all(done < ROUNDS for done in begun.values())
    assert "No run is done yet." in (comparison / "comparison.html").read_text()

    out, _ = ended(start(*COMPARE, cwd=tmp_path))
    assert "goes on where it stopped" in out or "go on where they stopped" in out
    assert "4/4  " in out
    assert "points over hidenseek" in out
    assert "Accuracy and memory" in out
    folders = sorted(rounds_done(comparison))
    assert [folder.parent.relative_to(comparison).as_posix() for folder in folders] == [
        "runs/fedavg/seed-0",
        "runs/fedavg/seed-1",
        "runs/hidenseek/seed-0",
        "runs/hidenseek/seed-1",
    ]
    for folder, done in begun.items():
        # Who was stopped before its first round has nothing to go on from.
        assert done < 2 or "resuming after round" in (folder.parent / f"{folder.name}.log").read_text()
        whole = simulate(load_experiment(folder / "experiment.toml"), out=tmp_path / "undisturbed", workers=1)
        assert lasting(folder) == lasting(whole)
    table = {row["line"]: row for row in rows(comparison / "comparison.csv")}
    assert list(table) == ["hidenseek", "fedavg"]
    assert float(table["fedavg"]["accuracy"]) > 0.8
    assert float(table["fedavg"]["bytes_both"]) > 20 * float(table["hidenseek"]["bytes_both"])
    assert {row["stage"] for row in rows(comparison / "runs.csv")} == {"done"}
    assert "All 4 runs are done." in (comparison / "comparison.html").read_text()

    before = {folder: (folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders}
    impossible = "--line=impossible=hidenseek pruning.density=0.00001"
    out, err = ended(start(*COMPARE, impossible, cwd=tmp_path), code=1)
    assert "6 runs, 4 done before, 2 at once" in out
    assert out.count("failed: the density") + out.count("failed: density") == 2, out
    assert "2 of 6 runs failed, the first (impossible, seed 0)" in err
    assert {folder: (folder / "metrics.jsonl").stat().st_mtime_ns for folder in folders} == before
    assert {row["line"]: row["seeds"] for row in rows(comparison / "comparison.csv")} == {
        "hidenseek": "2",
        "fedavg": "2",
        "impossible": "0",
    }
    assert "Runs that failed" in (comparison / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "saying"),
    [
        (["digits.toml"], "nothing to compare"),
        (["absent.toml", "--recipes=fedavg"], "absent.toml: no such experiment file"),
        (["digits.toml", "--recipes=fedavg,hidensek"], "unknown recipe 'hidensek' (did you mean 'hidenseek'?)"),
        (["digits.toml", "--recipes=fedavg", "--line=b=fedavg rounds=3"], "not be on the same splits"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(arguments: list[str], saying: str, tmp_path: Path) -> None:
    (tmp_path / "digits.toml").write_text(EXPERIMENT)
    out, err = hedgerow("compare", *arguments, cwd=tmp_path, code=2)
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    assert saying in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.toml"]
