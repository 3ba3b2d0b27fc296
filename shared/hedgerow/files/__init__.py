"""Files that are either the old ones or the new ones, never half of each."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from hedgerow.errors import RunError

__all__ = ["sealed", "unsealed", "write_atomically"]

_SEAL = 16


def sealed(content: bytes) -> bytes:
    """The content behind 16 bytes of its SHA-256, for what may come back damaged.

    >>> unsealed(sealed(b"abc")), unsealed(sealed(b"abc")[:-1])
    (b'abc', None)
    """
    return hashlib.sha256(content).digest()[:_SEAL] + content


def unsealed(data: bytes) -> bytes | None:
    """Inverse of `sealed`; None where a byte is missing or another one."""
    content = data[_SEAL:]
    return content if sealed(content) == data else None


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Writes a temporary file beside `path` and moves it over; missing folders are made.

    Args:
        path: the file.
        content: all of it.
        private: nobody but its owner can read it, at any moment.

    Raises:
        RunError: the file cannot be written; an old one is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            mode = 0o600 if private else 0o666
            # One that a killed process of the same number left, as happens in containers, is written over.
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                # Without this a power cut may leave the new name with none of its bytes.
                os.fsync(file.fileno())
            os.replace(temporary, path)
            # A name, too, has to outlive a power cut.
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written ({error.strerror}); free some space or choose another folder"
        ) from error
