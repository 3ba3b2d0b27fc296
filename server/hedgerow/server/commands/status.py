"""`hedgerow status`: how a run stands, from elsewhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hedgerow.server.control.options import AddressArgument, IdentityOption, InsecureOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hedgerow.v1.fleet_pb2 import Device, Status

__all__ = ["status"]


def status(
    address: AddressArgument,
    identity: IdentityOption = None,
    insecure: InsecureOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Shows how the run of a coordinator stands, and its devices."""
    # gRPC takes a while to import; `--help` must not wait for it.
    from rich.console import Console

    from hedgerow.server.control.views import device_facts, devices_table, status_facts, status_lines

    now, devices = asyncio.run(_ask(address, identity=identity, insecure=insecure))
    if as_json:
        facts = {**status_facts(now), "devices": [device_facts(device) for device in devices]}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for line in status_lines(now):
        typer.echo(line)
    if devices:
        # Whatever reads a pipe has no edge to wrap at.
        console = Console()
        wide = console if console.is_terminal else Console(width=200)
        wide.print("", devices_table(devices))


async def _ask(address: str, *, identity: Path | None, insecure: bool) -> tuple[Status, Sequence[Device]]:
    from hedgerow.server.control.client import connected, credentials_for

    where, credentials = credentials_for(address, identity=identity, insecure=insecure)
    async with connected(where, credentials) as client:
        return await client.status(), await client.devices()
