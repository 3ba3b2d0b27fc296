"""The benchmarks run from end to end in their small version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True)


def test_the_quick_version_prints_its_table_and_writes_flat_figures(tmp_path: Path) -> None:
    done = bench("recipes", "--quick", "--json", tmp_path / "figures.json", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, int | float) for value in figures.values())
    assert figures["fedavg.bytes_both"] > 10 * figures["hidenseek-0.05.bytes_both"]
    assert figures["frozen-0.05.accuracy"] < 0.3, "the control stays at chance"
    for line in ("fedavg", "hidenseek-0.2", "float-0.05", "one-client-float-0.05"):
        assert f"| `{line}` |" in done.stdout
    assert (tmp_path / "runs" / "recipes-quick.png").read_bytes().startswith(b"\x89PNG")


def test_the_names_in_the_json_are_explained() -> None:
    explained = (ROOT / "benchmarks" / "README.md").read_text()
    for name in (
        "accuracy",
        "bits_up_per_kept_weight",
        "entropy_share_up",
        "client_peak_bytes",
        "gap.points.one_client",
    ):
        assert f"`{name}`" in explained


def test_an_unknown_benchmark_lists_those_that_exist() -> None:
    done = bench("nothing")
    assert done.returncode == 2
    assert "there are recipes" in done.stderr
    assert "recipes" in bench().stdout
