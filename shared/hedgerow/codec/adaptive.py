"""Adaptive binary range coding, for the few numbers that must be known before a static coder can start.

Such numbers are frequency tables and densities: too few to send tables of their own for, so the coder learns while it
goes. It is slow, about a million decisions a second. `Writer` and `Reader` have the same methods: each takes a value
and returns it, but `Reader` ignores what it is given. So one function describes a layout for both directions.

All numbers are integers. A range R starts at 2**32. Two things are coded:

- *bit*, with a model of two weights, each 1 at first. The split is s = R · w0 div (w0 + w1). A 0 takes the lower part,
  of size s; a 1 the upper, of size R - s. Then the weight of the bit that came grows by 2, so that the weights are odd
  and the probabilities those of Krichevsky and Trofimov, "The performance of universal encoding", 1981. When w0 + w1
  passes 2**16, both are halved (rounded down) and made odd by setting their lowest bit.
- *uniform*, a number v below a size n of at most 2**16. The part is the one of size R div n from v · (R div n) on.

While R < 2**24, R is multiplied by 256 and one byte is due. The bytes are the big-endian digits of the number inside
the last part that ends in the most zero bytes; those are left out, and a reader goes on with zeros where the bytes end.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Protocol

from hedgerow.codec.varints import read_varint, varint
from hedgerow.errors import PayloadError

__all__ = ["Coder", "Meter", "Reader", "Writer", "divided", "natural", "prefixed", "signed"]

_TOP = 1 << 32
_LEAST = 1 << 24
_MOST_WEIGHT = 1 << 16


class Coder(Protocol):
    """What writes numbers, reads them, or says what they would cost."""

    def bit(self, model: Hashable, value: int) -> int:
        """0 or 1 with the statistics of a model, which is made when it is first named."""
        ...

    def uniform(self, size: int, value: int) -> int:
        """A number below `size` <= 2**16, all of them equally likely."""
        ...


class Models:
    """The pairs of weights by name."""

    __slots__ = ("weights",)

    def __init__(self) -> None:
        self.weights: dict[Hashable, tuple[int, int]] = {}

    def of(self, model: Hashable) -> tuple[int, int]:
        """Weights of 0 and of 1."""
        return self.weights.get(model, (1, 1))

    def saw(self, model: Hashable, value: int) -> None:
        """Learns from one bit."""
        zero, one = self.of(model)
        zero, one = (zero, one + 2) if value else (zero + 2, one)
        if zero + one > _MOST_WEIGHT:
            zero, one = zero >> 1 | 1, one >> 1 | 1
        self.weights[model] = (zero, one)


class Writer:
    """Numbers to bytes."""

    __slots__ = ("_digits", "_low", "_range", "models")

    def __init__(self) -> None:
        self.models = Models()
        # An integer without limit, so that carries need no care. What is written here is kilobytes at most.
        self._low, self._range, self._digits = 0, _TOP, 4

    def bit(self, model: Hashable, value: int) -> int:
        """See `Coder`."""
        zero, one = self.models.of(model)
        split = self._range * zero // (zero + one)
        if value:
            self._part(split, self._range - split)
        else:
            self._part(0, split)
        self.models.saw(model, value)
        return value

    def uniform(self, size: int, value: int) -> int:
        """See `Coder`."""
        assert 0 <= value < size <= _MOST_WEIGHT
        part = self._range // size
        self._part(part * value, part)
        return value

    def finish(self) -> bytes:
        """The bytes of all that was coded."""
        for dropped in (4, 3):
            mask = (1 << 8 * dropped) - 1
            number = (self._low + mask) & ~mask
            if number < self._low + self._range:
                break
        return number.to_bytes(self._digits, "big").rstrip(b"\0")

    def _part(self, start: int, size: int) -> None:
        self._low += start
        self._range = size
        while self._range < _LEAST:
            self._low <<= 8
            self._range <<= 8
            self._digits += 1


class Reader:
    """Bytes to numbers. Any bytes give some; `finish` refuses those that no writer can have written.

    Raises:
        PayloadError: the bytes are no such numbers.
    """

    __slots__ = ("_code", "_data", "_position", "_range", "models")

    def __init__(self, data: bytes) -> None:
        self.models = Models()
        self._data, self._range, self._position = data, _TOP, 4
        self._code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def bit(self, model: Hashable, value: int = 0) -> int:
        """See `Coder`; `value` is ignored."""
        zero, one = self.models.of(model)
        split = self._range * zero // (zero + one)
        value = int(self._code >= split)
        if value:
            self._part(split, self._range - split)
        else:
            self._part(0, split)
        self.models.saw(model, value)
        return value

    def uniform(self, size: int, value: int = 0) -> int:
        """See `Coder`; `value` is ignored."""
        part = self._range // size
        value = self._code // part
        if value >= size:
            raise PayloadError("a table holds a number outside of its range", kind="bounds")
        self._part(part * value, part)
        return value

    def finish(self) -> None:
        """Checks that all bytes were needed."""
        if len(self._data) > self._position or self._data.endswith(b"\0"):
            raise PayloadError("a table has more bytes than it needs")

    def _part(self, start: int, size: int) -> None:
        self._code -= start
        self._range = size
        while self._range < _LEAST:
            digit = self._data[self._position] if self._position < len(self._data) else 0
            self._code = self._code << 8 | digit
            self._range <<= 8
            self._position += 1


class Meter:
    """Adds up what numbers would cost after what a writer has written; nothing is kept.

    Attributes:
        bits: the cost so far.
    """

    __slots__ = ("_models", "bits")

    def __init__(self, models: Models) -> None:
        self._models = Models()
        self._models.weights.update(models.weights)
        self.bits = 0.0

    def bit(self, model: Hashable, value: int) -> int:
        """See `Coder`."""
        weights = self._models.of(model)
        self.bits -= math.log2(weights[value] / sum(weights))
        self._models.saw(model, value)
        return value

    def uniform(self, size: int, value: int) -> int:
        """See `Coder`."""
        self.bits += math.log2(size)
        return value


def natural(coder: Coder, model: Hashable, value: int, *, most: int) -> int:
    """A number from 0 to `most` < 2**16, small ones being likely.

    With m = value + 1: as many bits 1 as m has binary digits after its first, then a bit 0 unless `most` + 1 has no
    more digits than that; bit i of them has the model (`model`, i). Then these digits, as one uniform number.

    Raises:
        PayloadError: what is read is above `most`.
    """
    digits = (value + 1).bit_length() - 1
    limit = (most + 1).bit_length() - 1
    length = 0
    while length < limit and coder.bit((model, length), int(length < digits)):
        length += 1
    low = coder.uniform(1 << length, (value + 1) & (1 << length) - 1)
    value = (1 << length | low) - 1
    if value > most:
        raise PayloadError("a table holds a number outside of its range", kind="bounds")
    return value


def signed(coder: Coder, model: Hashable, value: int, *, around: int, least: int, most: int) -> int:
    """A number from `least` to `most`, likely near `around`, which lies there too.

    The difference d = value - around is sent as the `natural` number that counts 0, -1, 1, -2, 2 and so on; once the
    nearer end is passed, all on the other side follow in order.

    Raises:
        PayloadError: what is read is outside.
    """
    room = min(around - least, most - around)
    distance = abs(value - around)
    rank = room + distance if distance > room else 2 * distance - int(value < around)
    rank = natural(coder, model, rank, most=most - least)
    if rank > 2 * room:
        far = rank - room
        return around + far if most - around > around - least else around - far
    half = (rank + 1) >> 1
    return around - half if rank & 1 else around + half


def prefixed(head: bytes) -> bytes:
    """A writer's bytes behind their number in LEB128, so that others can follow.

    >>> prefixed(b"abc").hex()
    '03616263'
    """
    return varint(len(head)) + head


def divided(data: bytes) -> tuple[bytes, bytes]:
    """What `prefixed` gave, and what follows it.

    Raises:
        PayloadError: there are fewer bytes than announced.

    >>> divided(bytes.fromhex("0361626364"))
    (b'abc', b'd')
    """
    size, start = read_varint(data, 0, below=1 + len(data))
    if size > len(data) - start:
        raise PayloadError(f"{size} bytes of tables are announced, and there are {len(data) - start}", kind="bounds")
    return data[start : start + size], data[start + size :]
