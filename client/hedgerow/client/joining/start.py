"""From the command's options to a device at work, and how it ends."""

from __future__ import annotations

import asyncio
import functools
import signal
from dataclasses import dataclass
from pathlib import Path

import grpc

from hedgerow.client.joining.agent import Device, serve
from hedgerow.client.joining.desk import Desk
from hedgerow.client.joining.examine import examine
from hedgerow.client.joining.progress import Progress
from hedgerow.client.joining.store import DeviceFolder
from hedgerow.client.joining.worker import WorkerProcess

__all__ = ["Joining", "join_fleet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """What the user chose.

    Attributes:
        address: of the coordinator, `host:port`.
        credentials: TLS; None without.
        name: the device's.
        data: name of its own data set.
        data_path: file or folder of it.
        part: which part of how many, where it trains on a part only.
        allowed_model: `package.module:function` that a coordinator may name.
        memory_bytes: that it may use.
        budget: bytes that it may train in, where its user said so; None: what is free beside its worker.
        measure: whether small training steps put its predictions right for this machine.
        threads: that it trains with.
        state: folder for what it keeps.
        once: whether it ends with the run.
    """

    address: str
    credentials: grpc.ChannelCredentials | None
    name: str
    data: str
    data_path: Path | None
    part: tuple[int, int] | None
    allowed_model: str | None
    memory_bytes: int
    budget: int | None
    measure: bool
    threads: int
    state: Path
    once: bool

    def node_config(self) -> dict[str, object]:
        """Flower's, for the client app."""
        config: dict[str, object] = {"data": self.data}
        if self.data_path is not None:
            config["data-path"] = str(self.data_path)
        if self.part is not None:
            config["partition-id"], config["num-partitions"] = self.part
        if self.allowed_model is not None:
            config["allow-model"] = self.allowed_model
        if self.budget is not None:
            config["memory"] = self.budget
        if not self.measure:
            config["measure"] = False
        return config


def join_fleet(joining: Joining, *, progress: Progress) -> None:
    """Works until it is asked to end (SIGTERM), or until the run is over when `joining.once`.

    Raises:
        HedgerowError: what is wrong with its data, its folder or its identity, or why the coordinator refused it.
        KeyboardInterrupt: Ctrl-C; all is closed then.
    """
    with DeviceFolder(joining.state) as folder:
        if asyncio.run(_until_asked_to_end(joining, folder=folder, progress=progress)) == signal.SIGINT:
            raise KeyboardInterrupt


async def _until_asked_to_end(joining: Joining, *, folder: DeviceFolder, progress: Progress) -> signal.Signals | None:
    asked: list[signal.Signals] = []
    work = asyncio.create_task(_work(joining, folder=folder, progress=progress))

    def end(number: signal.Signals) -> None:
        # The second one is for a process that cannot end by itself.
        loop.remove_signal_handler(number)
        asked.append(number)
        work.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    try:
        await work
    except asyncio.CancelledError:
        if not asked:
            raise
        progress.stopped()
        return asked[0]
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return None


async def _work(joining: Joining, *, folder: DeviceFolder, progress: Progress) -> None:
    samples = await examine(joining.data, path=joining.data_path)
    # The coordinator says how the parts are made, so this is only about right.
    examples = samples if joining.part is None else samples // joining.part[1]
    progress.starting(name=joining.name, address=joining.address, data=joining.data, examples=examples)
    device = Device(
        name=joining.name,
        address=joining.address,
        credentials=joining.credentials,
        memory_bytes=joining.memory_bytes,
        examples=examples,
        once=joining.once,
    )
    loop = asyncio.get_running_loop()

    def tell(line: str) -> None:
        # A thread that waits for the worker calls this.
        loop.call_soon_threadsafe(progress.note, line)

    start_worker = functools.partial(WorkerProcess, threads=joining.threads, tell=tell)
    desk = Desk(folder, node_config=joining.node_config(), start_worker=start_worker, progress=progress)
    try:
        await serve(device, desk=desk, progress=progress)
    finally:
        await desk.close()
