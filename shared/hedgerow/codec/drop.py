"""Random drop and rescale of an update (DARE; Yu et al., "Language models are super Mario", 2023, arXiv 2311.03099).

A random part of the entries is not sent, and the rest is divided by the kept share, so that the expected update stays
what it was. Both ends draw the same positions from one seed, so the positions never travel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hedgerow.codec.symbols import Bits, Floats

__all__ = ["SEED_BYTES", "dropped", "kept_groups", "kept_positions", "seeded_positions"]

SEED_BYTES = 4
"""Of a seed that travels."""

_LARGEST = float(np.finfo(np.float32).max)


def kept_positions(count: int, *, drop: float, generator: np.random.Generator) -> Bits:
    """Which of `count` entries are sent, each with probability 1 - `drop`.

    Args:
        count: number of entries.
        drop: in [0, 1), the share that is not sent.
        generator: from a seed that both ends know; its bit generator gives 64 bits a draw, as PCG64 does.

    Returns:
        (count,) bool. It follows from the raw output of the bit generator, which NumPy keeps the same in all versions.

    >>> kept_positions(4, drop=0.0, generator=np.random.default_rng(0)).tolist()
    [True, True, True, True]
    """
    assert 0 <= drop < 1, drop
    draws = generator.bit_generator.random_raw(count)
    # A double below 1 times a power of two is exact, and below 2**64.
    return np.asarray(draws, dtype=np.uint64) >= np.uint64(int(drop * 2.0**64))


def seeded_positions(seed: bytes, count: int, *, drop: float) -> Bits:
    """The same of a seed that travels: PCG64 from its bytes as a little-endian number.

    >>> seeded_positions(bytes(4), 4, drop=0.5).tolist()
    [True, False, False, False]
    """
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))
    return kept_positions(count, drop=drop, generator=generator)


def kept_groups(keep: Bits, groups: Sequence[int]) -> tuple[int, ...]:
    """How many entries of each group are sent; the groups of what `dropped` gives.

    >>> kept_groups(np.array([True, False, True]), [2, 1])
    (1, 1)
    """
    assert sum(groups) == keep.size
    index = np.repeat(np.arange(len(groups)), groups)
    return tuple(int(n) for n in np.bincount(index[keep], minlength=len(groups)))


def dropped(update: Floats, keep: Bits, *, drop: float) -> Floats:
    """The entries that are sent, divided by the kept share, (number of True in `keep`,) float32; finite.

    >>> dropped(np.array([1, 3], np.float32), np.array([False, True]), drop=0.5).tolist()
    [6.0]
    """
    scaled = update[keep].astype(np.float64) / (1 - drop)
    return np.clip(scaled, -_LARGEST, _LARGEST).astype(np.float32)
