"""Rounds of stock Flower: a SuperLink, SuperNodes and a run, as its documentation starts them, over TLS on loopback."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import tomli_w

from benchmarks.fleet.identities import Identities
from benchmarks.processes import Children, free_port, wait_until
from hedgerow.errors import RunError

__all__ = ["FlowerRounds", "flower_rounds"]

_BIN = Path(sys.executable).parent
_BUNDLE = {
    "project": {
        "name": "echo",
        "version": "0.1.0",
        "description": "Bytes down, a thousand bytes up",
        "license": "Apache-2.0",
        "dependencies": [],
    },
    "tool": {
        "flwr": {
            "app": {
                "publisher": "hedgerow",
                "fab-include": ["README.md"],
                "components": {
                    "serverapp": "benchmarks.fleet.flower_app:server_app",
                    "clientapp": "benchmarks.fleet.flower_app:client_app",
                },
                "config": {"folder": "", "devices": 0},
            }
        }
    },
}


class FlowerRounds:
    """Plays rounds with all SuperNodes, through a ServerApp that waits for files."""

    def __init__(self, folder: Path, children: Children, *, devices: int) -> None:
        self._folder, self._children, self._devices = folder, children, devices
        self._round = 0
        self._processes = len(children.left())

    def play(self, size: int, *, seconds: float = 250.0) -> float:
        """Seconds of one round, as the ServerApp measured it: fresh bytes down, so many, and 1,000 up from each.

        Raises:
            RunError: not every SuperNode replied.
        """
        number, self._round = self._round, self._round + 1
        _write(self._folder / f"go-{number}", str(size))
        done = self._folder / f"done-{number}"
        wait_until(done.exists, f"Flower has played a round of {size} bytes", seconds=seconds)
        result = json.loads(done.read_text())
        if result["replies"] != self._devices:
            logs = self._children.log("superlink")
            raise RunError(f"Flower: {result['replies']} of {self._devices} SuperNodes replied: {logs}")
        # The processes of its ClientApps outlive their replies, and would be in the way of what is measured next.
        wait_until(lambda: len(self._children.left()) <= self._processes, "Flower is at rest", seconds=60)
        return float(result["seconds"])


@contextlib.contextmanager
def flower_rounds(children: Children, *, devices: int) -> Iterator[FlowerRounds]:
    """A SuperLink and SuperNodes with a run that waits for rounds.

    Raises:
        RunError: it does not come up.
    """
    folder = children.folder / "echo"
    (folder / "bundle").mkdir(parents=True)
    (folder / "bundle" / "pyproject.toml").write_text(tomli_w.dumps(_BUNDLE))
    (folder / "bundle" / "README.md").write_text("See benchmarks.\n")
    port = free_port()
    identities = Identities.make(children.folder / "flower-identities", [])
    tls = identities.folder
    superlink: list[str | Path] = [_BIN / "flower-superlink", "--host", "127.0.0.1", "--port", str(port)]
    superlink += ["--ssl-ca-certfile", tls / "authority.crt", "--ssl-certfile", tls / "coordinator.crt"]
    superlink += ["--ssl-keyfile", tls / "coordinator.key", "--disable-runtime-dependency-installation"]
    children.start(superlink, name="superlink")
    for k in range(devices):
        node: list[str | Path] = [_BIN / "flower-supernode", "--superlink", f"127.0.0.1:{port}"]
        node += ["--root-certificates", tls / "authority.crt", "--port", str(free_port())]
        node += ["--ssl-ca-certfile", tls / "authority.crt", "--ssl-certfile", tls / "coordinator.crt"]
        node += ["--ssl-keyfile", tls / "coordinator.key"]
        children.start(node, name=f"supernode-{k}")
    connection = {"address": f"127.0.0.1:{port}", "root-certificates": str(tls / "authority.crt")}
    home = children.folder / "flwr"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "here", "here": connection}}))
    _submit(children, folder, devices=devices)
    wait_until((folder / "ready").exists, "Flower's run has all its SuperNodes", seconds=90)
    yield FlowerRounds(folder, children, devices=devices)


def _submit(children: Children, folder: Path, *, devices: int) -> None:
    settings = f'folder="{folder}" devices={devices}'
    for attempt in range(20):
        # The SuperLink takes some seconds until it listens.
        name = f"flwr-run-{attempt}"
        run = children.start([_BIN / "flwr", "run", folder / "bundle", "--run-config", settings], name=name)
        wait_until(lambda run=run: run.poll() is not None, "flwr run has ended", seconds=60)  # type: ignore[misc]
        if run.returncode == 0:
            return
    raise RunError(f"flwr run failed: {children.log(name)} {children.log('superlink')}")


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)
