"""The last versions that were sent, so that whoever holds one of them need only be told what changed since.

    versions/
        00000012.payload     the version of round 12: 16 bytes of SHA-256, and the payload, whole, as it would travel
        00000012.1.payload   the same of level 1, where devices train parts of the network
        <digest>.mask        a mask that versions are of, named by 32 hexadecimal digits: 16 bytes of SHA-256, its bits

Where nobody builds on older versions, each is kept as its header alone: it names the mask, and what a mask gains and
loses is told all the same. A version and its mask are written before anybody is sent them. They can be made again from
the checkpoint before them, so nothing is lost with this folder but bytes: whoever holds a version that is not here is
sent the whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from hedgerow.codec import decode_payload
from hedgerow.errors import PayloadError
from hedgerow.files import sealed, unsealed, write_atomically

__all__ = ["FolderHistory", "History", "MemoryHistory"]


class History(Protocol):
    """Encoded versions by the number of their round and their level, and packed masks by their digest."""

    def add(self, round: int, payload: bytes, *, level: int = 0) -> None:
        """Remembers a version, and forgets those that are too old."""

    def find(self, round: int, *, level: int = 0) -> bytes | None:
        """The version of a round; None where it is not known any more."""

    def add_mask(self, digest: bytes, packed: bytes) -> None:
        """Remembers a mask as `Mask.packed` gives it, and forgets those that no remembered version is of."""

    def find_mask(self, digest: bytes) -> bytes | None:
        """The mask of a digest; None where it is not known any more."""


class MemoryHistory:
    """Remembers `most` versions as long as the process lives; see `History`."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._payloads: dict[tuple[int, int], bytes] = {}
        self._masks: dict[bytes, bytes] = {}

    def add(self, round: int, payload: bytes, *, level: int = 0) -> None:
        """See `History`."""
        self._payloads[round, level] = payload
        self._payloads = {key: p for key, p in self._payloads.items() if round - self._most < key[0] <= round}

    def find(self, round: int, *, level: int = 0) -> bytes | None:
        """See `History`."""
        return self._payloads.get((round, level))

    def add_mask(self, digest: bytes, packed: bytes) -> None:
        """See `History`."""
        if self._most:
            needed = {digest, *map(_mask_of, self._payloads.values())}
            self._masks = {d: p for d, p in {**self._masks, digest: packed}.items() if d in needed}

    def find_mask(self, digest: bytes) -> bytes | None:
        """See `History`."""
        return self._masks.get(digest)


class FolderHistory:
    """Remembers `most` versions in a folder, which a coordinator that starts again finds; see `History`."""

    def __init__(self, folder: Path, *, most: int) -> None:
        self._folder, self._most = folder, most

    def add(self, round: int, payload: bytes, *, level: int = 0) -> None:
        """See `History`.

        Raises:
            RunError: the folder cannot be written.
        """
        write_atomically(self._path(round, level), sealed(payload))
        for found, of_level in self._versions():
            if not round - self._most < found <= round:
                with contextlib.suppress(OSError):
                    self._path(found, of_level).unlink()

    def find(self, round: int, *, level: int = 0) -> bytes | None:
        """See `History`."""
        return _content(self._path(round, level))

    def add_mask(self, digest: bytes, packed: bytes) -> None:
        """See `History`.

        Raises:
            RunError: the folder cannot be written.
        """
        if not self._most:
            return
        write_atomically(self._mask_path(digest), sealed(packed))
        versions = (self.find(found, level=level) for found, level in self._versions())
        payloads = (payload for payload in versions if payload is not None)
        needed = {digest, *map(_mask_of, payloads)}
        for path in self._folder.glob("*.mask"):
            with contextlib.suppress(ValueError, OSError):
                old = bytes.fromhex(path.stem)
                if path == self._mask_path(old) and old not in needed:
                    path.unlink()

    def find_mask(self, digest: bytes) -> bytes | None:
        """See `History`."""
        return _content(self._mask_path(digest))

    def _versions(self) -> Iterator[tuple[int, int]]:
        for path in self._folder.glob("*.payload"):
            with contextlib.suppress(ValueError):
                number, _, level = path.stem.partition(".")
                found = int(number), int(level or 0)
                if path == self._path(*found):
                    yield found

    def _path(self, round: int, level: int) -> Path:
        return self._folder / (f"{round:08d}.{level}.payload" if level else f"{round:08d}.payload")

    def _mask_path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}.mask"


def _content(path: Path) -> bytes | None:
    try:
        # A changed bit may decode, and then nobody would notice that devices start from something else.
        return unsealed(path.read_bytes())
    except OSError:
        return None


def _mask_of(payload: bytes) -> bytes | None:
    try:
        return decode_payload(payload, limit=len(payload))[0].mask_digest
    except PayloadError:
        return None
