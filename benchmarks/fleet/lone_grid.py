"""A coordinator's grid in a process of its own: `python -m benchmarks.fleet.lone_grid IDENTITIES`.

It reads requests and answers them, a line of JSON each, and ends with its input:

    {}                            its address, how many devices are attached, who was lost when (on the monotonic clock)
    {"round": N, "size": BYTES}   the seconds that a round with all of them took
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.fleet.hedgerow_rounds import play_round
from benchmarks.fleet.identities import Identities

# Not used here; with it the process is as large as a coordinator's.
from hedgerow.server.app import app as _app  # noqa: F401
from hedgerow.server.grids.remote.grid import RemoteGrid
from hedgerow.server.grids.remote.view import FleetObserver
from hedgerow.wire.addresses import Address


class _Losses(FleetObserver):
    def __init__(self) -> None:
        self.lost: dict[str, float] = {}

    def attached(self, name: str, *, reconnect: bool) -> None:
        self.lost.pop(name, None)

    def detached(self, name: str, *, cause: str) -> None:
        self.lost[name] = time.monotonic()


def _answer(request: dict[str, Any], grid: RemoteGrid, losses: _Losses) -> dict[str, Any]:
    if "round" in request:
        return {"seconds": play_round(grid, request["round"], os.urandom(request["size"]))}
    attached = len(list(grid.get_node_ids()))
    return {"address": str(grid.address), "attached": attached, "lost": dict(losses.lost)}


def _main(identities: Identities) -> None:
    losses = _Losses()
    with RemoteGrid(
        Address("127.0.0.1", 0),
        run="bench",
        run_config="{}",
        credentials=identities.server(),
        revocations=identities.revocations(),
        observer=losses,
    ) as grid:
        for line in sys.stdin:
            print(json.dumps(_answer(json.loads(line), grid, losses)), flush=True)


if __name__ == "__main__":
    _main(Identities(Path(sys.argv[1])))
