"""How dense a mask is, for each of its weights, in a few bytes that are sent before it.

SynFlow's score of a weight is its size times a factor of its output and a factor of its input, so that some rows and
columns of a tensor are dense and others are empty. The densities along the axes of a tensor are sent, and the density
at a weight is taken from those of its row, its column and its kernel position.

All densities are shares as in `hedgerow.codec.tables`, sent with the coder in `hedgerow.codec.adaptive`. A tensor is an
array of (outputs, inputs, all other axes together). What is sent of it:

1. The density of its n weights, with L = `steps_for(n)`, no prediction, and the model name "tensor". If none or all are
   kept, this is all.
2. For each axis longer than 1 a bit with the model ("axis", its place): whether the densities along it follow. If so, a
   bit with the model ("chained", its place), and the densities of all slices, with L for the weights of one slice and
   the model name "along " with the axis' place behind. The prediction is the density of the tensor; if the axis is
   chained, that of the slice before, except for the first. If no axis is sent, the density at all weights is that of
   the tensor, and this is all.
3. For each class of n > 0 weights, from the lowest, its density, with L = min(`steps_for(n)`, 255) and the model name
   "class". The prediction is the density of the class before, for the first one that of the tensor.

The classes come from the axes that were sent. A slice without a kept weight decides about its weights, and after it a
slice that is kept whole. The log-odds of any other weight are the sum of those of its slices, in eighths of a bit: for
a density a / b as `part_of` gives it, the number of binary digits of a⁸ less that of (b - a)⁸. The class is this sum,
less the sum of the least log-odds among the undecided slices of each axis, div 4.

The density at a weight is an index of L = 255: 0 for none, 255 for all, else the nearest of 1 to 254.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from hedgerow.codec.adaptive import Coder, Meter, Writer
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.codec.symbols import Bits, Levels
from hedgerow.codec.tables import Share, code_share, nearest_index, part_of, steps_for

__all__ = ["GRID", "Shape", "code_tensor"]

Shape: TypeAlias = tuple[int, ...]
_Scalar = TypeVar("_Scalar", bound=np.generic)

GRID = 255
"""L of the densities at weights: they fit a byte."""
_CLASS = 4
"""Eighths of a bit of log-odds in a class."""
_AXIS_BITS = 100
"""What the classes that come with an axis cost at least, as a rule of thumb."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Along one axis, (n,) each: which slices are decided, and the log-odds of the others above the least of them."""

    never: Bits
    always: Bits
    odds: npt.NDArray[np.int16]


def code_tensor(coder: Coder, bits: Bits | None, shape: Shape) -> tuple[Levels, float]:
    """Sends or reads the densities of one tensor.

    Args:
        coder: where to or where from.
        bits: (n,) the mask of the tensor, n > 0, for a writer; None for a reader.
        shape: of the tensor.

    Returns:
        (n,) uint8, the density at each weight; the entropy of a writer's bits given their classes, in bytes.

    Raises:
        PayloadError: what is read are no densities.
    """
    shape = _three_axes(shape)
    size = math.prod(shape)
    kept = 0 if bits is None else int(np.count_nonzero(bits))
    steps = steps_for(size)
    index = code_share(coder, (kept, size), steps=steps, like=None, model="tensor")
    if index in (0, steps):
        return np.full(size, _on_grid(index, steps), dtype=np.uint8), 0.0
    like = part_of(index, steps)
    axes = [_code_axis(coder, bits, shape, axis, like) if shape[axis] > 1 else None for axis in range(3)]
    if not any(axes):
        return np.full(size, _on_grid(index, steps), dtype=np.uint8), binary_entropy_bytes(kept, size)
    none = _Axis(np.zeros(1, dtype=np.bool_), np.zeros(1, dtype=np.bool_), np.zeros(1, dtype=np.int16))
    lines = [axis or none for axis in axes]
    # What was not sent stays one slice until the end.
    never = reduce(np.logical_or, (_along(line.never, i) for i, line in enumerate(lines)))
    always = reduce(np.logical_or, (_along(line.always, i) for i, line in enumerate(lines))) & ~never
    classes = reduce(np.add, (_along(line.odds, i) for i, line in enumerate(lines))) // _CLASS
    decided = never | always
    samples = np.bincount(classes[~decided], minlength=1) * (size // classes.size)
    ones = np.zeros_like(samples)
    if bits is not None:
        found = bits.reshape(shape) & ~decided
        ones = np.bincount(np.broadcast_to(classes, shape)[found], minlength=samples.size)
    table, entropy = _code_classes(coder, ones.tolist(), samples.tolist(), like)
    at = np.where(decided, np.where(always, np.uint8(GRID), np.uint8(0)), table[np.where(decided, 0, classes)])
    return np.broadcast_to(at, shape).reshape(-1), entropy


def _three_axes(shape: Shape) -> Shape:
    outputs, inputs, *others = *shape, *(1,) * (2 - len(shape))
    return outputs, inputs, math.prod(others)


def _along(values: npt.NDArray[_Scalar], axis: int) -> npt.NDArray[_Scalar]:
    """(n,) as an array of three axes."""
    return values.reshape([-1 if i == axis else 1 for i in range(3)])


def _on_grid(index: int, steps: int) -> int:
    if index in (0, steps):
        return GRID * (index > 0)
    return nearest_index(*part_of(index, steps), GRID)


def _code_classes(
    coder: Coder, ones: Sequence[int], samples: Sequence[int], like: Share
) -> tuple[npt.NDArray[np.uint8], float]:
    """The density of each class on the grid; the entropy in bytes."""
    table = np.zeros(len(samples), dtype=np.uint8)
    entropy = 0.0
    for i, (kept, size) in enumerate(zip(ones, samples, strict=True)):
        if size:
            steps = min(steps_for(size), GRID)
            index = code_share(coder, (kept, size), steps=steps, like=like, model="class")
            table[i], like = _on_grid(index, steps), part_of(index, steps)
            entropy += binary_entropy_bytes(kept, size)
    return table, entropy


def _code_axis(coder: Coder, bits: Bits | None, shape: Shape, axis: int, like: Share) -> _Axis | None:
    """Sends or reads the densities along an axis, if they are worth it."""
    length, size = shape[axis], math.prod(shape) // shape[axis]
    counts = [0] * length
    if bits is not None:
        others = tuple(i for i in range(3) if i != axis)
        counts = np.count_nonzero(bits.reshape(shape), axis=others).tolist()
    sent, chained = _best_way(coder, counts, size, axis, like) if isinstance(coder, Writer) else (False, False)
    if not coder.bit(("axis", axis), int(sent)):
        return None
    chained = bool(coder.bit(("chained", axis), int(chained)))
    indices = _code_slices(coder, counts, size, axis, like, chained=chained)
    steps = steps_for(size)
    # Few different ones, so that the large integers do no harm.
    odds = {i: _log_odds(*part_of(i, steps)) for i in set(indices) - {0, steps}}
    least = min(odds.values(), default=0)
    return _Axis(
        np.array([i == 0 for i in indices]),
        np.array([i == steps for i in indices]),
        np.array([odds.get(i, least) - least for i in indices], dtype=np.int16),
    )


def _code_slices(coder: Coder, counts: Sequence[int], size: int, axis: int, like: Share, *, chained: bool) -> list[int]:
    steps, indices = steps_for(size), []
    for count in counts:
        index = code_share(coder, (count, size), steps=steps, like=like, model=f"along {axis}")
        indices.append(index)
        if chained:
            like = part_of(index, steps)
    return indices


def _best_way(coder: Writer, counts: Sequence[int], size: int, axis: int, like: Share) -> tuple[bool, bool]:
    """Whether the densities along an axis save more than they cost, and whether to chain them then."""
    steps, best, most = steps_for(size), (False, False), float(_AXIS_BITS)
    together = 8 * binary_entropy_bytes(sum(counts), size * len(counts))
    for chained in (False, True):
        meter = Meter(coder.models)
        indices = _code_slices(meter, counts, size, axis, like, chained=chained)
        apart = sum(_bits(count, size, *part_of(i, steps)) for count, i in zip(counts, indices, strict=True))
        saved = together - apart - meter.bits
        if saved > most:
            best, most = (True, chained), saved
    return best


def _bits(count: int, size: int, part: int, whole: int) -> float:
    """What a slice costs at a density that was rounded; nothing if that is none or all, which is exact."""
    if part in (0, whole):
        return 0.0
    return -count * math.log2(part / whole) - (size - count) * math.log2(1 - part / whole)


def _log_odds(part: int, whole: int) -> int:
    """log2(part / (whole - part)) in eighths, to about one eighth.

    >>> _log_odds(1, 2), _log_odds(3, 4), _log_odds(1, 5)
    (0, 12, -16)
    """
    digits: int = (part**8).bit_length() - ((whole - part) ** 8).bit_length()
    return digits
