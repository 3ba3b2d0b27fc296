"""What this machine is and may use."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from hedgerow.errors import ConfigError

__all__ = ["MAX_NAME", "cores", "default_name", "memory_bytes", "parse_bytes", "resident_bytes", "software"]

MAX_NAME = 63
"""Characters of a device's name, at most."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_MAX_BYTES = 1 << 50


def parse_bytes(text: str) -> int:
    """Reads a number of bytes.

    Raises:
        ConfigError: it is none, or not between 1 MB and 1 PB.

    >>> parse_bytes("512MB"), parse_bytes("1.5 GiB"), parse_bytes("2000000")
    (512000000, 1610612736, 2000000)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"memory: found {text!r}; write it as 512MB, 1.5GB or 1GiB")
    number, unit, binary = match.groups()
    size = int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])
    if not 1_000_000 <= size <= _MAX_BYTES:
        raise ConfigError(f"memory: found {text!r}; give at least 1MB, and at most 1000TB")
    return size


def default_name(*, part: int | None = None) -> str:
    """The machine's name in the letters that a device's may have; with `part`, a device of several on it."""
    name = re.sub(r"[^a-z0-9._-]+", "-", socket.gethostname().lower()).strip("-._") or "device"
    suffix = "" if part is None else f"-{part}"
    return name[: MAX_NAME - len(suffix)] + suffix


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def software() -> str:
    """Versions, read without importing anything."""
    return f"hedgerow {version('hedgerow')}, torch {version('torch')}"


def memory_bytes(root: Path = Path("/")) -> int:
    """Bytes that may be used here: what the kernel says is available, or the limit of the control group if smaller.

    Args:
        root: where `proc` and `sys` are.
    """
    found = [*_cgroup_limits(root), *_available(root)]
    if not found:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(found)


def resident_bytes(*pids: int) -> int:
    """Resident memory of these processes and of this one, in bytes; 0 where the system does not tell."""
    return sum(_resident(pid) for pid in (os.getpid(), *pids))


def _resident(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _available(root: Path) -> Iterator[int]:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if match is not None:
        yield 1024 * int(match[1])


def _cgroup_limits(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # The limit of a group above holds too; inside a container the path may not exist, and the top is its own.
        group = base / path.lstrip("/")
        for folder in (group, *(p for p in group.parents if p.is_relative_to(base))):
            text = _text(folder / name).strip()
            if text.isdecimal():
                yield int(text)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
