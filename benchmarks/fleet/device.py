"""A device as `hedgerow join` makes it, worker process and state folder included, that trains nothing.

`python -m benchmarks.fleet.device ADDRESS IDENTITIES NAME STATE`
"""

from __future__ import annotations

import asyncio
import functools
import sys
from pathlib import Path

from benchmarks.fleet.identities import Identities
from hedgerow.client.joining.agent import Device, serve
from hedgerow.client.joining.desk import Desk
from hedgerow.client.joining.progress import Progress
from hedgerow.client.joining.store import DeviceFolder
from hedgerow.client.joining.worker import WorkerProcess


async def _serve(address: str, identities: Identities, name: str, folder: DeviceFolder) -> None:
    worker = functools.partial(WorkerProcess, app="benchmarks.fleet.echo_app:app")
    desk = Desk(folder, node_config={}, start_worker=worker, progress=Progress())
    device = Device(
        name=name,
        address=address,
        credentials=identities.channel(name),
        memory_bytes=1 << 30,
        examples=1,
        once=True,
    )
    try:
        await serve(device, desk=desk, progress=Progress())
    finally:
        await desk.close()


if __name__ == "__main__":
    with DeviceFolder(Path(sys.argv[4])) as state:
        asyncio.run(_serve(sys.argv[1], Identities(Path(sys.argv[2])), sys.argv[3], state))
