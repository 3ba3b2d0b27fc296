"""Rounds of our own grid: in this process, over mutual TLS on loopback, with devices in processes of their own."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flwr.app import Message

from benchmarks.fleet.crowd import REPLY
from benchmarks.fleet.identities import Identities
from benchmarks.processes import Children, answer, wait_until
from hedgerow.errors import RunError
from hedgerow.server.grids.remote.grid import RemoteGrid
from hedgerow.wire.addresses import Address
from hedgerow.wire.flower import content_of, payload_in

__all__ = ["HedgerowRounds", "attach_crowd", "hedgerow_rounds", "play_round"]


class HedgerowRounds:
    """Plays rounds with all that is attached."""

    def __init__(self, grid: RemoteGrid) -> None:
        self._grid = grid
        self._round = 0

    def play(self, size: int) -> float:
        """Seconds of one round: fresh bytes down, so many, and 1,000 bytes up from each device."""
        self._round += 1
        return play_round(self._grid, self._round, os.urandom(size))


def play_round(grid: RemoteGrid, number: int, payload: bytes, *, seconds: float = 120.0) -> float:
    """Seconds from the first byte encoded to the last reply decoded and checked.

    Raises:
        RunError: not every device replied with what it should.
    """
    nodes = list(grid.get_node_ids())
    began = time.perf_counter()
    content = content_of(payload)
    messages = [
        Message(content, dst_node_id=node, message_type="train", group_id=str(number), ttl=3600.0) for node in nodes
    ]
    replies = list(grid.send_and_receive(messages, timeout=seconds))
    good = sum(not reply.has_error() and payload_in(reply.content) == REPLY for reply in replies)
    took = time.perf_counter() - began
    for reply in replies:
        grid.take_sizes(reply.metadata.reply_to_message_id)
    if good != len(nodes):
        raise RunError(f"round {number}: {good} of {len(nodes)} devices replied as they should")
    return took


@contextlib.contextmanager
def hedgerow_rounds(children: Children, *, devices: int, real: bool = False) -> Iterator[HedgerowRounds]:
    """A grid and devices, each in its own process.

    Args:
        children: where the processes are started.
        devices: how many there are.
        real: whether they are what `hedgerow join` makes, with a worker process and a folder each, or stubs.
    """
    names = [f"{'real' if real else 'stub'}-{k}" for k in range(devices)]
    identities = Identities.make(children.folder / f"identities-{names[0]}", names)
    with RemoteGrid(
        Address("127.0.0.1", 0),
        run="bench",
        run_config="{}",
        credentials=identities.server(),
        revocations=identities.revocations(),
    ) as grid:
        for name in names:
            if real:
                _start_real(children, str(grid.address), identities, name)
            else:
                attach_crowd(children, str(grid.address), identities, [name])
        wait_until(lambda: len(list(grid.get_node_ids())) == devices, "all devices have attached", seconds=60)
        yield HedgerowRounds(grid)


def _start_real(children: Children, address: str, identities: Identities, name: str) -> None:
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.fleet.device", address]
    children.start([*command, identities.folder, name, children.folder / f"state-{name}"], name=name)


def attach_crowd(children: Children, address: str, identities: Identities, names: Sequence[str]) -> int:
    """Starts a process of stub devices, waits until they are attached, and gives its number.

    Raises:
        RunError: not all attached.
    """
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.fleet.crowd", address, identities.folder, *names]
    process = children.start(command, name=f"crowd-{names[0]}", talks=True)
    attached = answer(process)["attached"]
    if attached != len(names):
        raise RunError(f"{attached} of {len(names)} stub devices attached: {children.log(f'crowd-{names[0]}')}")
    return process.pid
