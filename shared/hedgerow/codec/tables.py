"""Frequency tables in few bytes.

A table is sent as shares: the symbols lo to hi - 1 are halved at mid = (lo + hi) div 2, the share of the lower half is
sent, then the same is done for the lower half, if it has more than one symbol, and then for the upper. A share among n
samples cannot be known better than to about 1 / sqrt(n), so there are L = 2 + isqrt(4n div 5) steps, and index i from 0
to L stands for

    i² · (3L - 2i) / L³

This is close to sin²(πi / 2L), whose steps are everywhere the same fraction of the error of an estimated share (that of
Jeffreys' prior). Rounding to them costs half a bit for all samples together.

0 and L say exactly that nothing, or everything, is in the lower half; nothing is sent of an empty half. Else the lower
half gets its share of the frequency and of n, to the nearest integer with halves rounded up; but of the frequency at
least the number of its symbols and at most what leaves the upper half that; of n at least 1 and at most n - 1. The
upper half gets the rest, and n is at least 1 for it. All symbols together have 2**PRECISION, and an n that both ends
know.

A share is sent with the coder in `hedgerow.codec.adaptive`, against a prediction: the share in a similar table. First a
bit whether neither half is empty, with the model (name, "mixed", s). s is 0, 1 or 2 if the prediction has nothing in
the lower half, something in both, or nothing in the upper, and 3 if there is none or it has nothing in either. If one
half is empty, a bit with the model (name, "lower", s) says whether everything is in the lower. Else the index follows:
without a prediction, s = 3, as a `uniform` number below L - 1 that is 1 less; otherwise as a `signed` number from 1 to
L - 1 with the model (name, "index"), around the index nearest to the prediction, the smaller of two. The name is "" in
a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec.adaptive import Coder, Meter, Writer, signed
from hedgerow.codec.rans import PRECISION, Frequencies

__all__ = ["Counts", "Share", "code_row", "code_rows", "code_share", "nearest_index", "part_of", "portion", "steps_for"]

Counts: TypeAlias = npt.NDArray[np.int64]
Share: TypeAlias = tuple[int, int]
"""A part and the whole, as integers."""

_NONE, _MIXED, _ALL, _UNKNOWN = range(4)


def steps_for(samples: int) -> int:
    """L, the index that stands for all of so many samples.

    >>> [steps_for(n) for n in (0, 1, 5, 100_000)]
    [2, 2, 4, 284]
    """
    return 2 + math.isqrt(4 * samples // 5)


def portion(index: int, steps: int, whole: int) -> int:
    """`whole` times the share that an index stands for, halves rounded up.

    >>> [portion(i, 4, 64) for i in range(5)]
    [0, 10, 32, 54, 64]
    """
    part, cube = part_of(index, steps)
    return (2 * whole * part + cube) // (2 * cube)


def part_of(index: int, steps: int) -> Share:
    """The share that an index stands for, exactly.

    >>> part_of(1, 4)
    (10, 64)
    """
    return index * index * (3 * steps - 2 * index), steps**3


def nearest_index(part: int, whole: int, steps: int) -> int:
    """The index of 1 .. `steps` - 1 whose share is nearest to `part` / `whole`, the smaller of two.

    >>> [nearest_index(k, 64, 4) for k in (0, 10, 21, 22, 64)]
    [1, 1, 1, 2, 3]
    """
    cube = steps**3

    def scaled(index: int) -> int:
        return part_of(index, steps)[0] * whole

    # The first index whose share is not below, by bisection.
    low, high = 1, steps - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if scaled(middle) < part * cube else (low, middle)
    if low > 1 and part * cube - scaled(low - 1) <= scaled(low) - part * cube:
        return low - 1
    return low


def code_share(coder: Coder, exact: Share, *, steps: int, like: Share | None, model: str = "") -> int:
    """Sends or reads a share.

    Args:
        coder: a `Reader` ignores `exact`.
        exact: the count in question and the count of all, for a writer.
        steps: L.
        like: the prediction; a whole of 0 is none.
        model: what sets the models of these shares apart from those of others, in front of the names above.

    Returns:
        The index.
    """
    near, state = 0, _UNKNOWN
    if like is not None and like[1]:
        near = nearest_index(*like, steps)
        state = _NONE if like[0] == 0 else _ALL if like[0] == like[1] else _MIXED
    if not coder.bit((model, "mixed", state), int(0 < exact[0] < exact[1])):
        return steps * coder.bit((model, "lower", state), int(exact[0] > 0))
    index = nearest_index(*exact, steps) if exact[1] else 1
    if state == _UNKNOWN:
        return 1 + coder.uniform(steps - 1, index - 1)
    return signed(coder, (model, "index"), index, around=near, least=1, most=steps - 1)


def code_row(coder: Coder, counts: Sequence[int], *, samples: int, like: Sequence[int] | None) -> list[int]:
    """Sends or reads one table.

    Args:
        coder: a `Reader` looks only at the length of `counts`.
        counts: how often each symbol occurs.
        samples: their sum, which both ends know; at least 1.
        like: a table that may resemble: its frequencies.

    Returns:
        The frequencies, which sum to 2**PRECISION.
    """
    out = [0] * len(counts)
    exact = _sums(counts)
    known = None if like is None else _sums(like)
    pending = [(0, len(counts), samples, 1 << PRECISION)]
    while pending:
        low, high, samples, mass = pending.pop()
        if high - low == 1:
            out[low] = mass
            continue
        middle = (low + high) // 2
        share = (exact[middle] - exact[low], exact[high] - exact[low])
        guess = None if known is None else (known[middle] - known[low], known[high] - known[low])
        steps = steps_for(samples)
        index = code_share(coder, share, steps=steps, like=guess)
        if index == steps:
            pending.append((low, middle, samples, mass))
        elif index == 0:
            pending.append((middle, high, samples, mass))
        else:
            left = min(max(portion(index, steps, mass), middle - low), mass - (high - middle))
            few = min(max(portion(index, steps, samples), 1), max(samples - 1, 1))
            pending.append((middle, high, max(samples - few, 1), mass - left))
            pending.append((low, middle, few, left))
    return out


def code_rows(coder: Coder, counts: Counts, samples: Sequence[int], *, shift: bool = False) -> Frequencies:
    """Sends or reads the tables of several contexts.

    First the table of all contexts together, without a prediction, which is the prediction of the first context. Then
    for each context that occurs a bit with the model "own": 0 if its table is its prediction, 1 if it is sent. It
    predicts the next one.

    Args:
        coder: a `Reader` looks only at the shape of `counts`.
        counts: (contexts, alphabet).
        samples: the sum of each row, which both ends know.
        shift: a table predicts that of a context d further with its symbols d higher, as when old levels are the
            contexts of new ones; what would pass the last symbol is added to it. Not for the first context.

    Returns:
        (contexts, alphabet) frequencies; all on symbol 0 for a context that does not occur.
    """
    contexts, alphabet = counts.shape
    out = np.zeros((contexts, alphabet), dtype=np.uint32)
    out[:, 0] = 1 << PRECISION
    total = sum(samples)
    if total == 0:
        return out
    like = code_row(coder, counts.sum(axis=0).tolist(), samples=total, like=None)
    if contexts == 1:
        out[0] = like
        return out
    last: int | None = None
    for context, known in enumerate(samples):
        if known == 0:
            continue
        if shift and last is not None:
            like = _shifted(like, min(context - last, alphabet - 1))
        row = counts[context].tolist()
        own = int(isinstance(coder, Writer) and _worth(coder, row, samples=known, like=like))
        if coder.bit("own", own):
            like = code_row(coder, row, samples=known, like=like)
        out[context], last = like, context
    return out


def _shifted(row: Sequence[int], by: int) -> list[int]:
    kept = len(row) - by
    return [0] * by + [*row[: kept - 1], sum(row[kept - 1 :])]


def _worth(coder: Writer, row: Sequence[int], *, samples: int, like: Sequence[int]) -> bool:
    """Whether a table of its own saves more than it costs, or is needed because the prediction leaves a symbol out."""
    meter = Meter(coder.models)
    own = code_row(meter, row, samples=samples, like=like)
    saved = 0.0
    for count, a, b in zip(row, own, like, strict=True):
        if count and not b:
            return True
        saved += count * math.log2(a / b) if count else 0.0
    return saved > meter.bits


def _sums(values: Sequence[int]) -> list[int]:
    sums = [0]
    for value in values:
        sums.append(sums[-1] + value)
    return sums
