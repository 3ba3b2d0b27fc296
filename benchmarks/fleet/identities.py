"""Identities for hundreds of devices, in a moment: `hedgerow enrol` takes care that each outlives a power cut."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc

from hedgerow.identity import Revocations, channel_credentials, read_identity, server_credentials
from hedgerow.identity.issuing import issue, make_authority
from hedgerow.identity.reading import Identity, identity_bytes

__all__ = ["Identities"]


@dataclass(frozen=True, slots=True)
class Identities:
    """A folder of identity files, `NAME.pem` each; that of the coordinator is `coordinator.pem`."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, devices: Iterable[str]) -> Identities:
        """Makes them all, under an authority of their own."""
        folder.mkdir(parents=True, exist_ok=True)
        now = datetime.now(UTC)
        authority = make_authority(now=now)
        coordinator, _ = issue(authority, name="coordinator", role="coordinator", hosts=["127.0.0.1"], now=now)
        _write(folder / "coordinator.pem", identity_bytes(coordinator))
        # For programs that want them apart.
        _write(folder / "authority.crt", coordinator.authority_pem)
        _write(folder / "coordinator.crt", coordinator.certificate_pem)
        _write(folder / "coordinator.key", coordinator.key_pem)
        for name in devices:
            identity, _ = issue(authority, name=name, role="device", now=now)
            _write(folder / f"{name}.pem", identity_bytes(identity))
        return cls(folder)

    def server(self) -> grpc.ServerCredentials:
        """For a coordinator."""
        return server_credentials(self._coordinator())

    def revocations(self) -> Revocations:
        """Nobody is revoked."""
        return Revocations(self.folder / "revoked.txt")

    def channel(self, name: str) -> grpc.ChannelCredentials:
        """For a device."""
        return channel_credentials(read_identity(self.folder / f"{name}.pem", role="device"))

    def _coordinator(self) -> Identity:
        return read_identity(self.folder / "coordinator.pem", role="coordinator")


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
