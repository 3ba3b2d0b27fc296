"""What a device keeps on disk, so that a kill at any moment loses nothing.

    <state folder>/
        lock                        held while a process uses the folder
        <digest of the run>/
            states.sqlite           what the client remembers between rounds (`hedgerow.wire.states`)
            <round>-<id>.reply      a reply that the coordinator has not acknowledged
            <round>-<id>.taken      one that it has; kept in case the request comes again

A reply's file is the digest of its body, then the body.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hedgerow.errors import RunError
from hedgerow.files import write_atomically
from hedgerow.files.locks import FolderLock
from hedgerow.wire.states import StateStore

__all__ = ["DeviceFolder", "Kept", "RunStore"]

_RUNS_KEPT = 3
_ROUNDS_KEPT = 2
_REPLY = re.compile(r"(\d{10})-([0-9a-f]{32})\.(reply|taken)")


@dataclass(frozen=True, slots=True)
class Kept:
    """A reply on disk."""

    id: str
    """Of its request, 32 hexadecimal digits."""
    round: int
    taken: bool
    """Whether the coordinator acknowledged it."""


class RunStore:
    """What is kept of one run. Replies may be written and read from any thread, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.states = StateStore(folder / "states.sqlite")

    def replies(self) -> list[Kept]:
        """All replies, oldest round first."""
        return list(_replies_in(self._folder))

    def find(self, id: str) -> Kept | None:
        """The reply to the request of that id."""
        return next((kept for kept in self.replies() if kept.id == id), None)

    def put(self, id: str, body: bytes, *, round: int) -> Kept:
        """Keeps a reply, and drops those of all but the last two rounds.

        Raises:
            RunError: it cannot be written.
        """
        kept = Kept(id, round, taken=False)
        write_atomically(self._path(kept), hashlib.sha256(body).digest() + body)
        rounds = sorted({other.round for other in self.replies() if other.round <= round})
        for other in self.replies():
            if other.round in rounds[:-_ROUNDS_KEPT]:
                self.drop(other)
        return kept

    def body(self, kept: Kept) -> bytes | None:
        """A reply's body; None where its file is gone or damaged."""
        try:
            content = self._path(kept).read_bytes()
        except OSError:
            return None
        digest, body = content[:32], content[32:]
        return body if hashlib.sha256(body).digest() == digest else None

    def mark_taken(self, kept: Kept) -> None:
        """Remembers that it was acknowledged."""
        with contextlib.suppress(OSError):  # it would only be sent once more
            os.replace(self._path(kept), self._path(Kept(kept.id, kept.round, taken=True)))

    def drop(self, kept: Kept) -> None:
        """Deletes a reply."""
        with contextlib.suppress(OSError):
            self._path(kept).unlink()

    def close(self) -> None:
        """Closes the states' file."""
        self.states.close()

    def _path(self, kept: Kept) -> Path:
        return self._folder / f"{kept.round:010d}-{kept.id}.{'taken' if kept.taken else 'reply'}"


class DeviceFolder:
    """The state folder of one device, locked while it is open.

    Raises:
        RunError: another process has it open, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._lock = FolderLock(path, mode=0o700)
        except BlockingIOError:
            raise RunError(
                f"{path}: another process has joined with this state folder; end it, or give this one a --state "
                f"folder of its own"
            ) from None
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}); choose another --state folder") from None

    def unacknowledged(self) -> list[str]:
        """Identifiers of all requests whose reply still has to reach its coordinator."""
        return [kept.id for folder in self._runs() for kept in _replies_in(folder) if not kept.taken]

    def open_run(self, run: str) -> RunStore:
        """What is kept of a run, and drops the runs that were not opened for longest.

        Raises:
            RunError: the folder cannot be written, or is damaged.
        """
        folder = self._folder(run)
        try:
            folder.mkdir(exist_ok=True)
            os.utime(folder)
        except OSError as error:
            raise RunError(f"{folder}: cannot be written ({error.strerror}); choose another --state folder") from None
        for old in [other for other in self._runs() if other != folder][_RUNS_KEPT - 1 :]:
            shutil.rmtree(old, ignore_errors=True)
        return RunStore(folder)

    def forget(self, run: str) -> None:
        """Deletes what is kept of a run that is over."""
        shutil.rmtree(self._folder(run), ignore_errors=True)

    def close(self) -> None:
        """Lets others use the folder."""
        self._lock.close()

    def _folder(self, run: str) -> Path:
        # The name comes from the coordinator, and must not lead out of this folder.
        return self.path / hashlib.sha256(run.encode()).hexdigest()[:32]

    def _runs(self) -> list[Path]:
        # The last opened first.
        try:
            folders = [path for path in self.path.iterdir() if re.fullmatch(r"[0-9a-f]{32}", path.name)]
            return sorted(folders, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        except FileNotFoundError:
            return []  # somebody deleted it; what is kept from now on makes it again
        except OSError as error:
            raise RunError(f"{self.path}: cannot be read ({error.strerror}); is its disk still there?") from None

    def __enter__(self) -> DeviceFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _replies_in(folder: Path) -> Iterator[Kept]:
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return  # somebody deleted it
    except OSError as error:
        raise RunError(f"{folder}: cannot be read ({error.strerror}); is its disk still there?") from None
    for path in paths:
        match = _REPLY.fullmatch(path.name)
        if match is not None:
            yield Kept(match[2], int(match[1]), taken=match[3] == "taken")
