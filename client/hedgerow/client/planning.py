"""The memory of the process that trains: how much there is, what is planned for it, and how it is kept to that."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional as F

from hedgerow.budget import GUARD, DevicePlan, Refusal, class_of
from hedgerow.budget.deciding import Calibrate, Decider
from hedgerow.budget.words import candidate_text, refusal_text
from hedgerow.client.source import Source
from hedgerow.config import Experiment
from hedgerow.errors import BudgetError
from hedgerow.exchange import NodePlan
from hedgerow.telemetry.memory import allocations

__all__ = [
    "Planner",
    "Room",
    "base_bytes",
    "exhausted",
    "following_guard",
    "give_back",
    "limited",
    "more_guarded",
    "room_of",
    "tighten",
    "warm",
]

_log = logging.getLogger(__name__)
_Key: TypeAlias = tuple[tuple[int, ...], ...]

_FAILED = 1.15
"""Times the guard, after a request that there was not enough memory for."""
_MOST_GUARD = 100.0
_MOST_DECIDERS = 16
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of `mallopt` in glibc's malloc.h."""
_LARGE = 1 << 16
"""Bytes from which a block is one of the system's own."""
_ADVICE = "join with --memory {least} or more, or train a smaller model"
_EXHAUSTED = re.compile(
    r"can't allocate memory|Cannot allocate memory|std::bad_alloc|out of memory|could not create a memory"
)
"""How torch and oneDNN say it."""


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that one client may train in.

    Attributes:
        budget: bytes beyond what the process holds before its first request.
        guard: times a prediction that these have to be.
    """

    budget: int
    guard: float = GUARD


def room_of(experiment: Experiment, source: Source, *, free: int, guard: float = GUARD) -> Room | None:
    """What one client of this process may use; None where nobody plans.

    Args:
        experiment: its settings.
        source: whose samples it trains on.
        free: what there is for a client of which nothing is said.
        guard: see `Room`.
    """
    if not experiment.budget.plan:
        return None
    if source.memory is not None:
        return Room(source.memory, guard)
    simulated = source.data is None and source.client < experiment.fleet.clients
    device = class_of(experiment, source.client) if simulated else None
    return Room(free if device is None else device.memory_bytes, guard)


class Planner:
    """Plans for the networks of one experiment.

    Args:
        experiment: what is trained.
        model: makes the dense network.
        input_shape: (C, H, W) of a sample.
        calibrate: says what was measured on this machine; predictions are what is computed when None.
    """

    def __init__(
        self,
        experiment: Experiment,
        *,
        model: Callable[[], nn.Module],
        input_shape: tuple[int, int, int],
        calibrate: Calibrate | None = None,
    ) -> None:
        self._experiment, self._model, self._input_shape = experiment, model, input_shape
        self._calibrate = calibrate
        self._deciders: OrderedDict[_Key, Decider] = OrderedDict()

    def found(self, levels: Sequence[Mapping[str, int]], room: Room) -> DevicePlan | Refusal:
        """The plan for a network of which there are these levels; see `Decider`."""
        key = tuple(tuple(level.values()) for level in levels)
        if key not in self._deciders:
            # Classes of simulated clients take turns, each with its own part of the network.
            while len(self._deciders) >= _MOST_DECIDERS:
                self._deciders.popitem(last=False)
            self._deciders[key] = Decider(
                self._experiment,
                self._model(),
                input_shape=self._input_shape,
                levels=levels,
                calibrate=self._calibrate,
            )
        return self._deciders[key].decide(room.budget, guard=room.guard)

    def required(self, kept: Mapping[str, int], room: Room) -> DevicePlan:
        """The plan for a network with so many kept weights in each tensor.

        Raises:
            BudgetError: nothing fits.
        """
        found = self.found([kept], room)
        if isinstance(found, Refusal):
            raise BudgetError(refusal_text(found, self._experiment, advice=_ADVICE))
        return found

    def said(self, levels: Sequence[Mapping[str, int]], room: Room) -> NodePlan:
        """The plan as the coordinator is told of it."""
        found = self.found(levels, room)
        if isinstance(found, Refusal):
            _log.info("%s", refusal_text(found, self._experiment, advice=_ADVICE))
            return NodePlan(level=None, budget=room.budget, predicted=0, least=found.least)
        _log.info("plan: %s", candidate_text(found.chosen, self._experiment))
        return NodePlan(level=found.chosen.level, budget=room.budget, predicted=found.predicted, least=0)


def more_guarded(guard: float) -> float:
    """The guard after a request for which there was not enough memory, or which took more than it should.

    >>> round(more_guarded(1.0), 2)
    1.15
    """
    return min(guard * _FAILED, _MOST_GUARD)


def following_guard(room: Room, held: int | None) -> float:
    """The guard for the next request: a larger one if this one held more than there was.

    Args:
        room: what this one was planned for.
        held: bytes that it held at most; None where nobody knows.

    >>> room = Room(100, 1.0)
    >>> following_guard(room, 100), round(following_guard(room, 101), 2), following_guard(room, None)
    (1.0, 1.15, 1.0)
    """
    return room.guard if held is None or held <= room.budget else more_guarded(room.guard)


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there was no memory.

    >>> exhausted(MemoryError()), exhausted(RuntimeError("shapes differ"))
    (True, False)
    """
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _EXHAUSTED.search(str(error)) is not None
    )


def tighten() -> None:
    """Makes the allocator give large blocks back at once, for the rest of this process; glibc only.

    As it is by default a request holds about three times what its training step takes, and half as much so; a step
    takes up to 1.4 times as long.
    """
    with contextlib.suppress(OSError, AttributeError):
        change = ctypes.CDLL(None).mallopt
        # To set a threshold also ends its growing with what is freed.
        change(_M_MMAP_THRESHOLD, _LARGE)
        change(_M_TRIM_THRESHOLD, _LARGE)


def warm() -> None:
    """One tiny measured step, so that what libraries take once is there before the base is read."""

    def step() -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        loss = F.cross_entropy(network(torch.zeros(2, 3, 8, 8)), torch.tensor([0, 1]))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9).step()

    # Making a network draws from torch's global generator, which belongs to others.
    with torch.random.fork_rng(devices=[]):
        allocations(step)


def base_bytes() -> int | None:
    """What the limit of `limited` counts now, in bytes: private writable memory, whether it is used yet or not.

    None where the system does not tell.
    """
    return _status("VmData")


@contextlib.contextmanager
def limited(most: int | None) -> Iterator[None]:
    """Lets allocations fail that would bring `base_bytes` above `most` bytes, on Linux; with None it lets them be.

    Only the soft limit is moved, so that it can be moved back.
    """
    if most is None or sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def give_back() -> None:
    """Gives the system what the request before left over, so that it does not count against the next one."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str, path: Path = Path("/proc/self/status")) -> int | None:
    try:
        match = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if match is None else 1024 * int(match[1])
