"""The list of certificates that count no longer: a text file that `hedgerow enrol --revoke` writes and people can read.

A line each: serial number in hexadecimal, name, day. Empty lines and lines that begin with # are passed over.

What is damaged must never let anybody in. So a coordinator does not start with a damaged list, and while it runs the
list only grows: a damaged line is an error in the log, and whoever was revoked stays so though the file be cut or lost.
To take a revocation back, delete its line and start the coordinator again; better is a new identity of the same name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from hedgerow.errors import IdentityError

__all__ = ["Revocation", "Revocations", "parse_revocations", "revocation_lines"]

_LOG = logging.getLogger(__name__)
# What follows the serial number is for people.
_SERIAL = re.compile(r"\s*([0-9a-fA-F]{1,40})\s", re.ASCII)


@dataclass(frozen=True, slots=True)
class Revocation:
    """A certificate that counts no longer."""

    serial: int
    name: str
    day: date


def revocation_lines(revocations: Iterable[Revocation]) -> str:
    """Lines of the file.

    >>> revocation_lines([Revocation(serial=0x4F2A, name="pi-1", day=date(2026, 3, 9))])
    '4f2a  pi-1  2026-03-09\\n'
    """
    return "".join(f"{entry.serial:x}  {entry.name}  {entry.day.isoformat()}\n" for entry in revocations)


def parse_revocations(text: str) -> tuple[list[Revocation], list[int]]:
    """The entries of a file's content, and the numbers of its damaged lines, from 1.

    A line of which only name or day is damaged is in both.
    """
    entries, damaged = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        # Its blank shows that the serial number was not cut.
        serial = _SERIAL.match(line)
        fields = line.split()
        try:
            day = date.fromisoformat(fields[2])
        except (IndexError, ValueError):
            day = None
        if serial is None or day is None or len(fields) != 3:
            damaged.append(number)
        if serial is not None:
            entries.append(Revocation(int(serial[1], 16), fields[1] if len(fields) > 1 else "", day or date.min))
    return entries, damaged


class Revocations:
    """The list as a coordinator asks it: a change of the file counts with the next question.

    Raises:
        IdentityError: the file is damaged or cannot be read. One that is missing revokes nobody.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._serials: frozenset[int] = frozenset()
        self._seen: tuple[int, ...] | None = None
        self._problem = self._refresh()
        if self._problem is not None:
            raise IdentityError(f"{path}: {self._problem}; correct it, since it may hide a revocation")

    def is_revoked(self, serial: int) -> bool:
        """Whether a certificate of this serial number counts no longer; costs one look at the file's date."""
        problem = self._refresh()
        if problem is not None and problem != self._problem:
            _LOG.error("%s: %s; what was revoked before stays revoked", self._path, problem)
        self._problem = problem
        return serial in self._serials

    def _refresh(self) -> str | None:
        """Reads the file if it is another than last time, and says what is wrong with it."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._seen = None
            return None
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        # Time of change too: tools that copy files set the time of modification to what it was elsewhere.
        seen = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
        if seen == self._seen:
            return self._problem
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        entries, damaged = parse_revocations(text)
        self._serials |= {entry.serial for entry in entries}
        # Only now, and as it was before reading: a change in between is then seen the next time.
        self._seen = seen
        return f"line {damaged[0]} is damaged" if damaged else None
