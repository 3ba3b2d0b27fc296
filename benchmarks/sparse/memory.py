"""How much memory a training step needs at most, by two methods that have to agree."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmarks.sparse.networks import Trainer
from hedgerow.telemetry.memory import allocation_peak

__all__ = ["Peak", "held_bytes", "peak_of", "resident_peak", "status_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Bytes of what torch holds.

    Attributes:
        lasting: between two steps: weights or scores, indices, masks, norms, the optimiser's state.
        transient: what one step allocates at most beyond that: activations, gradients, scratch.
    """

    lasting: int
    transient: int

    @property
    def total(self) -> int:
        """Both, in bytes."""
        return self.lasting + self.transient


def held_bytes() -> int:
    """Bytes of all tensors that live in this process, wherever they are: an index need not be a buffer."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if issubclass(type(t), Tensor) and t.device.type == "cpu"]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())


def peak_of(trainer: Trainer, *, before: int) -> Peak:
    """Measures one more step of a trainer that has made its optimiser's state.

    Args:
        trainer: has taken two steps: layers may still plan in the first.
        before: `held_bytes` when there was no trainer yet.
    """
    lasting = held_bytes() - before
    _, transient = allocation_peak(trainer.step)
    return Peak(lasting=lasting, transient=transient)


def resident_peak(work: Callable[[], object]) -> int:
    """Runs `work`, and gives the most resident memory that this process had in it, in bytes, by the kernel's count.

    It is right only while every large block that is freed goes back to the kernel at once, as it does with a fixed
    MALLOC_MMAP_THRESHOLD_.
    """
    Path("/proc/self/clear_refs").write_text("5")
    work()
    return status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    """A size that the kernel tells of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
