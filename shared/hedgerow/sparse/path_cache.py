"""What was measured on this machine, kept so that the same machine always decides the same.

One JSON file a decision, in `$XDG_CACHE_HOME/hedgerow/paths`. Whoever asks first measures while the others wait for it;
everybody uses what is in the file. Nothing here ever fails: without a usable folder there is no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from hedgerow.errors import RunError
from hedgerow.files import write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # then nobody waits, and the first to write decides

__all__ = ["cache_folder", "known", "remembered"]

T = TypeVar("T")

_PATIENCE_SECONDS = 120.0


def cache_folder() -> Path | None:
    """Where decisions are kept; None where this user has no such place."""
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root) / "hedgerow" / "paths"
    try:
        return Path.home() / ".cache" / "hedgerow" / "paths"
    except RuntimeError:
        return None


def known(key: dict[str, Any], *, read: Callable[[Any], T]) -> T | None:
    """The decision for `key`, where there is one already; nothing is measured. Arguments are those of `remembered`."""
    folder = cache_folder()
    return None if folder is None else _read(folder / f"{_name(key)}.json", read)


def remembered(key: dict[str, Any], *, read: Callable[[Any], T], measure: Callable[[], Any]) -> tuple[T, bool] | None:
    """The decision for `key`, measured now if there is none yet.

    Args:
        key: all that a decision depends on, in JSON's types.
        read: makes the decision of what a file holds; raises ValueError, KeyError or TypeError where that is damaged.
        measure: gives what a file is to hold; not called where it could not be kept.

    Returns:
        The decision, and whether it was measured just now; None where nothing can be kept.
    """
    folder = cache_folder()
    if folder is None:
        return None
    name = _name(key)
    path = folder / f"{name}.json"
    found = _read(path, read)
    if found is not None:
        return found, False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f"{name}.lock"):
            found = _read(path, read)
            if found is not None:
                return found, False
            content = {"key": key, "decision": measure()}
            write_atomically(path, json.dumps(content, indent=1).encode())
    except (OSError, RunError):
        return None
    found = _read(path, read)
    return None if found is None else (found, True)


def _name(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: Path, read: Callable[[Any], T]) -> T | None:
    try:
        return read(json.loads(path.read_bytes())["decision"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    # Two that measure at once would disturb each other, and perhaps decide differently.
    with lock.open("w") as file:
        if fcntl is not None:
            end = time.monotonic() + _PATIENCE_SECONDS
            while time.monotonic() < end:
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                time.sleep(0.05)
        yield
