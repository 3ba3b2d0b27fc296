"""Differences of integers in groups that moved by different amounts: a scale for each group, then the integers.

The bytes; none if all differences are 0:

- one byte, the lowest scale;
- half a byte for each group, its code, the first in the upper half of the first byte; an odd number is padded with 0. A
  group of code 0 does not differ;
- the differences in the other groups, see `integers`. A value's scale there is the smaller of the cap and
  lowest + code - 1 - unit, where unit and cap are known to both ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hedgerow.codec.integers import Int16, Ints, decode_integers, encode_integers
from hedgerow.codec.symbols import Bits
from hedgerow.errors import PayloadError

__all__ = ["decode_differences", "encode_differences"]

_OCTAVES = 14
"""Scales of groups are sent as 1 to 15 above the lowest; 0 means that nothing in the group differs."""


def encode_differences(
    differences: Int16, *, sizes: npt.NDArray[np.float64], units: Ints, groups: Sequence[int], cap: int
) -> tuple[bytes, float]:
    """The bytes of `differences`; none if all are 0.

    Args:
        differences: (n,) int16.
        sizes: (n,) float64, how large they are in a measure that is about the same for all values of a group.
        units: (n,) int32, log2 of that measure of a difference of 1; both ends know it.
        groups: lengths of the groups, which sum to n.
        cap: log2 of the largest difference that is expected of any value.

    Returns:
        The bytes, and Shannon's bound of the integers in bytes.
    """
    index = np.repeat(np.arange(len(groups)), groups)
    means = np.bincount(index, weights=sizes, minlength=len(groups)) / np.maximum(groups, 1)
    moved = np.bincount(index, weights=differences != 0, minlength=len(groups)) > 0
    if not moved.any():
        return b"", 0.0
    octaves = np.frexp(means)[1][moved] - 1
    # A scale that is too large costs less than one that is too small.
    lowest = int(np.clip(max(octaves.min(), octaves.max() - _OCTAVES), 0, 255))
    codes = np.zeros(len(groups) + len(groups) % 2, dtype=np.uint8)
    codes[: len(groups)][moved] = np.clip(octaves - lowest, 0, _OCTAVES) + 1
    sent, scales = _scales(lowest, codes[: len(groups)], units=units, groups=groups, cap=cap)
    data, entropy = encode_integers(differences[sent], scales=scales)
    return bytes([lowest]) + (codes[::2] << 4 | codes[1::2]).tobytes() + data, entropy


def decode_differences(data: bytes, *, units: Ints, groups: Sequence[int], cap: int) -> Int16:
    """Inverse of `encode_differences`; other arguments as there.

    Raises:
        PayloadError: bytes that are no differences of so many values.
    """
    differences = np.zeros(units.size, dtype=np.int16)
    if not data:
        return differences
    taken = 1 + (len(groups) + 1) // 2
    if len(data) < taken:
        raise PayloadError(f"the scales of {len(groups)} tensors take {taken} bytes, found {len(data)}")
    packed = np.frombuffer(data, dtype=np.uint8, count=taken - 1, offset=1)
    codes = np.stack((packed >> 4, packed & 15), axis=1).ravel()
    if codes[len(groups) :].any():
        raise PayloadError("the padding after the last scale is not zero")
    sent, scales = _scales(data[0], codes[: len(groups)], units=units, groups=groups, cap=cap)
    differences[sent] = decode_integers(data[taken:], int(np.count_nonzero(sent)), scales=scales)
    return differences


def _scales(
    lowest: int, codes: npt.NDArray[np.uint8], *, units: Ints, groups: Sequence[int], cap: int
) -> tuple[Bits, Ints]:
    """Which values are sent, and about log2 of the difference that is expected of each of these."""
    each = np.repeat(codes.astype(np.int32), groups)
    sent = each > 0
    return sent, np.minimum(lowest + each[sent] - 1 - units[sent], cap).astype(np.int32)
