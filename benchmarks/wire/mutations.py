"""Damage that decoders may feel: what `benchmarks.faults.mutants` does, splices, and numbers at their bounds."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.faults.mutants import mutant_bytes

__all__ = ["LONGEST", "mutated"]

LONGEST = 4096
"""Bytes of the longest input."""
_NUMBERS = tuple(
    number.to_bytes(size, "little")
    for size in (1, 2, 4, 8)
    for number in (0, 1, 2**7, 2 ** (8 * size - 1) - 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
)
_VARINTS = (b"\x80\x00", b"\xff\x7f", b"\xff\xff\xff\x07", b"\xff\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\xff" * 16)


def mutated(data: bytes, others: Sequence[bytes], dice: random.Random) -> bytes:
    """One to four changes of `data`; pieces of `others` may be put into it."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        data = _mutated(data, others, dice)
    return data[:LONGEST]


def _mutated(data: bytes, others: Sequence[bytes], dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    match dice.randrange(6):
        case 0:
            other = dice.choice(others)
            return data[:at] + other[dice.randrange(len(other) + 1) :]
        case 1:
            other = dice.choice(others)
            begin = dice.randrange(len(other) + 1)
            piece = other[begin : begin + dice.choice((1, 4, 16, 64))]
            return data[:at] + piece + data[at + len(piece) :]
        case 2:
            number = dice.choice(_NUMBERS + _VARINTS)
            return data[:at] + number + data[at + len(number) :]
        case 3 if data:
            # Lengths and headers come first, and are mostly right but for a little.
            at = dice.randrange(min(len(data), 24))
            return data[:at] + bytes([(data[at] + dice.choice((-1, 1, 16, 128))) % 256]) + data[at + 1 :]
        case _:
            return mutant_bytes(data, dice)
