"""Static range coding (rANS): symbols with known frequencies, within a fraction of a per cent of their entropy.

The method is Duda's, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression
rate of arithmetic coding", 2013. What is written here is all that another implementation needs. Numbers are unsigned.

**Lanes.** n symbols are dealt to L lanes in turn: symbol i to lane i mod L. L is the largest power of two that is at
most n / 2**16, but at least 1 and at most 32.

**Reading.** Each lane has a state x of 32 bits. With frequency f of a symbol and the sum c of the frequencies of all
smaller symbols, in the row of the symbol's context, one symbol after the other is read from its lane:

    slot = x mod 2**15;  the symbol is the one with c <= slot < c + f
    x = f · (x div 2**15) + slot - c
    if x < 2**16: x = 2**16 · x + the next word

Words have 16 bits, are little-endian, and are shared by all lanes. A single lane with no words left goes on without
one. When all symbols are read, no word may be left, and each state must be what writing starts from: 2**15 if L = 1,
else 2**16.

**Writing** is the same backwards: from the last symbol to the first, with the first word last,

    if x div 2**17 >= f: put the word x mod 2**16 in front, x = x div 2**16
    x = 2**15 · (x div f) + x mod f + c

**Bytes.** First the states, little-endian, then the words. Several lanes' states take 4 bytes each. A single lane's
takes the fewest bytes that hold it; the length of the whole says how many: all up to 4 bytes, else 3 if it is odd and 4
if not. If it is still 2**15, because there were only symbols with the frequency 2**15 or none, it takes no bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hedgerow.codec.rans_lanes import (
    PRECISION,
    Frequencies,
    States,
    Words,
    begun,
    lanes_of,
    read,
    read_native,
    start_of,
    write,
    write_native,
)
from hedgerow.codec.symbols import Levels
from hedgerow.errors import PayloadError
from hedgerow.native.library import status

__all__ = ["PRECISION", "Decoder", "Encoder", "Frequencies", "decode", "encode", "lanes_of", "normalised"]


def encode(symbols: Levels, frequencies: Frequencies, contexts: Levels | None = None) -> bytes:
    """The bytes of these symbols; see the module.

    Args:
        symbols: (n,) uint8, each with a frequency above 0 in its context.
        frequencies: (contexts, alphabet) uint32, at most 256 each; rows sum to 2**PRECISION.
        contexts: (n,) uint8, the row of each symbol; None if there is one row.

    >>> halves = np.array([[2**14, 2**14]], dtype=np.uint32)
    >>> encode(np.array([1, 0, 0, 1], dtype=np.uint8), halves).hex()
    '00400a'
    """
    encoder = Encoder(symbols.size, frequencies)
    encoder.put(symbols, contexts)
    return encoder.finish()


def decode(data: bytes, count: int, frequencies: Frequencies, contexts: Levels | None = None) -> Levels:
    """Inverse of `encode` for `count` symbols, (n,) uint8; other arguments as there.

    Raises:
        PayloadError: no `count` symbols have these bytes, or rows of `frequencies` do not sum to 2**PRECISION.
    """
    decoder = Decoder(data, count, frequencies)
    symbols = decoder.take(count, contexts)
    decoder.finish()
    return symbols


class Encoder:
    """Symbols in parts, from the last part to the first, for who has no room for all of them at once.

    Args:
        count: of all parts together.
        frequencies: as for `encode`.

    >>> encoder = Encoder(4, np.array([[2**14, 2**14]], dtype=np.uint32))
    >>> for part in ([0, 1], [1, 0]):
    ...     encoder.put(np.array(part, dtype=np.uint8))
    >>> encoder.finish().hex()
    '00400a'
    """

    __slots__ = ("_left", "_states", "_table", "_words")

    def __init__(self, count: int, frequencies: Frequencies) -> None:
        self._table = _table(frequencies)
        self._left, self._states = count, begun(lanes_of(count))
        self._words: list[Words] = []

    def put(self, symbols: Levels, contexts: Levels | None = None) -> None:
        """The part in front of those that were put; arguments as for `encode`."""
        rows = _rows(contexts, symbols.size, self._table)
        symbols = np.ascontiguousarray(symbols, dtype=np.uint8)
        assert symbols.size == 0 or int(symbols.max()) < self._table.shape[1], "a symbol is outside of the alphabet"
        self._left -= symbols.size
        assert self._left >= 0, "more symbols than were announced"
        run = write_native if status().available else write
        turned = self._left % self._states.size
        states, words = run(np.roll(self._states, -turned), symbols, self._table, rows)
        self._states = np.roll(states, turned)
        # A copy is as long as the words; what they are the end of has room for as many as there are symbols.
        self._words.append(words.copy())

    def finish(self) -> bytes:
        """The bytes of all symbols."""
        assert self._left == 0, f"{self._left} symbols are missing"
        head = self._states.astype("<u4").tobytes()
        if self._states.size == 1:
            head = b"" if self._states[0] == start_of(1) else head.rstrip(b"\0")
        return head + b"".join(words.astype("<u2", copy=False).tobytes() for words in reversed(self._words))


class Decoder:
    """Symbols in parts, for who has no room for all of them at once.

    Args:
        data: bytes from the network.
        count: of all parts together.
        frequencies: as for `decode`.

    Raises:
        PayloadError: no `count` symbols have bytes like these, or rows of `frequencies` have another sum.

    >>> decoder = Decoder(bytes.fromhex("00400a"), 4, np.array([[2**14, 2**14]], dtype=np.uint32))
    >>> decoder.take(1).tolist(), decoder.take(3).tolist()
    ([1], [0, 0, 1])
    >>> decoder.finish()
    """

    __slots__ = ("_at", "_count", "_size", "_states", "_table", "_taken", "_words")

    def __init__(self, data: bytes, count: int, frequencies: Frequencies) -> None:
        if (frequencies.sum(axis=1, dtype=np.uint64) != 1 << PRECISION).any():
            raise PayloadError("the frequencies of a context do not have the sum that they must have")
        self._table, self._count, self._size = _table(frequencies), count, len(data)
        self._states, self._words = _divided(data, lanes_of(count))
        self._taken = self._at = 0

    def take(self, count: int, contexts: Levels | None = None) -> Levels:
        """The next `count` symbols, (n,) uint8, of these contexts. They may be any if `finish` refuses the bytes."""
        rows = _rows(contexts, count, self._table)
        assert self._taken + count <= self._count, "more symbols than were announced"
        run = read_native if status().available else read
        turned = self._taken % self._states.size
        # A symbol takes one word at most.
        words = self._words[self._at : self._at + count]
        symbols, states, used = run(np.roll(self._states, -turned), words, count, self._table, rows)
        self._states = np.roll(states, turned)
        self._taken, self._at = self._taken + count, self._at + used
        return symbols

    def finish(self) -> None:
        """Checks that the bytes are those of the symbols.

        Raises:
            PayloadError: they are not.
        """
        assert self._taken == self._count, f"{self._count - self._taken} symbols were not taken"
        if self._at != self._words.size or (self._states != start_of(self._states.size)).any():
            raise PayloadError(f"{self._size} bytes that are not a range coder's of {self._count} symbols")


def normalised(counts: npt.NDArray[np.int64]) -> Frequencies:
    """Frequencies for symbols that occur so often: rows sum to 2**PRECISION, and what occurs has at least 1.

    In each row with the sum t, a count k > 0 gets max(1, 2**PRECISION · k div t). What is missing to the sum then is
    given out one by one in the order of (2**PRECISION · k) mod t, largest first, of equals the smaller symbol first.
    What is too much is taken one by one from the frequency that is largest then, the smaller symbol's among equals. A
    row without counts gives everything to symbol 0.

    Args:
        counts: (contexts, alphabet) int64, from 0 to below 2**47.

    >>> normalised(np.array([[3, 0, 1]])).tolist()
    [[24576, 0, 8192]]
    """
    whole = 1 << PRECISION
    out = np.zeros(counts.shape, dtype=np.int64)
    for row, of in zip(out, counts.astype(np.int64), strict=True):
        total = int(of.sum())
        if total == 0:
            row[0] = whole
            continue
        row[:] = np.where(of > 0, np.maximum(whole * of // total, 1), 0)
        missing = whole - int(row.sum())
        if missing > 0:
            row[np.argsort(-(whole * of % total), kind="stable")[:missing]] += 1
        for _ in range(-missing):
            row[np.argmax(row)] -= 1
    return out.astype(np.uint32)


def _table(frequencies: Frequencies) -> Frequencies:
    table = np.ascontiguousarray(frequencies, dtype=np.uint32)
    rows, alphabet = table.shape
    assert 1 <= rows <= 256, f"{rows} contexts"
    assert 1 <= alphabet <= 256, f"{alphabet} symbols"
    assert (table.sum(axis=1, dtype=np.uint64) == 1 << PRECISION).all(), "frequencies have another sum"
    return table


def _rows(contexts: Levels | None, count: int, table: Frequencies) -> Levels | None:
    if contexts is None:
        assert len(table) == 1, "several contexts, and none is said"
        return None
    assert contexts.shape == (count,), f"{contexts.shape} contexts for {count} symbols"
    assert count == 0 or int(contexts.max()) < len(table), "a context without frequencies"
    return np.ascontiguousarray(contexts, dtype=np.uint8)


def _divided(data: bytes, lanes: int) -> tuple[States, Words]:
    """The states and the words."""
    held = 4 * lanes
    if lanes == 1:
        held = len(data) if len(data) <= 4 else 4 - len(data) % 2
        if held and data[held - 1] == 0:
            raise PayloadError("a range coder's state has a zero in front")
    if len(data) < held or (len(data) - held) % 2:
        raise PayloadError(f"{len(data)} bytes cannot be those of {lanes} range coders")
    states = np.frombuffer(data[:held].ljust(4 * lanes, b"\0"), dtype="<u4").astype(np.uint32)
    if lanes == 1:
        if states[0] == start_of(1):
            raise PayloadError("a range coder's state is written, and has not changed")
        states[0] = states[0] or start_of(1)
    return states, np.frombuffer(data[held:], dtype="<u2").astype(np.uint16, copy=False)
