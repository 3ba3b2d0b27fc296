"""`hedgerow evict`: shuts a device out of a run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from hedgerow.server.control.options import AddressArgument, IdentityOption, InsecureOption

__all__ = ["evict"]


def evict(
    address: AddressArgument,
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its name, as `hedgerow status` shows it.")],
    identity: IdentityOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Ends a device's connection and refuses it for the rest of the run.

    To shut its identity out of all runs, revoke it with `hedgerow enrol`.
    """
    asyncio.run(_evict(address, device, identity=identity, insecure=insecure))
    typer.echo(f"evicted {device}; it is refused for the rest of the run")


async def _evict(address: str, device: str, *, identity: Path | None, insecure: bool) -> None:
    from hedgerow.server.control.client import connected, credentials_for

    where, credentials = credentials_for(address, identity=identity, insecure=insecure)
    async with connected(where, credentials) as client:
        await client.evict(device)
