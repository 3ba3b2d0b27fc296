"""The codecs: arrays of symbols to bytes and back.

Every `unpack_*` takes bytes from the network. It is told how many symbols there must be, checks all sizes before it
allocates, and raises `PayloadError` for anything else.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import zstandard

from hedgerow.errors import PayloadError

__all__ = [
    "Bits",
    "Floats",
    "Levels",
    "pack_bits",
    "pack_bytes_zstd",
    "pack_floats",
    "pack_gaps_zstd",
    "unpack_bits",
    "unpack_bytes_zstd",
    "unpack_floats",
    "unpack_gaps_zstd",
]

Bits: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float32]
Levels: TypeAlias = npt.NDArray[np.uint8]

_ZSTD_LEVEL = 9
_VARINT_BYTES = 5
"""LEB128 bytes of the largest gap, below 2**35."""


def pack_bits(bits: Bits) -> bytes:
    """Packs booleans eight a byte, most significant first, padded with zeros.

    >>> pack_bits(np.array([True, False, True])).hex()
    'a0'
    """
    return np.packbits(bits).tobytes()


def unpack_bits(data: bytes, count: int) -> Bits:
    """Inverse of `pack_bits` for `count` booleans."""
    expected = (count + 7) // 8
    if len(data) != expected:
        raise PayloadError(f"{count} bits take {expected} bytes, found {len(data)}")
    packed = np.frombuffer(data, dtype=np.uint8)
    if count % 8 and packed[-1] & (0xFF >> count % 8):
        raise PayloadError("the padding after the last bit is not zero")
    return np.unpackbits(packed, count=count).astype(np.bool_)


def pack_floats(values: Floats) -> bytes:
    """float32, little-endian."""
    return values.astype("<f4", copy=False).tobytes()


def unpack_floats(data: bytes, count: int) -> Floats:
    """Inverse of `pack_floats` for `count` values, all of them finite."""
    if len(data) != 4 * count:
        raise PayloadError(f"{count} float32 values take {4 * count} bytes, found {len(data)}")
    values = np.frombuffer(data, dtype="<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise PayloadError("a value is not finite", kind="not_finite")
    return values


def pack_bytes_zstd(symbols: Levels) -> bytes:
    """One byte a symbol, then Zstandard, whose Huffman stage comes within a few per cent of the order-0 entropy."""
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(symbols.tobytes())


def unpack_bytes_zstd(data: bytes, count: int, *, levels: int) -> Levels:
    """Inverse of `pack_bytes_zstd` for `count` symbols below `levels`."""
    symbols = np.frombuffer(_decompress(data, least=count, most=count), dtype=np.uint8)
    if count and int(symbols.max()) >= levels:
        raise PayloadError(f"a symbol is {int(symbols.max())}, there are only {levels} levels", kind="bounds")
    return symbols


def pack_gaps_zstd(bits: Bits) -> bytes:
    """The zeros before each one as LEB128 integers, then Zstandard: for sparse bits, where it beats `pack_bits`."""
    positions = np.flatnonzero(bits)
    gaps = np.diff(positions, prepend=-1).astype(np.uint64) - np.uint64(1)
    lengths = np.ones(gaps.size, dtype=np.int64)
    for extra in range(1, _VARINT_BYTES):
        lengths += gaps >= np.uint64(1 << 7 * extra)
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), dtype=np.uint8)
    for i in range(_VARINT_BYTES):
        has = lengths > i
        digit = (gaps[has] >> np.uint64(7 * i)) & np.uint64(0x7F)
        more = np.where(lengths[has] > i + 1, np.uint64(0x80), np.uint64(0))
        out[starts[has] + i] = (digit | more).astype(np.uint8)
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(out.tobytes())


def unpack_gaps_zstd(data: bytes, count: int, *, ones: int) -> Bits:
    """Inverse of `pack_gaps_zstd` for `count` booleans of which `ones` are True."""
    if ones > count:
        raise PayloadError(f"{ones} ones among {count} bits", kind="bounds")
    stream = np.frombuffer(_decompress(data, least=ones, most=_VARINT_BYTES * ones), dtype=np.uint8)
    bits = np.zeros(count, dtype=np.bool_)
    if ones == 0:
        return bits
    last = (stream & 0x80) == 0
    ends = np.flatnonzero(last)
    if ends.size != ones or not last[-1]:
        raise PayloadError(f"expected {ones} gaps, found {ends.size}")
    starts = np.concatenate(([0], ends[:-1] + 1))
    if int((ends - starts).max()) >= _VARINT_BYTES:
        raise PayloadError(f"a gap is longer than {_VARINT_BYTES} bytes")
    place = np.arange(stream.size) - np.repeat(starts, ends - starts + 1)
    digits = (stream & 0x7F).astype(np.int64) << (7 * place)
    # At most `count` < 2**35 gaps of < 2**35 each: the sum stays below 2**63 only if each gap is bounded first.
    gaps = np.add.reduceat(digits, starts)
    if int(gaps.max()) >= count:
        raise PayloadError(f"a gap of {int(gaps.max())} in {count} bits", kind="bounds")
    positions = np.cumsum(gaps + 1) - 1
    if int(positions[-1]) >= count:
        raise PayloadError(f"a one at position {int(positions[-1])} of {count} bits", kind="bounds")
    bits[positions] = True
    return bits


def _decompress(data: bytes, *, least: int, most: int) -> bytes:
    try:
        # The decompressor allocates what the frame's header declares, so that is checked first.
        size = zstandard.frame_content_size(data)
        if not least <= size <= most:
            raise PayloadError(f"expected {least} to {most} bytes of symbols, the frame declares {size}", kind="bounds")
        out = zstandard.ZstdDecompressor().decompress(data, max_output_size=max(most, 1), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PayloadError(f"not a valid Zstandard frame: {error}") from None
    if len(out) != size:
        raise PayloadError(f"the frame declares {size} bytes and holds {len(out)}")
    return out
