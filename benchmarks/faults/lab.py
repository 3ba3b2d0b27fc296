"""A coordinator and four devices as their users start them, over TLS, to be disturbed."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.processes import HEDGEROW, Children, free_port, wait_until
from hedgerow.config import Experiment, load_experiment
from hedgerow.errors import RunError
from hedgerow.server.enrolment import Enrolment, enrol
from hedgerow.telemetry import RoundRecord, read_records

__all__ = ["DEVICES", "Lab", "device_name", "experiment_of"]

DEVICES = 4
_SECONDS = 120.0
"""More than any step may take on a busy machine."""


def experiment_of(*, rounds: int, overrides: Mapping[str, object] | None = None) -> Experiment:
    """Four clients on the digits, all of them in each round; three replies are a quorum."""
    settings: dict[str, object] = {
        "data.name": "benchmarks.faults.data:slow_to_evaluate",
        "model.name": "mlp",
        "rounds": rounds,
        "fleet.clients": DEVICES,
        "fleet.cohort": DEVICES,
        "aggregation.min_replies": DEVICES - 1,
        "pruning.density": 0.2,
        "training.epochs": 12,
        "evaluation.batch_size": 8,
    }
    return load_experiment(recipe="hidenseek", overrides=(settings | dict(overrides or {})).items())


class Lab:
    """One run. What is started in it ends with `children`.

    Args:
        children: start its processes; their folder is the run's too.
        experiment: what is run.
        hosts: that the coordinator is reached by, besides the loopback address.
        listen: host that it listens on.
        grace: seconds that a round waits for a lost device.
        data: the devices' own data set.
        seconds: that any step may take.
    """

    def __init__(
        self,
        children: Children,
        experiment: Experiment,
        *,
        hosts: tuple[str, ...] = (),
        listen: str = "127.0.0.1",
        grace: float = 60.0,
        data: str = "digits",
        seconds: float = _SECONDS,
    ) -> None:
        self.children, self.experiment, self.folder = children, experiment, children.folder
        self.port, self._http = free_port(), free_port()
        self._listen, self._grace = listen, grace
        self._data, self._seconds = data, seconds
        enrol(self.folder / "fleet", hosts=hosts, devices=[device_name(k) for k in range(DEVICES)])
        (self.folder / "experiment.toml").write_bytes(experiment.toml())
        self.run = self.folder / "runs" / experiment.digest()
        self.coordinator: subprocess.Popen[bytes] | None = None
        self.devices: dict[int, subprocess.Popen[bytes]] = {}

    # What its users do

    def start_coordinator(self) -> None:
        """Starts it, or starts it again, with the same command."""
        command: list[str | Path] = [*HEDGEROW, "coordinator", self.folder / "experiment.toml"]
        command += ["--listen", f"{self._listen}:{self.port}", "--enrolment", self.folder / "fleet"]
        command += ["--http", f"127.0.0.1:{self._http}", "--out", self.folder / "runs", "--stay"]
        command += ["--grace", str(self._grace)]
        self.coordinator = self.children.start(command, name="coordinator")

    def start_device(self, k: int, *, address: str | None = None, prefix: tuple[str, ...] = ()) -> None:
        """Starts a device, or starts it again; through another address or within another command where given."""
        name = device_name(k)
        command: list[str | Path] = [*prefix, *HEDGEROW, "join", address or f"127.0.0.1:{self.port}"]
        command += ["--data", self._data, "--partition", f"{k}/{DEVICES}", "--identity", self.identity(k)]
        command += ["--state", self.folder / f"state-{name}", "--once"]
        self.devices[k] = self.children.start(command, name=name)

    def start(self, *, without: tuple[int, ...] = ()) -> None:
        """Starts everything."""
        self.start_coordinator()
        for k in range(DEVICES):
            if k not in without:
                self.start_device(k)

    def simulate(self) -> None:
        """Runs the experiment in a simulation instead."""
        command: list[str | Path] = [*HEDGEROW, "simulate", self.folder / "experiment.toml"]
        command += ["--out", self.folder / "runs"]
        process = self.children.start(command, name="simulate")
        wait_until(lambda: process.poll() is not None, "the simulation has ended", seconds=self._seconds)
        if process.returncode != 0:
            raise RunError(f"the simulation failed: {self.log('simulate')}")

    def identity(self, k: int) -> Path:
        """A device's identity file."""
        return Enrolment(self.folder / "fleet").identity(device_name(k), "device")

    # What happens to it

    def kill_coordinator(self) -> None:
        """kill -9, and waits until it is gone."""
        assert self.coordinator is not None
        self.coordinator.send_signal(signal.SIGKILL)
        self.coordinator.wait(10)

    def kill_device(self, k: int) -> None:
        """kill -9, and waits until it is gone."""
        self.devices[k].send_signal(signal.SIGKILL)
        self.devices[k].wait(10)

    # What is seen

    def log(self, name: str) -> str:
        """All that a process printed, each time that it was started."""
        return self.children.log(name, characters=1 << 30)

    def says(self, name: str, text: str) -> int:
        """How often a process printed this line's beginning or part."""
        return self.log(name).count(text)

    def wait(self, condition: Callable[[], bool], what: str, *, poll: float = 0.02) -> float:
        """Waits, and raises with everybody's last words when it is in vain or the coordinator ends."""

        def held() -> bool:
            return condition() or self._dead()

        try:
            took = wait_until(held, what, seconds=self._seconds, poll=poll)
        except RunError as error:
            raise RunError(f"{error}; {self._last_words()}") from None
        if not condition():
            raise RunError(f"the coordinator ended before {what}; {self._last_words()}")
        return took

    def training(self, k: int, *, round: int) -> None:
        """Waits until a device trains."""
        line, times = f"round {round}: training", self.says(device_name(k), f"round {round}: training")
        self.wait(
            lambda: self.says(device_name(k), line) > times, f"{device_name(k)} trains in round {round}", poll=0.01
        )

    def finish(self) -> None:
        """Waits until the run is done and told to the devices."""
        self.wait(lambda: self.says("coordinator", "the run is done; operators") > 0, "the run is done")

    def records(self) -> list[RoundRecord]:
        """What is recorded so far."""
        path = self.run / "metrics.jsonl"
        return read_records(path) if path.exists() else []

    def model(self) -> bytes:
        """The result."""
        return (self.run / "model.safetensors").read_bytes()

    def counters(self) -> dict[str, float]:
        """The coordinator's counters since it was started, by name and labels; those above 0. None without one."""
        if self.coordinator is None:
            return {}
        with urllib.request.urlopen(f"http://127.0.0.1:{self._http}/metrics", timeout=10) as response:
            text = response.read().decode()
        found = re.findall(r"^(hedgerow_\w+_total(?:\{[^}]*\})?) ([0-9.e+-]+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found if float(value) > 0}

    def journal(self) -> tuple[int, int, bool] | None:
        """The open round, how many replies are kept of it, and whether it is closed; None where none is open.

        It reads a copy, so that the coordinator's own file is as it would be without.
        """
        with tempfile.TemporaryDirectory() as folder:
            for name in ("journal.sqlite", "journal.sqlite-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(self.run / name, folder)
            try:
                with contextlib.closing(sqlite3.connect(Path(folder) / "journal.sqlite")) as connection:
                    (round, counted), *_ = connection.execute("SELECT round, counted FROM rounds").fetchall()
                    ((replies,),) = connection.execute("SELECT count(*) FROM replies WHERE round = ?", (round,))
            except (sqlite3.Error, ValueError):
                return None  # there is none yet, or the copy was made in the midst of a write
        return round, replies, counted is not None

    def _last_words(self) -> str:
        processes = {"coordinator": self.coordinator} | {device_name(k): device for k, device in self.devices.items()}
        return "; ".join(
            f"{name} {'lives' if process is None or process.poll() is None else 'has ended'} and said last: "
            f"{self.children.log(name, characters=600)}"
            for name, process in processes.items()
        )

    def _dead(self) -> bool:
        return self.coordinator is not None and self.coordinator.poll() is not None


def device_name(k: int) -> str:
    """What a device is called."""
    return f"device-{k}"
