"""Bits that travel: signs, flips, masks. Of four codecs the one is taken whose size is the smallest by estimate.

* `CODEC_BITS`: the packed bits themselves; parameter 0.
* `CODEC_BITS_RANS`: the packed bytes, range-coded (`hedgerow.codec.rans`) with frequencies that follow from the share
  of ones (`hedgerow.codec.bit_tables.byte_frequencies`). The parameter is that share as a whole number of 2**-14, from
  1 to 2**14 - 1. If it is 0, groups have shares of their own; a byte belongs to the group that its first bit is in.
  Then the data starts with the share of each group that has bytes, 2 bytes each, little-endian, 0 for a group without
  ones; the context of a byte is the place of its group in this list.
* `CODEC_GAPS_RANS`: the gaps between ones (`hedgerow.codec.gaps`), for rare ones. The parameter is the number of ones;
  if it is more than half of the bits, the gaps are those between zeros. If it is 0 and there are bytes, groups have
  numbers of their own, and the data starts with the number of ones of each group that has bits, as LEB128.
* `CODEC_BITS_ZSTD`: the packed bytes as a Zstandard frame that declares their number, for bits with a pattern;
  parameter 0.

Both ends know the groups: the lengths in bits of parts that may differ in their share of ones, layers for example.
Rice codes of gaps are not among the codecs: range-coded gaps are smaller by 0.3 to 3 % and cost only 2 bytes more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hedgerow.codec import rans, symbols
from hedgerow.codec.bit_candidates import MOST_GROUPS, candidates, group_bytes, group_contexts, with_pattern
from hedgerow.codec.bit_tables import SHARES, byte_frequencies
from hedgerow.codec.coded import Coded
from hedgerow.codec.gaps import Group, decode_gaps
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.symbols import Levels
from hedgerow.codec.varints import read_varint
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["PackedBits", "decode_bits", "encode_bits"]


def encode_bits(bits: PackedBits, *, groups: Sequence[int] | None = None) -> Coded:
    """The bytes of these bits, in the codec that should be smallest.

    Args:
        bits: n bits.
        groups: lengths in bits of consecutive groups; their sum is n. The reader has to be given the same.

    >>> coded = encode_bits(PackedBits.from_bools(np.arange(8000) % 4000 == 0))
    >>> coded.codec == pb.CODEC_GAPS_RANS, coded.parameter, decode_bits(coded, 8000).ones()
    (True, 2, 2)
    """
    assert groups is None or sum(groups) == bits.count, f"groups of other than {bits.count} bits"
    best = min(candidates(bits, groups), key=lambda candidate: candidate.cost)
    return with_pattern(bits, better_than=best.cost) or best.run()


def decode_bits(coded: Coded, count: int, *, groups: Sequence[int] | None = None) -> PackedBits:
    """Inverse of `encode_bits` for `count` bits, with the same groups.

    Raises:
        PayloadError: no `count` bits have these bytes.
    """
    assert groups is None or sum(groups) == count, f"groups of other than {count} bits"
    size = (count + 7) // 8
    if coded.codec == pb.CODEC_GAPS_RANS:
        return _decode_gaps(coded, count, groups)
    if coded.codec == pb.CODEC_BITS_RANS:
        data = _decode_bytes(coded, size, groups)
    elif coded.parameter:
        raise PayloadError(f"bits with the parameter {coded.parameter}, which codec {coded.codec} does not have")
    elif coded.codec == pb.CODEC_BITS:
        if len(coded.data) != size:
            raise PayloadError(f"{count} bits take {size} bytes, found {len(coded.data)}")
        data = np.frombuffer(coded.data, dtype=np.uint8)
    elif coded.codec == pb.CODEC_BITS_ZSTD:
        data = symbols.unpack_bytes_zstd(coded.data, size, levels=256)
    else:
        raise PayloadError(f"codec {coded.codec} is none of bits", kind="mismatch")
    if count and data[-1] & (1 << -count % 8) - 1:
        raise PayloadError("the padding after the last bit is not zero")
    return PackedBits(data, count)


def _decode_bytes(coded: Coded, size: int, groups: Sequence[int] | None) -> Levels:
    if coded.parameter:
        _check_share(coded.parameter)
        return rans.decode(coded.data, size, byte_frequencies(coded.parameter))
    if groups is None or not 0 < (number := len(group_bytes(groups))) <= MOST_GROUPS:
        raise PayloadError("bits with a share of ones for each group, where there are no groups", kind="mismatch")
    if len(coded.data) < 2 * number:
        raise PayloadError(f"the shares of {number} groups take {2 * number} bytes, found {len(coded.data)}")
    shares = np.frombuffer(coded.data[: 2 * number], dtype="<u2").tolist()
    for share in shares:
        _check_share(share)
    return rans.decode(coded.data[2 * number :], size, byte_frequencies(*shares), group_contexts(groups))


def _decode_gaps(coded: Coded, count: int, groups: Sequence[int] | None) -> PackedBits:
    ones = coded.parameter
    if ones > count:
        raise PayloadError(f"{ones} ones among {count} bits", kind="bounds")
    if 2 * ones > count:
        return decode_gaps(coded.data, [Group(count, count - ones)]).inverted()
    if ones or not coded.data:
        return decode_gaps(coded.data, [Group(count, ones)])
    lengths = [length for length in groups or () if length]
    if not 0 < len(lengths) <= MOST_GROUPS:
        raise PayloadError("bits with a number of ones for each group, where there are no groups", kind="mismatch")
    parts, at = [], 0
    for length in lengths:
        ones, at = read_varint(coded.data, at, below=length + 1)
        parts.append(Group(length, ones))
    return decode_gaps(coded.data[at:], parts)


def _check_share(share: int) -> None:
    if share >= SHARES:
        raise PayloadError(f"a share of {share} ones in {SHARES}", kind="bounds")
