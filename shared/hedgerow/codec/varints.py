"""Whole numbers in as few bytes as they need (LEB128): seven bits a byte, lowest first, the top bit if more follow."""

from __future__ import annotations

from hedgerow.errors import PayloadError

__all__ = ["read_varint", "varint"]

_MOST_BYTES = 9


def varint(number: int) -> bytes:
    """The bytes of a number from 0 to below 2**63.

    >>> varint(300).hex()
    'ac02'
    """
    assert 0 <= number < 1 << 63, number
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def read_varint(data: bytes, at: int, *, below: int) -> tuple[int, int]:
    """The number that starts at byte `at`, and where it ends.

    Raises:
        PayloadError: it does not end, takes more bytes than it needs, or is not below `below`.

    >>> read_varint(bytes.fromhex("00ac02"), 1, below=1000)
    (300, 3)
    """
    number = 0
    for i, digit in enumerate(data[at : at + _MOST_BYTES]):
        number |= (digit & 0x7F) << 7 * i
        if digit < 0x80:
            if i and digit == 0:
                raise PayloadError(f"the number {number} takes more bytes than it needs")
            if number >= below:
                raise PayloadError(f"a number is {number}, and has to be below {below}", kind="bounds")
            return number, at + i + 1
    raise PayloadError("a number does not end")
