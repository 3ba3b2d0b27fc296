"""Folders that one process has to itself."""

from __future__ import annotations

import fcntl
from pathlib import Path

__all__ = ["FolderLock"]


class FolderLock:
    """Keeps a folder from other processes until it is closed, or until this process and all that inherit it have ended.

    Args:
        folder: is made where it is missing; the lock is the file `lock` in it.
        mode: of folders that are made.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be written.
    """

    def __init__(self, folder: Path, *, mode: int = 0o777) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
        self._file = (folder / "lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise

    @property
    def descriptor(self) -> int:
        """A process that inherits it holds the lock too."""
        return self._file.fileno()

    def close(self) -> None:
        """Lets others have it."""
        self._file.close()
