"""What this machine is, and the memory that may be used here."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

__all__ = ["MAX_NAME", "default_budget", "default_name", "memory_bytes", "resident_bytes", "software"]

MAX_NAME = 63
"""Characters of a device's name, at most."""


def default_name(*, part: int | None = None) -> str:
    """The machine's name in the letters that a device's may have; with `part`, a device of several on it."""
    name = re.sub(r"[^a-z0-9._-]+", "-", socket.gethostname().lower()).strip("-._") or "device"
    suffix = "" if part is None else f"-{part}"
    return name[: MAX_NAME - len(suffix)] + suffix


def software() -> str:
    """Versions, read without importing anything."""
    return f"hedgerow {version('hedgerow')}, torch {version('torch')}"


def memory_bytes(root: Path = Path("/")) -> int:
    """Bytes that may be used here: what the kernel says is available, or what the control group's limit leaves if that
    is less.

    Args:
        root: where `proc` and `sys` are.
    """
    found = [*_cgroup_rests(root), *_available(root)]
    if not found:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(found)


def default_budget(root: Path = Path("/")) -> int:
    """Bytes that a device trains in where its user says nothing: 0.8 of what is free, as others use some of it too.

    Args:
        root: as in `memory_bytes`.
    """
    return memory_bytes(root) * 4 // 5


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


def _cgroup_rests(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used, unread = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            used, unread = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        # The limit of a group above holds too; inside a container the path may not exist, and the top is its own.
        group = base / path.lstrip("/")
        for folder in (group, *(p for p in group.parents if p.is_relative_to(base))):
            most = _number(folder / limit)
            if most is None:
                continue
            # Files that nobody has read lately are counted as used, but given up for whoever needs the memory.
            files = re.search(rf"^{unread} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
            held = (_number(folder / used) or 0) - (int(files[1]) if files else 0)
            yield max(0, most - max(0, held))


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
