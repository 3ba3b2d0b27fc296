"""Dividing one data set among simulated clients. A real device reads its own data and needs none of this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.errors import DataError

__all__ = ["Dirichlet", "Iid", "Partition", "Shards", "partition"]

_ATTEMPTS = 200
_MAX_ALPHA = 1e6
Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Iid:
    """Shuffle and cut into parts whose sizes differ by one at most."""


@dataclass(frozen=True, slots=True)
class Dirichlet:
    """Each class is divided over the clients in proportions drawn from Dir(alpha, …, alpha), anew for each class.

    Small `alpha`: few classes a client. Drawn again, at most 200 times, until no client has fewer than `min_samples`.
    Source: Hsu, Qi and Brown, arXiv:1909.06335, in the per-class form of Yurochkin et al., arXiv:1905.12022.
    """

    alpha: float
    min_samples: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= _MAX_ALPHA:  # also refuses NaN; far above, the sum of the alphas overflows
            raise DataError(f"Dirichlet alpha is {self.alpha}; give a number above 0 and up to 1e6, such as 0.5")
        if self.min_samples < 1:
            raise DataError(f"Dirichlet min_samples is {self.min_samples}; give at least 1")


@dataclass(frozen=True, slots=True)
class Shards:
    """Sort by label, cut into clients * per_client shards, and deal them out shuffled.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", section 3.
    """

    per_client: int = 2

    def __post_init__(self) -> None:
        if self.per_client < 1:
            raise DataError(f"Shards per_client is {self.per_client}; give at least 1")


Partition: TypeAlias = Iid | Dirichlet | Shards


def partition(labels: npt.NDArray[Any], clients: int, *, rule: Partition, seed: int) -> list[Indices]:
    """Divide samples among clients: each sample lands with exactly one client, and no client is left empty.

    Args:
        labels: (N,) integers.
        clients: number of parts, from 1 to N.
        rule: how.
        seed: >= 0; the same arguments always give the same parts.

    Returns:
        For each client the sorted indices of its samples, int64.

    Raises:
        DataError: the samples cannot be divided that way; the message names a client that would go short.

    >>> [part.tolist() for part in partition(np.array([1, 0, 0, 1]), 2, rule=Shards(per_client=1), seed=0)]
    [[1, 2], [0, 3]]
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"labels are {labels.dtype} of shape {labels.shape}; give integers of shape (N,)")
    if clients < 1:
        raise DataError(f"{clients} clients cannot share data; give at least 1 client")
    if seed < 0:
        raise DataError(f"seed is {seed}; give 0 or more")
    if clients > len(labels):
        raise DataError(
            f"client {len(labels)} would get no sample: there are {clients} clients and {len(labels)} samples, so use "
            f"at most {len(labels)} clients"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    match rule:
        case Iid():
            parts = list(np.array_split(rng.permutation(len(labels)), clients))
        case Dirichlet():
            parts = _dirichlet(labels, clients, rule=rule, rng=rng)
        case Shards():
            parts = _shards(labels, clients, rule=rule, rng=rng)
    result = [np.sort(part).astype(np.int64) for part in parts]
    # Flower's own pathological partitioner drops samples in silence; this one may not.
    assert np.array_equal(np.sort(np.concatenate(result)), np.arange(len(labels)))
    assert all(len(part) for part in result)
    return result


def _dirichlet(labels: npt.NDArray[Any], clients: int, *, rule: Dirichlet, rng: np.random.Generator) -> list[Indices]:
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    sizes = np.array([len(indices) for indices in members])
    remedy = "use fewer clients, a larger alpha or a smaller min_samples"
    if clients * rule.min_samples > len(labels):
        raise DataError(
            f"client {len(labels) // rule.min_samples} would get fewer than {rule.min_samples} samples: {clients} "
            f"clients share {len(labels)}; {remedy}"
        )
    best: npt.NDArray[Any] | None = None
    for _ in range(_ATTEMPTS):
        shares = rng.dirichlet(np.full(clients, rule.alpha), size=len(members))
        # Cuts of each class; the last part takes the rest, so that rounding loses no sample.
        cuts = np.minimum(np.cumsum(shares[:, :-1], axis=1) * sizes[:, None], sizes[:, None]).astype(np.int64)
        counts = np.diff(cuts, axis=1, prepend=0, append=sizes[:, None]).sum(axis=0)
        if counts.min() >= rule.min_samples:
            pieces = [np.split(rng.permutation(own), cut) for own, cut in zip(members, cuts, strict=True)]
            return [np.concatenate(client) for client in zip(*pieces, strict=True)]
        if best is None or counts.min() > best.min():
            best = counts
    assert best is not None
    raise DataError(
        f"client {int(best.argmin())} got only {int(best.min())} samples of the {rule.min_samples} asked in the best "
        f"of {_ATTEMPTS} draws with alpha {rule.alpha} for {clients} clients; {remedy}"
    )


def _shards(labels: npt.NDArray[Any], clients: int, *, rule: Shards, rng: np.random.Generator) -> list[Indices]:
    count = clients * rule.per_client
    if count > len(labels):
        raise DataError(
            f"client {len(labels) // rule.per_client} would go short: {clients} clients with {rule.per_client} shards "
            f"each need {count} samples and there are {len(labels)}; use fewer clients or fewer shards a client"
        )
    shards = np.array_split(np.argsort(labels, kind="stable"), count)
    dealt = rng.permutation(count).reshape(clients, rule.per_client)
    return [np.concatenate([shards[index] for index in hand]) for hand in dealt]
