"""The demonstration of a fleet, as its user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_four_devices_join_over_tls_and_leave_with_the_run(tmp_path: Path) -> None:
    # The environment that the script would make is the one that runs this.
    environment = {
        **os.environ,
        "HEDGEROW_VENV": sys.prefix,
        "FLEET_FOLDER": str(tmp_path),
        "FLEET_PORT": str(free_port()),
    }
    if not (Path(sys.prefix) / ".hedgerow").exists():
        pytest.skip("this environment was not made by scripts/environment, which would make another one")
    command = [str(ROOT / "scripts" / "demo-fleet"), "--model=mlp", "--rounds=2", "--set=pruning.iterations=5"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 2/2" in done.stdout
    for k in range(4):
        assert "the run is finished" in (tmp_path / f"device-{k}.log").read_text()
