"""A line a device on the coordinator's own terminal."""

from __future__ import annotations

from rich.console import Console

from hedgerow.server.grids.remote.view import FleetObserver

__all__ = ["DeviceLines"]

_REFUSALS = {
    "identity": "its certificate is not an identity of hedgerow",
    "revoked": "its identity was revoked",
    "evicted": "it was evicted",
    "role": "its identity is for something else",
    "protocol": "it speaks another version of the protocol",
    "hello": "it did not say who it is",
}


class DeviceLines(FleetObserver):
    """Says who comes, goes and is turned away."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def attached(self, name: str, *, reconnect: bool) -> None:
        """Says so."""
        self.line(f"{name} is back" if reconnect else f"{name} joined")

    def detached(self, name: str, *, cause: str) -> None:
        """Says so, but not at the end, when all are sent away."""
        if cause not in ("finished", "stopping"):
            self.line(f"{name} is gone: {cause}")

    def refused(self, *, reason: str) -> None:
        """Says why."""
        self.line(f"a connection was refused: {_REFUSALS.get(reason, reason)}")

    def rejected(self, name: str, *, reason: str) -> None:
        """Says why."""
        self.line(f"{name}: a reply was thrown away: {reason.replace('_', ' ')}")

    def line(self, text: str) -> None:
        """Prints it as it is."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
