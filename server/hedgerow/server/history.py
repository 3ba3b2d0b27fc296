"""The last versions that were sent, so that whoever holds one of them need only be told what changed since.

    versions/
        00000012.payload     the version of round 12: 16 bytes of SHA-256, and the payload, whole, as it would travel

A version is written before anybody is sent it. It can be made again from the checkpoint before it, so nothing is lost
with this folder but bytes: whoever holds a version that is not here is sent the whole.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from hedgerow.files import sealed, unsealed, write_atomically

__all__ = ["FolderHistory", "History", "MemoryHistory"]


class History(Protocol):
    """Encoded versions by the number of their round."""

    def add(self, round: int, payload: bytes) -> None:
        """Remembers a version, and forgets those that are too old."""

    def find(self, round: int) -> bytes | None:
        """The version of a round; None where it is not known any more."""


class MemoryHistory:
    """Remembers `most` versions as long as the process lives; see `History`."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._payloads: dict[int, bytes] = {}

    def add(self, round: int, payload: bytes) -> None:
        """See `History`."""
        self._payloads[round] = payload
        self._payloads = {r: p for r, p in self._payloads.items() if round - self._most < r <= round}

    def find(self, round: int) -> bytes | None:
        """See `History`."""
        return self._payloads.get(round)


class FolderHistory:
    """Remembers `most` versions in a folder, which a coordinator that starts again finds; see `History`."""

    def __init__(self, folder: Path, *, most: int) -> None:
        self._folder, self._most = folder, most

    def add(self, round: int, payload: bytes) -> None:
        """See `History`.

        Raises:
            RunError: the folder cannot be written.
        """
        write_atomically(self._path(round), sealed(payload))
        for path in self._folder.glob("*.payload"):
            with contextlib.suppress(ValueError, OSError):
                found = int(path.stem)
                if path == self._path(found) and not round - self._most < found <= round:
                    path.unlink()

    def find(self, round: int) -> bytes | None:
        """See `History`."""
        try:
            # A changed bit may decode, and then nobody would notice that devices start from something else.
            return unsealed(self._path(round).read_bytes())
        except OSError:
            return None

    def _path(self, round: int) -> Path:
        return self._folder / f"{round:08d}.payload"
