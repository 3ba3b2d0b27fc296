"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import os
from pathlib import Path

from hedgerow.errors import RunError

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a temporary file beside `path` and moves it over; missing folders are made.

    Raises:
        RunError: the file cannot be written; an old one is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                # Without this a power cut may leave the new name with none of its bytes.
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror}); free some space or choose another folder"
        ) from error
