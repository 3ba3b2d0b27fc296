"""Runs the installed command as its user does."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import HEDGEROW

__all__ = ["HEDGEROW", "TINY", "hedgerow", "lasting", "only_run", "start"]

TINY = (
    "--model=mlp",
    "--density=0.1",
    "--rounds=3",
    "--set=fleet.clients=6",
    "--set=fleet.cohort=3",
    "--set=data.min_samples=4",
    "--set=pruning.iterations=10",
)
"""A run of seconds."""


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """`hedgerow` with these arguments in a process of its own, in the folder `cwd`."""
    return subprocess.Popen(
        [*HEDGEROW, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def hedgerow(*arguments: str | Path, cwd: Path, code: int = 0) -> tuple[str, str]:
    """Runs to the end, expects the exit code, and gives what was printed and what went to stderr."""
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out, err


def only_run(cwd: Path) -> Path:
    """The folder of the only run below `cwd`."""
    (path,) = (cwd / "runs").iterdir()
    return path


def lasting(run: Path) -> tuple[Sequence[dict[str, Any]], bytes]:
    """What must not differ between two executions: records without what was measured, and the model's bytes."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["measured"]
    return lines, (run / "model.safetensors").read_bytes()
