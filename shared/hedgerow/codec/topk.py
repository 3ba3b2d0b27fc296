"""The largest values among the pruned positions: where they are, and what they are.

The codec is CODEC_FLOAT32, CODEC_FLOAT16 or CODEC_BFLOAT16, the parameter the number of values. The data is the number
of bytes of the positions, LEB128; the positions as the gaps of `hedgerow.codec.gaps`, one group; the values,
little-endian.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hedgerow.codec.adaptive import divided, prefixed
from hedgerow.codec.coded import Coded
from hedgerow.codec.entropy import binary_entropy_bytes
from hedgerow.codec.gaps import Group, decode_gaps, encode_gaps
from hedgerow.codec.ordered import decode_halves, encode_halves, from_ordered, to_ordered
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.symbols import Floats
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Positions", "decode_top_k", "encode_top_k"]

Positions = npt.NDArray[np.int64]

_TYPES: dict[int, np.dtype[np.floating]] = {pb.CODEC_FLOAT32: np.dtype("<f4"), pb.CODEC_FLOAT16: np.dtype("<f2")}


def encode_top_k(positions: Positions, values: Floats, *, support: int, codec: pb.Codec = pb.CODEC_FLOAT32) -> Coded:
    """The bytes of k values and where they are.

    Args:
        positions: (k,) int64, ascending, among the `support` weights that the mask prunes.
        values: (k,) float32, finite; for CODEC_FLOAT16 those of it too. For CODEC_BFLOAT16 the nearest of it are sent.
        support: how many weights are pruned.
        codec: of the values.

    >>> coded = encode_top_k(np.array([2]), np.array([-0.5], dtype=np.float32), support=4)
    >>> decode_top_k(coded, support=4, most=1)
    (array([2]), array([-0.5], dtype=float32))
    """
    assert positions.shape == values.shape
    assert (np.diff(positions, prepend=-1, append=support) > 0).all(), "positions do not ascend, or are outside"
    # Packed from the start: a device has no byte to spare for every pruned weight.
    packed = np.zeros((support + 7) // 8, dtype=np.uint8)
    np.bitwise_or.at(packed, positions >> 3, (0x80 >> (positions & 7)).astype(np.uint8))
    gaps = encode_gaps(PackedBits(packed, support), [Group(support, positions.size)])
    if codec == pb.CODEC_BFLOAT16:
        body = encode_halves(to_ordered(values, kind="bf16"), kind="bf16").data
    else:
        body = values.astype(_TYPES[codec]).tobytes()
    entropy = binary_entropy_bytes(positions.size, support) + len(body)
    return Coded(codec, prefixed(gaps) + body, positions.size, entropy)


def decode_top_k(coded: Coded, *, support: int, most: int) -> tuple[Positions, Floats]:
    """Inverse of `encode_top_k`: (k,) positions, ascending, and (k,) values.

    Args:
        coded: what was sent.
        support: how many weights are pruned.
        most: the largest k that is allowed.

    Raises:
        PayloadError: no such positions and values have these bytes, or they are too many.
    """
    if coded.codec not in (*_TYPES, pb.CODEC_BFLOAT16):
        raise PayloadError(f"codec {coded.codec} is none of largest values", kind="mismatch")
    count = coded.parameter
    if count > min(most, support):
        raise PayloadError(f"{count} largest values; at most {min(most, support)} can be meant here", kind="bounds")
    gaps, body = divided(coded.data)
    values = _values(body, count, codec=coded.codec)
    bits = decode_gaps(gaps, [Group(support, count)])
    return np.flatnonzero(bits.to_bools()), values


def _values(body: bytes, count: int, *, codec: pb.Codec) -> Floats:
    if codec == pb.CODEC_BFLOAT16:
        return from_ordered(decode_halves(Coded(codec, body), count, kind="bf16"), kind="bf16")
    kind = _TYPES[codec]
    if len(body) != kind.itemsize * count:
        raise PayloadError(f"{count} values take {kind.itemsize * count} bytes, found {len(body)}")
    values = np.frombuffer(body, dtype=kind).astype(np.float32)
    if not np.isfinite(values).all():
        raise PayloadError("a value is not finite", kind="not_finite")
    return values
