"""Lanes of the range coder that `hedgerow.codec.rans` describes: in Python, and with native kernels, alike."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec.symbols import Levels
from hedgerow.native.library import INTEGER, POINTER, Kernel

__all__ = [
    "PRECISION",
    "Frequencies",
    "States",
    "Words",
    "begun",
    "lanes_of",
    "read",
    "read_native",
    "start_of",
    "write",
    "write_native",
]

PRECISION = 15
"""The frequencies of each context sum to 2**PRECISION."""

Frequencies: TypeAlias = npt.NDArray[np.uint32]
States: TypeAlias = npt.NDArray[np.uint32]
Words: TypeAlias = npt.NDArray[np.uint16]

_LEAST = 1 << 16
_MASK = (1 << PRECISION) - 1
_NEVER = "a symbol's frequency is 0"
_MOST_LANES = 32
_SYMBOLS_A_LANE = 1 << 16

_encode = Kernel("rans_encode", *[POINTER] * 2, INTEGER, POINTER, *[INTEGER] * 3, *[POINTER] * 4)
_decode = Kernel("rans_decode", POINTER, INTEGER, *[POINTER] * 3, *[INTEGER] * 4, *[POINTER] * 4)


def lanes_of(count: int) -> int:
    """Number of lanes for `count` symbols.

    >>> [lanes_of(n) for n in (0, 2**17 - 1, 2**17, 2**18, 10**7)]
    [1, 1, 2, 4, 32]
    """
    return 1 << min(max(count // _SYMBOLS_A_LANE, 1), _MOST_LANES).bit_length() - 1


def start_of(lanes: int) -> int:
    """The state that each lane starts from when it is written."""
    # A single lane that lacks words falls below 2**15 and never comes back, so that cut bytes are refused.
    return _LEAST if lanes > 1 else 1 << PRECISION


def begun(lanes: int) -> States:
    """(lanes,) what writing starts from."""
    return np.full(lanes, start_of(lanes), dtype=np.uint32)


def write(states: States, symbols: Levels, table: Frequencies, rows: Levels | None) -> tuple[States, Words]:
    """The states of all lanes, and the words that reading takes, first to last.

    Args:
        states: (lanes,) of what was written before, which is what follows; see `begun`.
        symbols: (n,) uint8, the first of them of the first lane.
        table: (contexts, alphabet) uint32.
        rows: (n,) uint8, the context of each symbol; None if there is one.
    """
    lanes = states.size
    frequencies = table.tolist()
    below = [[0, *row] for row in np.cumsum(table, axis=1).tolist()]
    found, words = states.tolist(), []
    of = bytes(symbols.size) if rows is None else rows.tobytes()
    for i in range(symbols.size - 1, -1, -1):
        row, symbol, x = of[i], int(symbols[i]), found[i % lanes]
        f = frequencies[row][symbol]
        assert f, _NEVER
        if x >> 32 - PRECISION >= f:
            words.append(x & 0xFFFF)
            x >>= 16
        found[i % lanes] = (x // f << PRECISION) + x % f + below[row][symbol]
    return np.array(found, dtype=np.uint32), np.array(words[::-1], dtype=np.uint16)


def read(
    states: States, words: Words, count: int, table: Frequencies, rows: Levels | None
) -> tuple[Levels, States, int]:
    """Inverse of `write`: `count` symbols, the states then, and how many words were read.

    A lane that lacks words goes on without them. It never comes back to what writing starts from.
    """
    lanes, at = states.size, 0
    frequencies, below = table.tolist(), (np.cumsum(table, axis=1) - table).tolist()
    # Of two symbols one comparison tells: the slots of 256 contexts would take 8 MB.
    two = table.shape[1] == 2
    slots = [] if two else [np.repeat(np.arange(row.size, dtype=np.uint8), row).tobytes() for row in table]
    x, stream = states.tolist(), words.tolist()
    of = bytes(count) if rows is None else rows.tobytes()
    out = bytearray(count)
    for i in range(count):
        row, state = of[i], x[i % lanes]
        slot = state & _MASK
        symbol = out[i] = int(slot >= frequencies[row][0]) if two else slots[row][slot]
        state = frequencies[row][symbol] * (state >> PRECISION) + slot - below[row][symbol]
        if state < _LEAST and at < len(stream):
            state = state << 16 | stream[at]
            at += 1
        x[i % lanes] = state
    return np.frombuffer(out, dtype=np.uint8), np.array(x, dtype=np.uint32), at


def write_native(states: States, symbols: Levels, table: Frequencies, rows: Levels | None) -> tuple[States, Words]:
    """The same as `write`; needs contiguous arrays, and the native library."""
    states = states.copy()
    words, first = np.empty(symbols.size, dtype=np.uint16), np.zeros(1, dtype=np.int64)
    scratch = np.empty(2 * table.size, dtype=np.uint64)
    pointers = [array.ctypes.data for array in (scratch, states, words, first)]
    _encode(symbols.ctypes.data, _pointer(rows), symbols.size, table.ctypes.data, *table.shape, states.size, *pointers)
    assert first[0] >= 0, _NEVER
    return states, words[first[0] :]


def read_native(
    states: States, words: Words, count: int, table: Frequencies, rows: Levels | None
) -> tuple[Levels, States, int]:
    """The same as `read`; needs contiguous arrays, and the native library."""
    states = states.copy()
    slots = None if table.shape[1] == 2 else np.empty(len(table) << PRECISION, dtype=np.uint8)
    entries = np.empty(table.size, dtype=np.uint32)
    symbols, used = np.empty(count, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    arguments = [array.ctypes.data for array in (entries, states, used)]
    _decode(
        words.ctypes.data, words.size, symbols.ctypes.data, _pointer(rows), table.ctypes.data,
        count, *table.shape, states.size, _pointer(slots), *arguments,
    )  # fmt: skip
    return symbols, states, int(used[0])


def _pointer(array: Levels | None) -> int | None:
    return None if array is None else array.ctypes.data
