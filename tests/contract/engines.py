"""One experiment on each engine, run as its user runs it: simulate, coordinator and joins, Flower's runtime, Ray."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import tomli_w
from benchmarks.processes import HEDGEROW

from hedgerow.budget import class_of
from hedgerow.config import Experiment
from tests.waiting import free_port, until

__all__ = ["ENGINES", "run_flower", "run_grpc", "run_local", "run_ray", "running"]

BUNDLE = Path(__file__).parents[2] / "deploy" / "flower"

_SECONDS = 400
"""More than a run may take on a busy machine."""


def run_local(experiment: Experiment, *, folder: Path) -> Path:
    """`hedgerow simulate`; gives the run's folder, as the others do."""
    _to_the_end([*HEDGEROW, "simulate", _written(experiment, folder), "--out", folder / "runs"], folder=folder)
    return folder / "runs" / experiment.digest()


def run_grpc(experiment: Experiment, *, folder: Path) -> Path:
    """`hedgerow coordinator` on the loopback address, and a `hedgerow join` for each client, all without TLS."""
    address = f"127.0.0.1:{free_port()}"
    clients = experiment.fleet.clients
    coordinator: list[str | Path] = [*HEDGEROW, "coordinator", _written(experiment, folder), "--listen", address]
    coordinator += ["--out", folder / "runs", "--http", f"127.0.0.1:{free_port()}"]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(coordinator, folder=folder, name="coordinator"))
        devices = []
        for k in range(clients):
            join: list[str | Path] = [*HEDGEROW, "join", address, "--data", experiment.data.name, "--once"]
            join += ["--partition", f"{k}/{clients}", "--state", folder / f"device-{k}"]
            device = class_of(experiment, k)
            # Simulated devices plan without what a device would measure.
            join += [] if device is None else ["--memory", device.memory, "--no-measure"]
            devices.append(stack.enter_context(running(join, folder=folder, name=f"device-{k}")))
        until(
            lambda: server.poll() is not None or any(device.poll() for device in devices),
            "the coordinator ends",
            seconds=_SECONDS,
        )
        assert server.returncode == 0, _logs(folder)
    return folder / "runs" / experiment.digest()


def run_flower(experiment: Experiment, *, folder: Path) -> Path:
    """`flwr run` on a SuperLink with a SuperNode for each client."""
    port = free_port()
    clients = experiment.fleet.clients
    with contextlib.ExitStack() as stack:
        stack.enter_context(_superlink(port, folder=folder))
        for k in range(clients):
            node: list[str | Path] = [_BIN / "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}"]
            node += ["--port", str(free_port()), "--node-config", f"partition-id={k} num-partitions={clients}"]
            stack.enter_context(running(node, folder=folder, name=f"supernode-{k}"))
        return _submitted(experiment, port, folder=folder)


def run_ray(experiment: Experiment, *, folder: Path) -> Path:
    """`flwr run` on a SuperLink that simulates its SuperNodes with Ray."""
    port = free_port()
    # Ray's sockets have to have short names.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
        _superlink(port, "--simulation", folder=folder, RAY_TMPDIR=scratch),
    ):
        nodes = f"num-supernodes={experiment.fleet.clients} client-resources-num-cpus=1 init-args-num-cpus=2"
        return _submitted(experiment, port, "--federation-config", nodes, folder=folder)


ENGINES: Mapping[str, Callable[..., Path]] = {
    "local": run_local,
    "grpc": run_grpc,
    "flower": run_flower,
    "ray": run_ray,
}


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], *, folder: Path, name: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the block lasts, then it and all that it started are gone; it prints to `folder/name.log`."""
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=_environment(folder) | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        # Flower's daemons leave their children behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


_BIN = Path(sys.executable).parent


def _environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Sums come out the same only in the same order.
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


def _written(experiment: Experiment, folder: Path) -> Path:
    path = folder / "experiment.toml"
    path.write_bytes(experiment.toml())
    return path


def _to_the_end(command: Sequence[str | Path], *, folder: Path) -> None:
    with running(command, folder=folder, name="command") as process:
        until(lambda: process.poll() is not None, f"{command} ends", seconds=_SECONDS)
        assert process.returncode == 0, _logs(folder)


@contextlib.contextmanager
def _superlink(port: int, *options: str, folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    command: list[str | Path] = [_BIN / "flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--disable-runtime-dependency-installation", *options]
    url = f"http://127.0.0.1:{port}/health"
    with running(command, folder=folder, name="superlink", **environment) as process:
        until(lambda: process.poll() is not None or _answers(url), f"{url} answers", seconds=60)
        assert process.poll() is None, _logs(folder)
        yield process


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _submitted(experiment: Experiment, port: int, *options: str, folder: Path) -> Path:
    home = folder / "flwr"
    home.mkdir(exist_ok=True)
    connection = {"address": f"127.0.0.1:{port}", "insecure": True}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "here", "here": connection}}))
    settings = {"experiment": experiment.model_dump_json(), "out": str(folder / "runs")}
    (folder / "run.toml").write_text(tomli_w.dumps(settings))
    _to_the_end(
        [_BIN / "flwr", "run", BUNDLE, "--run-config", folder / "run.toml", "--stream", *options], folder=folder
    )
    path = folder / "runs" / experiment.digest()
    assert (path / "model.safetensors").exists(), _logs(folder)
    return path


def _logs(folder: Path) -> str:
    return "\n".join(f"== {path.name}\n{path.read_text()[-4000:]}" for path in sorted(folder.glob("*.log")))
