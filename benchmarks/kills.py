"""A coordinator and four devices on Fashion-MNIST over TLS, killed three times, against a simulation."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.faults.lab import DEVICES, Lab, device_name
from benchmarks.processes import Children
from hedgerow.config import Experiment, load_experiment
from hedgerow.server.simulation import simulate
from hedgerow.telemetry import RoundRecord, read_records
from hedgerow.units import bytes_text, percent_text

__all__ = ["run"]

_SECONDS = 3600.0


def run(*, quick: bool, out: Path) -> dict[str, float]:
    """Runs both, prints a table and returns the figures; a simulation that is in `out` is not run again."""
    console = Console()
    experiment = _experiment(quick=quick)
    console.print("simulating …")
    simulated = read_records(simulate(experiment, out=out, workers=1 if quick else None) / "metrics.jsonl")
    reference = (out / experiment.digest() / "model.safetensors").read_bytes()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as name, Children(Path(name)) as children:
        lab = Lab(children, experiment, data=experiment.data.name, seconds=_SECONDS)
        _disturbed(lab, console)
        joined, model = lab.records(), lab.model()
        # Of the second process; what the first had counted went with it.
        reconnects = sum(n for name, n in lab.counters().items() if name.startswith("hedgerow_device_reconnects"))
    seconds = time.monotonic() - began
    print(f"\n{_table(simulated, joined, seconds=seconds)}\n")
    same = model == reference
    console.print("the two models are the same, bit by bit" if same else "the two models differ")
    last, live = simulated[-1], joined[-1]
    assert last.accuracy is not None
    assert live.accuracy is not None
    return {
        "kills.accuracy.simulated": last.accuracy,
        "kills.accuracy.joined": live.accuracy,
        "kills.identical": float(same),
        "kills.rounds": live.round,
        "kills.replies_lost": sum(r.cohort - r.replies for r in joined),
        "kills.coordinator": 1,
        "kills.devices": 2,
        "kills.reconnects": reconnects,
        "kills.bytes_up": sum(r.bytes_up for r in joined),
        "kills.bytes_down": sum(r.bytes_down for r in joined),
        "kills.seconds.simulated": sum(r.measured.seconds for r in simulated),
        "kills.seconds.joined": seconds,
    }


def _experiment(*, quick: bool) -> Experiment:
    settings: dict[str, object] = {"fleet.clients": DEVICES, "fleet.cohort": DEVICES, "rounds": 4}
    if quick:
        settings |= {"data.name": "digits", "model.name": "mlp", "pruning.density": 0.2, "training.epochs": 12}
    else:
        settings |= {
            "data.name": "fashion-mnist",
            "rounds": 8,
            "training.epochs": 1,
            "training.batch_size": 32,
            "training.precision": "bf16",
        }
    return load_experiment(recipe="hidenseek", overrides=settings.items())


def _disturbed(lab: Lab, console: Console) -> None:
    lab.start()
    lab.training(0, round=1)
    lab.kill_device(0)
    console.print(f"round 1: {device_name(0)} killed in training, and started again")
    lab.start_device(0)
    lab.training(1, round=2)
    lab.kill_coordinator()
    console.print("round 2: the coordinator killed while the devices train, and started again")
    lab.start_coordinator()
    lab.training(2, round=3)
    lab.kill_device(2)
    console.print(f"round 3: {device_name(2)} killed in training, and started again when others had replied")
    lab.wait(lambda: (lab.journal() or (0, 0, False))[1] >= 1, "another device has replied")
    lab.start_device(2)
    lab.finish()


def _table(simulated: list[RoundRecord], joined: list[RoundRecord], *, seconds: float) -> str:
    lines = [
        "| run | rounds | accuracy | up | down | replies that count | seconds |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, records, took in (
        ("`simulate`", simulated, sum(r.measured.seconds for r in simulated)),
        ("`coordinator` + 4 × `join`, three kills", joined, seconds),
    ):
        up, down = (bytes_text(sum(getattr(r, f"bytes_{way}") for r in records)) for way in ("up", "down"))
        last = records[-1]
        assert last.accuracy is not None
        replies = f"{sum(r.replies for r in records)} of {sum(r.cohort for r in records)}"
        accuracy = percent_text(last.accuracy, decimals=2)
        lines.append(f"| {name} | {last.round} | {accuracy} | {up} | {down} | {replies} | {took:.0f} |")
    return "\n".join(lines)
