"""Trainers in processes of their own: what they need at most, and whether they train under a limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.processes import ROOT
from benchmarks.sparse.drift import Drift
from benchmarks.sparse.memory import Peak
from benchmarks.sparse.networks import Case, mask_of, model_of
from hedgerow.errors import RunError
from hedgerow.wire.launch import QUIET_PROFILER

__all__ = ["Alone", "Kind", "Limited", "drifts", "limited", "measured"]

Kind = Literal["dense", "ours", "lean"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What one trainer needed in bytes: as torch counts it, and as the kernel does."""

    peak: Peak
    resident: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """How two steps went under a limit."""

    trained: bool
    message: str


def measured(kind: Kind, case: Case) -> Alone:
    """The peak of one step in a process that does nothing else."""
    answer = _train(kind, case, {})
    return Alone(peak=Peak(lasting=answer["lasting"], transient=answer["transient"]), resident=answer["resident"])


def limited(kind: Kind, case: Case, *, limit_bytes: int) -> Limited:
    """Builds the network and trains two steps with at most `limit_bytes` of data beyond torch's own (RLIMIT_DATA)."""
    answer = _train(kind, case, {"limit_bytes": limit_bytes})
    return Limited(trained=answer["outcome"] == "trained", message=answer["message"])


def drifts(case: Case, *, steps: int, seeds: int) -> list[Drift]:
    """`loss_drift` for several seeds, in a process whose threads do not spin while they wait: cores may be busy."""
    answer = _ask({"kind": "drift", "case": asdict(case), "steps": steps, "seeds": seeds})
    return [Drift(**drift) for drift in answer["drifts"]]


def _train(kind: Kind, case: Case, more: Mapping[str, object]) -> dict[str, Any]:
    # The mask comes in bits, as a device gets it: drawing one takes more memory than training with it.
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as folder:
        mask = Path(folder) / "mask"
        mask.write_bytes(mask_of(case, model_of(case)).packed())
        return _ask({"kind": kind, "case": asdict(case), "mask": str(mask), **more})


def _ask(request: Mapping[str, object]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sparse.child"],
        cwd=ROOT,
        env={**os.environ, **_ENVIRONMENT},
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode != 0:
        raise RunError(
            f"the benchmark's process ended with {done.returncode} on {request}: {done.stderr[-500:].strip()}"
        )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


_ENVIRONMENT = {
    **QUIET_PROFILER,
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    # Every block of a tensor's size is mapped, and given back when it is freed.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
