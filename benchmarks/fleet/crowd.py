"""A process of stub devices: `python -m benchmarks.fleet.crowd ADDRESS IDENTITIES NAME…`.

It says `{"attached": N}` on standard output when all are, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from benchmarks.fleet.identities import Identities
from benchmarks.stub_device import StubDevice, reply_to

__all__ = ["REPLY"]

REPLY = bytes(range(250)) * 4
"""What each answers: 1,000 bytes."""


def _reply(request: bytes) -> bytes:
    return reply_to(request, REPLY)


async def _crowd(address: str, identities: Identities, names: list[str]) -> None:
    devices = [StubDevice(address, name, answer=_reply, credentials=identities.channel(name)) for name in names]
    tasks = [asyncio.create_task(device.run()) for device in devices]
    welcomed = asyncio.create_task(_all_welcomed(devices))
    await asyncio.wait([welcomed, *tasks], return_when=asyncio.FIRST_COMPLETED)
    print(json.dumps({"attached": sum(device.welcomed.is_set() for device in devices)}), flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _all_welcomed(devices: list[StubDevice]) -> None:
    for device in devices:
        await device.welcomed.wait()


if __name__ == "__main__":
    asyncio.run(_crowd(sys.argv[1], Identities(Path(sys.argv[2])), sys.argv[3:]))
