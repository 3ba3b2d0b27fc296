"""Float values in the format that an experiment chooses: what both the floats and the kept weights travel as.

`fp32`, `fp16` and `bf16` carry the values themselves. `int8` and `uniform` carry updates against a base that both ends
hold, and give back what rounding left, to be added to the next update (error feedback).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from hedgerow.codec.blocks import decode_blocks, encode_blocks
from hedgerow.codec.coded import Coded
from hedgerow.codec.ordered import decode_halves, encode_halves, from_ordered, to_ordered
from hedgerow.codec.symbols import Bits, Floats, pack_floats, unpack_floats
from hedgerow.codec.uniform import decode_update, encode_update
from hedgerow.codec.updates import applied, update_of
from hedgerow.errors import PayloadError
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["VALUE_FORMATS", "EncodedValues", "ValueFormat", "decode_values", "encode_values", "value_codec"]

ValueFormat: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "uniform"]
VALUE_FORMATS: tuple[ValueFormat, ...] = get_args(ValueFormat)

_CODECS: dict[ValueFormat, pb.Codec] = {
    "fp32": pb.CODEC_FLOAT32,
    "fp16": pb.CODEC_FLOAT16,
    "bf16": pb.CODEC_BFLOAT16,
    "int8": pb.CODEC_INT8_BLOCK,
    "uniform": pb.CODEC_UNIFORM,
}


@dataclass(frozen=True, slots=True)
class EncodedValues:
    """What a writer of values gets.

    Attributes:
        coded: what travels.
        values: (n,) float32, what the reader makes of it.
        residual: (n,) float32, what rounding left of the update, for the next call; None where the format carries the
            values themselves, so that no error outlives its round.
    """

    coded: Coded
    values: Floats
    residual: Floats | None


def value_codec(format: ValueFormat) -> pb.Codec:
    """The codec of a format.

    >>> value_codec("fp32") == pb.CODEC_FLOAT32
    True
    """
    return _CODECS[format]


def encode_values(
    values: Floats,
    *,
    format: ValueFormat,
    groups: Sequence[int],
    base: Floats | None = None,
    step: float = 1.0,
    residual: Floats | None = None,
    relative: Bits | None = None,
) -> EncodedValues:
    """Codes `values`.

    Args:
        values: (n,) float32, finite.
        format: how.
        groups: lengths of the tensors, which sum to n.
        base: (n,) float32, what both ends hold; `int8` and `uniform` need it, the others do not look at it.
        step: of `uniform`, see `encode_update`.
        residual: what the last call left; 0 when None.
        relative: (n,) True where updates are of logarithms, for variances; nowhere when None.

    Raises:
        PayloadError: a value is not finite.
    """
    assert sum(groups) == values.size
    if format == "fp32":
        data = pack_floats(values)
        # Reading it back is the check that all are finite.
        return EncodedValues(
            Coded(pb.CODEC_FLOAT32, data, entropy=float(len(data))), unpack_floats(data, values.size), None
        )
    if format in ("fp16", "bf16"):
        integers = to_ordered(values, kind=format)
        return EncodedValues(encode_halves(integers, kind=format), from_ordered(integers, kind=format), None)
    assert base is not None, "updates need a base"
    if not np.isfinite(values).all():
        raise PayloadError("a value is not finite", kind="not_finite")
    update = update_of(values, base, relative=relative)
    if residual is not None:
        update = _sum(update, residual)
    if format == "int8":
        coded, reconstruction = encode_blocks(update, groups=groups)
    else:
        coded, reconstruction = encode_update(update, groups=groups, step=step)
    return EncodedValues(coded, applied(base, reconstruction, relative=relative), update - reconstruction)


def decode_values(
    coded: Coded, count: int, *, groups: Sequence[int], base: Floats | None = None, relative: Bits | None = None
) -> Floats:
    """What `encode_values` says that the reader makes of `coded`: `count` values, float32, finite; arguments as there.

    Raises:
        PayloadError: bytes that are no values of this number, a codec that is none of a format, an update without a
            base, or a value that is not finite.
    """
    assert sum(groups) == count
    if coded.codec == pb.CODEC_FLOAT32:
        return unpack_floats(coded.data, count)
    if coded.codec == pb.CODEC_FLOAT16:
        return from_ordered(decode_halves(coded, count, kind="fp16"), kind="fp16")
    if coded.codec == pb.CODEC_BFLOAT16:
        return from_ordered(decode_halves(coded, count, kind="bf16"), kind="bf16")
    if coded.codec == pb.CODEC_INT8_BLOCK:
        update = decode_blocks(coded, count, groups=groups)
    else:
        # It refuses all other codecs.
        update = decode_update(coded, count, groups=groups)
    if base is None:
        raise PayloadError("an update of values that this side does not hold", kind="mismatch")
    return applied(base, update, relative=relative)


def _sum(update: Floats, residual: Floats) -> Floats:
    # The largest floats have no sum in float32.
    largest = float(np.finfo(np.float32).max)
    return np.clip(update.astype(np.float64) + residual, -largest, largest).astype(np.float32)
