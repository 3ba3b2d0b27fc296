"""Sums of weighted votes in bit-sliced counters: exact, in any order, a few bits of memory a vote.

Binary digit d of all counters is plane d, packed like the votes are. Votes are added to it 32 clients at a time, with
carry-save adders (S. Harley and R. Seal; see H. S. Warren, "Hacker's Delight", 2nd edition, 2013, section 5-1), which
here start at each binary digit of a weight. Planes hold plain binary numbers, so that the native kernel and NumPy leave
the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hedgerow.codec import Levels
from hedgerow.native.library import INTEGER, POINTER, Kernel, status

__all__ = ["MOST_CLIENTS", "MOST_WEIGHT", "VoteCounter"]

MOST_WEIGHT = 2**24
"""Of one client."""
MOST_CLIENTS = 2**12
"""Sums of as many of the largest weights are allowed."""

# As in votes.cpp.
_BLOCK = 512
_PENDING = 32
_GROUP = 8

_COUNTERS = 8 * _BLOCK
"""In one block."""
_CHUNK = 64
"""Blocks that NumPy works on at a time, in its caches."""
_PAGE = 4096

_add = Kernel("add_votes", *[POINTER] * 2, INTEGER, POINTER, *[INTEGER] * 2)
_sums = Kernel("vote_sums", POINTER, *[INTEGER] * 3, POINTER)


class VoteCounter:
    """Sums of weights, over the clients whose bit is 1.

    It holds at most 32 clients' bits (4 bytes a counter, unless they are the callers'), and planes in groups of 8, one
    byte a counter each, as many as the sum of all weights has binary digits.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._blocks = -(-count // _COUNTERS)
        self._groups: list[Levels] = []
        self._pending: list[Levels] = []
        self._weights: list[int] = []
        self._total = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that it holds now."""
        return sum(array.nbytes for array in (*self._groups, *self._pending))

    def add(self, packed: Levels, *, weight: int) -> None:
        """Adds `weight` to the counters whose bit is 1.

        Args:
            packed: (⌈count / 8⌉,) uint8, most significant bit first, 0 behind the last one. It is copied unless it can
                be read only; then it must not change through another array either.
            weight: 1 to 2²⁴, and all of them together at most 2³⁶.
        """
        assert packed.shape == ((self.count + 7) // 8,), f"{packed.shape} bytes for {self.count} votes"
        assert packed.dtype == np.uint8, packed.dtype
        assert 1 <= weight <= MOST_WEIGHT, f"a weight of {weight}"
        assert self._total + weight <= MOST_WEIGHT * MOST_CLIENTS, f"weights of {self._total + weight} together"
        keep = packed.flags.c_contiguous and not packed.flags.writeable
        self._pending.append(packed if keep else packed.copy())
        self._weights.append(weight)
        self._total += weight
        if len(self._pending) == _PENDING:
            self._fold()

    def sums(self) -> npt.NDArray[np.int64]:
        """(count,) int64, one sum for each counter."""
        out = np.empty(self.count, dtype=np.int64)
        for first, part in self.parts():
            out[first : first + part.size] = part
        return out

    def parts(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """The same in parts that fit the caches, each with the index of its first one; there is at least one part."""
        self._fold()
        read = _read_native if status().available else _read_numpy
        for first in range(0, max(self._blocks, 1), _CHUNK):
            blocks = min(_CHUNK, self._blocks - first)
            begin = first * _COUNTERS
            yield begin, read(self._groups, first, blocks)[: self.count - begin]

    def _fold(self) -> None:
        if not self._pending:
            return
        while self._total >> _GROUP * len(self._groups):
            self._groups.append(_planes(self._blocks))
        add = _add_native if status().available else _add_numpy
        add(self._pending, self._weights, self._groups, self._total.bit_length())
        self._pending, self._weights = [], []


def _planes(blocks: int) -> Levels:
    """(blocks, 8, 512) bytes of zeros, each block in one page."""
    size = blocks * _GROUP * _BLOCK
    room = np.zeros(size + _PAGE, dtype=np.uint8)
    start = -room.ctypes.data % _PAGE
    return room[start : start + size].reshape(blocks, _GROUP, _BLOCK)


def _add_native(votes: list[Levels], weights: list[int], groups: list[Levels], digits: int) -> None:
    bits, planes, factors = _addresses(votes), _addresses(groups), np.array(weights, dtype=np.int64)
    _add(bits.ctypes.data, factors.ctypes.data, len(votes), planes.ctypes.data, digits, votes[0].size)


def _read_native(groups: list[Levels], first: int, blocks: int) -> npt.NDArray[np.int64]:
    planes, out = _addresses(groups), np.empty(blocks * _COUNTERS, dtype=np.int64)
    _sums(planes.ctypes.data, len(groups), first, blocks, out.ctypes.data)
    return out


def _addresses(arrays: list[Levels]) -> npt.NDArray[np.uint64]:
    return np.array([array.ctypes.data for array in arrays], dtype=np.uint64)


def _add_numpy(votes: list[Levels], weights: list[int], groups: list[Levels], digits: int) -> None:
    size = _CHUNK * _BLOCK
    for first in range(0, votes[0].size, size):
        inputs = [_in_blocks(v[first : first + size]) for v in votes]
        at, blocks = first // _BLOCK, inputs[0].shape[0]
        carried: list[Levels] = []
        for digit in range(digits):
            plane = groups[digit // _GROUP][at : at + blocks, digit % _GROUP]
            having = [v for v, weight in zip(inputs, weights, strict=True) if weight >> digit & 1]
            carried = _add_plane(plane, carried + having)


def _in_blocks(data: Levels) -> Levels:
    behind = -data.size % _BLOCK
    return (np.pad(data, (0, behind)) if behind else data).reshape(-1, _BLOCK)


def _add_plane(plane: Levels, inputs: list[Levels]) -> list[Levels]:
    """Adds all inputs to a plane in place; returns what is carried to the next one."""
    carried = []
    for a, b in zip(inputs[::2], inputs[1::2], strict=False):
        differ = a ^ b
        carried.append((a & b) | (plane & differ))
        plane ^= differ
    if len(inputs) % 2:
        carried.append(inputs[-1] & plane)
        plane ^= inputs[-1]
    return carried


def _read_numpy(groups: list[Levels], first: int, blocks: int) -> npt.NDArray[np.int64]:
    out = np.zeros((blocks, _COUNTERS), dtype=np.int64)
    for digit in range(_GROUP * len(groups)):
        plane = groups[digit // _GROUP][first : first + blocks, digit % _GROUP]
        out += np.unpackbits(plane, axis=1).astype(np.int64) << digit
    return out.reshape(-1)
