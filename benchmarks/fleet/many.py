"""Hundreds of attached devices: what they cost the coordinator, and how soon a killed one is missed."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time

from benchmarks.fleet.hedgerow_rounds import attach_crowd
from benchmarks.fleet.identities import Identities
from benchmarks.processes import Children, answer, memory_bytes, processor_seconds, wait_until

__all__ = ["measure_many"]

_CROWD = 100
"""Devices in one process."""
_LARGER = 1_000_000


def measure_many(children: Children, *, devices: int, kills: int, rounds: int, idle_seconds: float) -> dict[str, float]:
    """Figures of one coordinator with so many devices, over mutual TLS.

    Args:
        children: where the processes are started.
        devices: that attach, in processes of 100.
        kills: devices that are killed one by one; after them, one process of 100.
        rounds: that are played.
        idle_seconds: how long the heartbeats alone are watched.
    """
    crowds = [[f"many-{k}" for k in range(at, min(at + _CROWD, devices))] for at in range(0, devices, _CROWD)]
    victims = [f"victim-{k}" for k in range(kills)]
    identities = Identities.make(
        children.folder / "identities", [*(name for crowd in crowds for name in crowd), *victims]
    )
    grid = children.start(
        [sys.executable, "-m", "benchmarks.fleet.lone_grid", identities.folder], name="grid", talks=True
    )
    address = answer(grid, {})["address"]
    alone, _ = memory_bytes(grid.pid)
    began = time.monotonic()
    pids = [attach_crowd(children, address, identities, names) for names in crowds]
    attach_seconds = time.monotonic() - began
    seconds = [answer(grid, {"round": k + 1, "size": 1000})["seconds"] for k in range(rounds)]
    larger = answer(grid, {"round": rounds + 1, "size": _LARGER})["seconds"]
    before = processor_seconds(grid.pid)
    time.sleep(idle_seconds)
    share = (processor_seconds(grid.pid) - before) / idle_seconds
    notices = []
    for name in victims:
        pid = attach_crowd(children, address, identities, [name])
        notices += _killed(grid, pid, [name])
    together = _killed(grid, pids[0], crowds[0])
    now, most = memory_bytes(grid.pid)
    return {
        "many.devices": devices,
        "many.attach_seconds": attach_seconds,
        "many.round_ms_median": 1e3 * statistics.median(seconds),
        "many.megabyte_round_seconds": larger,
        "many.coordinator_bytes": now,
        "many.coordinator_bytes_peak": most,
        "many.bytes_a_device": (now - alone) / devices,
        "many.idle_processor_ratio": share,
        "killed.notice_seconds_median": statistics.median(notices),
        "killed.notice_seconds_max": max(notices),
        "killed.notice_seconds_together": max(together),
    }


def _killed(grid: subprocess.Popen[bytes], pid: int, names: list[str]) -> list[float]:
    """Seconds until the coordinator knew of each."""
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: set(names) <= set(answer(grid, {})["lost"]), f"{len(names)} killed devices are missed", seconds=30
    )
    lost = answer(grid, {})["lost"]
    return [lost[name] - began for name in names]
