"""The peak of memory, measured.

What torch allocates is read from its profiler's memory events, which agree with an accounting allocator within 0.1 %.
The kernel's peak of resident memory would agree too, but only while every freed block goes back to the kernel at once,
and that made a training step of Conv-4 take 1.7 times as long.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from hedgerow.wire.launch import QUIET_PROFILER

__all__ = [
    "Allocations",
    "Resident",
    "allocation_peak",
    "allocations",
    "peak_resident_bytes",
    "phase",
    "unmeasured",
]

T = TypeVar("T")

_PHASE = "hedgerow.phase."
_UNMEASURED = contextvars.ContextVar("unmeasured", default=False)


@dataclass(frozen=True, slots=True)
class Allocations:
    """What torch's CPU allocator held at most beyond what it held before, in bytes.

    Attributes:
        peak: over the whole of the work.
        phases: in each `phase` of it, by name; of a phase that came several times the largest.
    """

    peak: int
    phases: Mapping[str, int]


def phase(name: str) -> contextlib.AbstractContextManager[object]:
    """Marks a part of the work that `allocations` measures; costs next to nothing where nobody measures."""
    return torch.profiler.record_function(_PHASE + name)


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """Inside it `allocations` only does the work, and says 0: the profiler keeps some of the memory that it takes.

    >>> with unmeasured():
    ...     allocation_peak(lambda: torch.ones(1000).sum().item())
    (1000.0, 0)
    """
    token = _UNMEASURED.set(True)
    try:
        yield
    finally:
        _UNMEASURED.reset(token)


def allocations(work: Callable[[], T]) -> tuple[T, Allocations]:
    """Runs `work`, and says how much torch's CPU allocator held at most beyond what it held before.

    Scratch memory that libraries take for themselves is not in it.

    >>> def work():
    ...     with phase("make"):
    ...         held = torch.ones(1000)
    ...     with phase("use"):
    ...         return (held + 1).sum().item()
    >>> _, found = allocations(work)
    >>> 8000 <= found.peak < 9000, 4000 <= found.phases["make"] < 5000, found.phases["use"] == found.peak
    (True, True, True)
    """
    if _UNMEASURED.get():
        return work(), Allocations(peak=0, phases={})
    for name, value in QUIET_PROFILER.items():
        os.environ.setdefault(name, value)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    # torch's public views of these events leave out their order, which the peak depends on.
    inner: Any = profiler.profiler
    changes: list[tuple[int, int]] = []
    spans: list[tuple[int, int, str]] = []
    for event in inner.kineto_results.events():
        if event.name() == "[memory]":
            changes.append((event.start_ns(), event.nbytes()))
        elif event.name().startswith(_PHASE):
            spans.append((event.start_ns(), event.start_ns() + event.duration_ns(), event.name()[len(_PHASE) :]))
    # The profiler is part of a reference cycle, which would keep its events, some kB each, until that is found.
    inner.kineto_results = None
    changes.sort(key=lambda change: change[0])
    phases: dict[str, int] = {}
    for start, end, name in spans:
        phases[name] = max(phases.get(name, 0), _peak(changes, start=start, end=end))
    return result, Allocations(peak=_peak(changes), phases=phases)


def allocation_peak(work: Callable[[], T]) -> tuple[T, int]:
    """As `allocations`, with the peak alone.

    >>> _, peak = allocation_peak(lambda: torch.ones(1000).sum().item())
    >>> 4000 <= peak < 5000
    True
    """
    result, found = allocations(work)
    return result, found.peak


def peak_resident_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


class Resident:
    """The most that this process holds in each of several pieces of work, beyond what it held when this was made.

    Only memory of its own counts: pages of files, such as libraries' code, the system takes back when it needs them.
    How many of them there were at the peak nobody knows; as many are left out as there were before or after it.

    Args:
        process: folder of Linux's files about it.

    >>> resident = Resident()
    >>> resident.begin()
    >>> most = resident.held()
    >>> most is None or most >= 0
    True
    """

    def __init__(self, *, process: Path = Path("/proc/self")) -> None:
        self._process = process
        self._base = self._private("VmRSS")
        self._forgets, self._largest = False, peak_resident_bytes()
        self._aside = self._files = 0
        if self._base is None:
            self._base = self._largest

    def begin(self, *, aside: int = 0) -> None:
        """Work begins whose peak is asked for; `aside` bytes that it holds do not count."""
        self._forgets, self._largest = False, peak_resident_bytes()
        self._aside, self._files = aside, _files(self._status())
        # Not on other systems than Linux, nor where its files are read-only.
        with contextlib.suppress(OSError):
            (self._process / "clear_refs").write_text("5")
            self._forgets = True

    def held(self) -> int | None:
        """Bytes at most since `begin`, at least 0.

        Where the system knows no peak but that of the process's whole life, files included, it is that, and None where
        it came before `begin`.
        """
        assert self._base is not None
        most = self._private("VmHWM", files=self._files) if self._forgets else None
        if most is None:
            most = peak_resident_bytes()
            if most <= self._largest:
                return None
        return max(0, most - self._base - self._aside)

    def _private(self, name: str, *, files: int = 0) -> int | None:
        """A number of the process's status without its files; None where it is not there.

        They are those that are in memory now, or `files` bytes if these are more.
        """
        status = self._status()
        total = _kilobytes(name, status)
        return None if total is None else total - max(files, _files(status))

    def _status(self) -> str:
        try:
            return (self._process / "status").read_text()
        except OSError:
            return ""


def _files(status: str) -> int:
    """Bytes of files that are in memory."""
    return sum(_kilobytes(key, status) or 0 for key in ("RssFile", "RssShmem"))


def _kilobytes(name: str, status: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    return None if match is None else 1024 * int(match[1])


def _peak(changes: Iterable[tuple[int, int]], *, start: int | None = None, end: int | None = None) -> int:
    """The most that was held from `start` to `end`; what was there at `start` counts, whenever it came."""
    held = peak = 0
    begun = start is None
    for moment, change in changes:
        if end is not None and moment > end:
            break
        if not begun and start is not None and moment >= start:
            begun, peak = True, max(0, held)
        held += change
        if begun:
            peak = max(peak, held)
    return peak if begun else max(0, held)
