"""Devices of different memory in one run, as their users see it: real processes, a real kill."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hedgerow.config import Experiment, load_experiment, parse_override
from hedgerow.telemetry import read_records
from tests.budgets import memory_for_levels
from tests.contract.engines import running
from tests.e2e.command import HEDGEROW, hedgerow, only_run
from tests.waiting import free_port, until

pytestmark = pytest.mark.slow

SETTINGS = (
    "data.name=digits",
    "model.name=conv4",
    # What a request really held decides who plans anew for the next round, and differs from one process to the next.
    "rounds=1",
    "pruning.density=0.8",
    "pruning.rule=erk",
    "pruning.saliency=random",
    "training.steps=3",
    "training.kernels=dense",
    "budget.plan=true",
    "budget.levels=[1.0, 0.5, 0.25]",
)


def experiment_for(clients: int) -> Experiment:
    overrides = [*SETTINGS, f"fleet.clients={clients}", f"fleet.cohort={clients}"]
    return load_experiment(overrides=[parse_override(text) for text in overrides])


def written(experiment: Experiment, folder: Path) -> Path:
    path = folder / "experiment.toml"
    path.write_bytes(experiment.toml())
    return path


@pytest.fixture(scope="module")
def sizes() -> list[str]:
    """For the whole, for a half, for a quarter, and for none of them."""
    return memory_for_levels(experiment_for(3))


def test_three_classes_of_memory_train_three_parts_of_one_network(sizes: Sequence[str], tmp_path: Path) -> None:
    experiment = experiment_for(3)
    devices = [
        {"name": name, "share": 1 / 3, "memory": memory}
        for name, memory in zip(("desktop", "tablet", "phone"), sizes, strict=False)
    ]
    fleet = {**experiment.fleet.model_dump(), "devices": devices}
    experiment = Experiment.model_validate({**experiment.model_dump(), "fleet": fleet})
    out, err = hedgerow("simulate", written(experiment, tmp_path), "--workers=1", cwd=tmp_path)
    assert "memory      enough for level 0: 1 device, for level 1: 1 device, for level 2: 1 device\n" in out + err
    record = read_records(only_run(tmp_path) / "metrics.jsonl")[1]
    assert [part.replies for part in record.levels] == [1, 1, 1]
    whole, *parts = (part.kept for part in record.levels)
    assert parts == pytest.approx([whole / 2, whole / 4], rel=0.001)
    assert record.kept == whole
    assert record.plans is not None
    for level in range(3):
        assert record.plans.predicted[level] <= record.plans.budgets[level]
    page = (only_run(tmp_path) / "report.html").read_text()
    assert "Memory that devices have" in page


def test_a_class_with_too_little_memory_is_told_before_anything_else(sizes: Sequence[str], tmp_path: Path) -> None:
    experiment = experiment_for(3)
    fleet = {**experiment.fleet.model_dump(), "devices": [{"name": "watch", "share": 1.0, "memory": sizes[3]}]}
    experiment = Experiment.model_validate({**experiment.model_dump(), "fleet": fleet})
    _, err = hedgerow("simulate", written(experiment, tmp_path), cwd=tmp_path, code=2)
    assert "give class 'watch' of fleet.devices" in err
    assert not (tmp_path / "runs").exists()


class Fleet:
    """A coordinator and a device for each size of memory, in a folder."""

    def __init__(self, folder: Path, sizes: Sequence[str], *, stack: contextlib.ExitStack) -> None:
        self.folder, self.experiment = folder, experiment_for(len(sizes))
        self.address = f"127.0.0.1:{free_port()}"
        self.path = written(self.experiment, folder)
        self.coordinator = self.start(stack, "coordinator")
        for k, size in enumerate(sizes):
            join: list[str | Path] = [*HEDGEROW, "join", self.address, "--data", "digits", "--once", "--memory", size]
            join += ["--partition", f"{k}/{len(sizes)}", "--name", f"device-{k}", "--state", folder / f"device-{k}"]
            stack.enter_context(running(join, folder=folder, name=f"device-{k}"))

    def start(self, stack: contextlib.ExitStack, name: str) -> subprocess.Popen[bytes]:
        command: list[str | Path] = [*HEDGEROW, "coordinator", self.path, "--listen", self.address, "--stay"]
        command += ["--out", self.folder / "runs", "--http", f"127.0.0.1:{free_port()}"]
        return stack.enter_context(running(command, folder=self.folder, name=name))

    @property
    def model(self) -> Path:
        return self.folder / "runs" / self.experiment.digest() / "model.safetensors"

    def wait(self) -> None:
        report = self.model.with_name("report.html")
        until(lambda: self.model.exists() and report.exists(), "the model", seconds=400)


def test_devices_of_different_memory_train_one_network_and_who_has_too_little_is_told(
    sizes: Sequence[str], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        fleet = Fleet(tmp_path, [sizes[0], sizes[2], sizes[3]], stack=stack)
        fleet.wait()
        out, _ = hedgerow("status", fleet.address, "--json", cwd=tmp_path)
    shown = {device["name"]: (device["level"], device["too_small"]) for device in json.loads(out)["devices"]}
    assert shown == {"device-0": (0, False), "device-1": (2, False), "device-2": (None, True)}
    record = read_records(fleet.model.with_name("metrics.jsonl"))[1]
    assert [part.replies for part in record.levels] == [1, 0, 1]
    assert record.plans is not None
    assert (record.plans.levels, record.plans.refused) == ({0: 1, 2: 1}, 1)
    assert record.plans.least_bytes is not None
    said = (tmp_path / "device-2.log").read_text()
    assert "too few for conv4" in said
    assert "join with --memory" in said
    assert "too little: 1 device" in (tmp_path / "coordinator.log").read_text()


def test_a_coordinator_killed_amid_devices_of_different_memory_comes_to_the_same_model(
    sizes: Sequence[str], tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    with contextlib.ExitStack() as stack:
        whole = Fleet(folders[0], [sizes[0], sizes[2]], stack=stack)
        whole.wait()
    with contextlib.ExitStack() as stack:
        killed = Fleet(folders[1], [sizes[0], sizes[2]], stack=stack)
        logs = [folders[1] / f"device-{k}.log" for k in range(2)]
        # It was asked for its part, and trains.
        until(lambda: any("round 1: training" in log.read_text() for log in logs), "training", seconds=200)
        killed.coordinator.send_signal(signal.SIGKILL)
        killed.coordinator.wait()
        assert not killed.model.exists()
        killed.start(stack, "coordinator-again")
        killed.wait()
    assert killed.model.read_bytes() == whole.model.read_bytes()
    ours, theirs = (read_records(fleet.model.with_name("metrics.jsonl")) for fleet in (whole, killed))
    assert [r.levels for r in theirs] == [r.levels for r in ours]
    assert [part.replies for part in ours[1].levels] == [1, 0, 1]
