"""`hedgerow watch`: follows a run live, from elsewhere."""

from __future__ import annotations

import asyncio

from hedgerow.server.control.options import AddressArgument, IdentityOption, InsecureOption

__all__ = ["watch"]


def watch(address: AddressArgument, identity: IdentityOption = None, insecure: InsecureOption = False) -> None:
    """Follows the run of a coordinator until it ends, and through its restarts.

    The exit code is 0 when the run finished, and 1 when it failed.
    """
    from rich.console import Console

    from hedgerow.errors import RunError
    from hedgerow.server.control.client import connected, credentials_for
    from hedgerow.server.control.follow import follow
    from hedgerow.server.control.screens import LiveScreen, PlainScreen
    from hedgerow.units import clean_text
    from hedgerow.v1.fleet_pb2 import STATE_FAILED

    where, credentials = credentials_for(address, identity=identity, insecure=insecure)
    console = Console()
    with LiveScreen(console) if console.is_terminal else PlainScreen() as screen:
        last = asyncio.run(follow(lambda: connected(where, credentials), screen=screen))
    if last.status.state == STATE_FAILED:
        raise RunError(f"the run {clean_text(last.text)}; its coordinator's output says more")
