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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec.adaptive import Coder, Meter, Writer
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.codec.symbols import Bits, Levels
from hedgerow.codec.tables import Share, code_share, nearest_index, part_of, steps_for

__all__ = ["GRID", "Densities", "Shape", "code_tensor"]

Shape: TypeAlias = tuple[int, ...]
_Numbers: TypeAlias = npt.NDArray[np.int64]

GRID = 255
"""L of the densities at weights: they fit a byte."""
_CLASS = 4
"""Eighths of a bit of log-odds in a class."""
_AXIS_BITS = 100
"""What the classes that come with an axis cost at least, as a rule of thumb."""
_BLOCK = 1 << 17
"""So many weights at once: enough to be quick, and what it takes is less than a hundredth of a large network."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Along one axis, (n,) each: which slices are decided, and the log-odds of the others above the least of them."""

    never: Bits
    always: Bits
    odds: npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Densities:
    """The densities at the weights of one tensor, made where they are needed: they take a byte each.

    Attributes:
        shape: of the tensor, with three axes.
        lines: (shape[i],) int64 for each axis, or (1,) if nothing depends on it: a summand for each slice.
        table: (sums,) uint8, the density for each sum of three summands.
        undecided: at how many weights the density is neither none nor all.
    """

    shape: Shape
    lines: tuple[_Numbers, ...]
    table: Levels
    undecided: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def of_output(self) -> int:
        """Number of weights of one output."""
        return self.shape[1] * self.shape[2]

    def of(self, begin: int, end: int) -> Levels:
        """(n,) uint8, the density at each weight of the outputs from `begin` to before `end`."""
        at = self.table[_sums(self._cut(begin, end))]
        return np.broadcast_to(at, (end - begin, *self.shape[1:])).reshape(-1)

    def counted(self, bits: Bits) -> _Numbers:
        """How many ones of the mask of the tensor, (n,), there are for each sum: (sums,) int64."""
        ones, one = np.zeros(self.table.size, dtype=np.int64), self.of_output
        for begin, end in self.blocks():
            block = bits[begin * one : end * one].reshape(-1, *self.shape[1:])
            sums = np.broadcast_to(_sums(self._cut(begin, end)), block.shape)
            ones += np.bincount(sums[block], minlength=ones.size)
        return ones

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Outputs from where to before where, in order, so that a block has few weights."""
        step = max(1, _BLOCK // self.of_output)
        return ((begin, min(begin + step, self.shape[0])) for begin in range(0, self.shape[0], step))

    def _cut(self, begin: int, end: int) -> tuple[_Numbers, ...]:
        first, *others = self.lines
        return (first if first.size == 1 else first[begin:end], *others)


def code_tensor(coder: Coder, bits: Bits | None, shape: Shape) -> tuple[Densities, float]:
    """Sends or reads the densities of one tensor.

    Args:
        coder: where to or where from.
        bits: (n,) the mask of the tensor, n > 0, for a writer; None for a reader.
        shape: of the tensor.

    Returns:
        The densities at the weights; the entropy of a writer's bits given their classes, in bytes.

    Raises:
        PayloadError: what is read are no densities.
    """
    shape = _three_axes(shape)
    size = math.prod(shape)
    kept = 0 if bits is None else int(np.count_nonzero(bits))
    steps = steps_for(size)
    index = code_share(coder, (kept, size), steps=steps, like=None, model="tensor")
    if index in (0, steps):
        return _even(shape, _on_grid(index, steps)), 0.0
    like = part_of(index, steps)
    axes = [_code_axis(coder, bits, shape, axis, like) if shape[axis] > 1 else None for axis in range(3)]
    if not any(axes):
        return _even(shape, _on_grid(index, steps)), binary_entropy_bytes(kept, size)
    none = _Axis(np.zeros(1, dtype=np.bool_), np.zeros(1, dtype=np.bool_), np.zeros(1, dtype=np.int16))
    lines = [axis or none for axis in axes]
    # Of all weights together, without a look at each: the numbers of sums of three are a convolution.
    samples = reduce(np.convolve, [np.bincount(line.odds[~(line.never | line.always)], minlength=1) for line in lines])
    samples = _classes(samples) * (size // math.prod(line.odds.size for line in lines))
    most = sum(int(line.odds.max(initial=0)) for line in lines)
    summands, above = _summands(lines, most=most)
    ones = np.zeros_like(samples)
    if bits is not None:
        counted = Densities(shape, summands, np.zeros(3 * above[1] + 1, dtype=np.uint8), 0).counted(bits)
        ones = _classes(counted[: most + 1])[: samples.size]
    classes, entropy = _code_classes(coder, ones.tolist(), samples.tolist(), like)
    table = np.zeros(3 * above[1] + 1, dtype=np.uint8)
    # There is nothing of the classes beyond the last one.
    table[: most + 1] = np.append(classes, np.zeros(most + 1, dtype=np.uint8))[np.arange(most + 1) // _CLASS]
    table[slice(*above)] = GRID
    undecided = int(samples[(classes != 0) & (classes != GRID)].sum())
    return Densities(shape, summands, table, undecided), entropy


def _summands(lines: Sequence[_Axis], *, most: int) -> tuple[tuple[_Numbers, ...], tuple[int, int]]:
    """A number for each slice, so that the sum of three tells the density.

    Args:
        lines: of the three axes.
        most: the largest sum of log-odds.

    Returns:
        The numbers; from which sum to before which a weight is always kept. From there on it never is.
    """
    always, never = most + 1, 4 * (most + 1)
    summands = (np.where(line.never, never, np.where(line.always, always, line.odds)) for line in lines)
    return tuple(summand.astype(np.int64) for summand in summands), (always, never)


def _even(shape: Shape, level: int) -> Densities:
    """The same density everywhere."""
    table, line = np.full(1, level, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    return Densities(shape, (line,) * 3, table, 0 if level in (0, GRID) else math.prod(shape))


def _sums(lines: Sequence[_Numbers]) -> _Numbers:
    """The sum of three summands at each place of an array of three axes."""
    first, second, third = lines
    return first[:, None, None] + second[:, None] + third


def _classes(counts: _Numbers) -> _Numbers:
    """What is counted for each sum of log-odds, counted for each class."""
    return np.add.reduceat(counts, np.arange(0, counts.size, _CLASS))


def _three_axes(shape: Shape) -> Shape:
    outputs, inputs, *others = *shape, *(1,) * (2 - len(shape))
    return outputs, inputs, math.prod(others)


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
