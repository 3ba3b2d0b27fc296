"""The files of an enrolment folder: where they are, who may read them, and how they are replaced."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from hedgerow.errors import ConfigError, HedgerowError, IdentityError, RunError
from hedgerow.files import write_atomically
from hedgerow.identity import Role, check_name
from hedgerow.identity.revocations import Revocation, parse_revocations, revocation_lines
from hedgerow.identity.subject import parse_role

__all__ = [
    "Enrolment",
    "Issued",
    "existing",
    "locked",
    "make_folder",
    "read_issued",
    "write_issued",
    "write_revoked",
]

_ISSUED_HEADER = b"# serial number, role, name, first day, last day\n"
_REVOKED_HEADER = b"# serial number, name, day of revocation\n"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Where things lie in an enrolment folder."""

    path: Path

    @property
    def authority(self) -> Path:
        """The certificate that both ends trust."""
        return self.path / "authority.pem"

    @property
    def authority_key(self) -> Path:
        """What signs."""
        return self.path / "authority-key.pem"

    @property
    def coordinator(self) -> Path:
        """The coordinator's identity."""
        return self.path / "coordinator.pem"

    @property
    def issued(self) -> Path:
        """All that was ever signed."""
        return self.path / "issued.txt"

    @property
    def revoked(self) -> Path:
        """What counts no longer; for `hedgerow.identity.Revocations`."""
        return self.path / "revoked.txt"

    def identity(self, name: str, role: Role) -> Path:
        """Where a new identity is put."""
        return self.coordinator if role == "coordinator" else self.path / f"{role}s" / f"{name}.pem"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was signed; `revoked` is the day on which it was, or None."""

    serial: int
    role: Role
    name: str
    since: date
    until: date
    revoked: date | None = None


def make_folder(folder: Enrolment) -> None:
    """Makes it where it is missing, for its owner alone.

    Raises:
        ConfigError: there is something else.
        RunError: it cannot be made.
    """
    path = folder.path
    with _usable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        # An authority there makes it ours; without one, a command may have been stopped before it was written.
        if not folder.authority.exists():
            if not path.is_dir() or not _only_ours(path):
                raise ConfigError(f"{path}: there is something else; name a new folder for the enrolment")
            path.chmod(0o700)
        for below in ("devices", "operators"):
            (path / below).mkdir(mode=0o700, exist_ok=True)


def _only_ours(path: Path) -> bool:
    ours = {"authority-key.pem", "coordinator.pem", "devices", "issued.txt", "lock", "operators", "revoked.txt"}
    return all(found.name in ours or (found.name[0] == "." and found.suffix == ".new") for found in path.iterdir())


def existing(path: Path) -> Enrolment:
    """A folder that was made before.

    Raises:
        ConfigError: there is none.
        RunError: it cannot be looked into.
    """
    folder = Enrolment(path)
    with _usable(path):
        if not folder.authority.exists():
            raise ConfigError(f"{path}: not an enrolment folder; `hedgerow enrol {path}` makes one")
    return folder


@contextlib.contextmanager
def locked(folder: Enrolment) -> Iterator[None]:
    """Keeps other commands waiting; what the system refuses inside is reported as a RunError."""
    with _usable(folder.path):
        descriptor = os.open(folder.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Of a command that was killed while it wrote.
            for leftover in folder.path.rglob(".*.new"):
                leftover.unlink()
            yield
        finally:
            os.close(descriptor)


def read_issued(folder: Enrolment) -> list[Issued]:
    """All that was ever signed, oldest first; nothing where there is no authority yet.

    Raises:
        IdentityError: the file is missing or damaged.
        RunError: it cannot be read.
    """
    path = folder.issued
    with _usable(folder.path):
        if not path.exists():
            if not folder.authority.exists():
                return []
            raise IdentityError(
                f"{path}: missing, so nobody can be found to be revoked; "
                "put it back from a backup, or begin a new folder"
            )
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        text = folder.revoked.read_text(encoding="utf-8", errors="replace") if folder.revoked.exists() else ""
    revoked = {entry.serial: entry.day for entry in parse_revocations(text)[0]}
    entries = [
        _parse_issued(path, number, line)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]
    return [replace(entry, revoked=revoked.get(entry.serial)) for entry in entries]


def _parse_issued(path: Path, number: int, line: str) -> Issued:
    try:
        serial, role_text, name, since, until = line.split()
        role = parse_role(role_text)
        if role is None:
            raise ValueError(role_text)
        return Issued(
            serial=int(serial, 16),
            role=role,
            name=check_name(name),
            since=date.fromisoformat(since),
            until=date.fromisoformat(until),
        )
    except ValueError:
        raise IdentityError(f"{path}: line {number} is damaged; correct it or take the file from a backup") from None


def write_issued(folder: Enrolment, *new: Issued) -> None:
    """Appends what will be handed out, or begins the file. Only under the lock."""
    lines = "".join(f"{e.serial:x}  {e.role}  {e.name}  {e.since}  {e.until}\n" for e in new)
    write_atomically(folder.issued, _appended(folder.issued, _ISSUED_HEADER, lines), private=True)


def write_revoked(folder: Enrolment, *new: Revocation) -> None:
    """Appends what counts no longer. Only under the lock."""
    write_atomically(folder.revoked, _appended(folder.revoked, _REVOKED_HEADER, revocation_lines(new)), private=True)


def _appended(path: Path, header: bytes, lines: str) -> bytes:
    before = path.read_bytes() if path.exists() else header
    # Somebody's editor may have left the last line without its end.
    return before + (b"" if before.endswith(b"\n") or not before else b"\n") + lines.encode()


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except HedgerowError:
        raise
    except OSError as error:
        raise RunError(
            f"{path}: cannot be used ({error.strerror}); run it as its owner, or name another folder"
        ) from None
