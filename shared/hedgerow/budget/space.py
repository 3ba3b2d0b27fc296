"""The candidates: every way to train that takes no more than an experiment's settings ask for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from hedgerow.budget.plans import Candidate, Kernels, Storage
from hedgerow.config import Experiment

__all__ = ["candidates", "sizes_of_parts"]

_STORAGES: tuple[Storage, ...] = ("exact", "int8", "int4")


def candidates(experiment: Experiment, *, native: bool, levels: Sequence[int] = (0,)) -> list[Candidate]:
    """All of them; the experiment's own settings, of the first level, are the first.

    No candidate keeps activations more exactly, lets more samples through the network at once, or runs less again than
    the settings say. `topk` stays as it is: what an experiment names it for is more than memory.

    Args:
        experiment: what is trained.
        native: whether there are native kernels here.
        levels: that there are to choose from.

    >>> len(candidates(Experiment(), native=True))
    49
    """
    own = Candidate.of(experiment)
    found = {
        Candidate(
            level=level,
            kernels=kernels,
            activations=storage,
            micro_batch=size,
            recompute=recompute,
            momentum=momentum,
        ): None
        for level, kernels, storage, size, recompute, momentum in product(
            levels,
            _kernels(own.kernels, native=native),
            _storages(own.activations),
            sizes_of_parts(own.micro_batch),
            sorted({own.recompute, True}),
            sorted({own.momentum, False}, reverse=True),
        )
    }
    # Measuring which kernels are faster takes memory too, so only the settings' own way does it.
    first = Candidate(
        level=levels[0],
        kernels=own.kernels,
        activations=own.activations,
        micro_batch=own.micro_batch,
        recompute=own.recompute,
        momentum=own.momentum,
    )
    return list({first: None, **found})


def sizes_of_parts(most: int) -> list[int]:
    """Samples at once: `most`, and then half as many each time, down to 2.

    >>> sizes_of_parts(16), sizes_of_parts(10), sizes_of_parts(2)
    ([16, 8, 4, 2], [10, 5, 3, 2], [2])
    """
    sizes = [most]
    while sizes[-1] > 2:
        sizes.append(max(2, -(-sizes[-1] // 2)))
    return sizes


def _kernels(own: Kernels, *, native: bool) -> list[Kernels]:
    if own != "auto":
        return [own]
    return ["native", "dense"] if native else ["dense"]


def _storages(own: Storage) -> list[Storage]:
    return [own] if own == "topk" else list(_STORAGES[_STORAGES.index(own) :])
