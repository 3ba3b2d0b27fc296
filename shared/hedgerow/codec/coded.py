"""What an encoder gives: bytes, how to read them, and Shannon's bound beside them."""

from __future__ import annotations

from dataclasses import dataclass

from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Coded"]


@dataclass(frozen=True, slots=True)
class Coded:
    """Encoded symbols.

    Attributes:
        codec: how they are coded.
        data: the bytes.
        parameter: one integer that the codec needs: the number of ones or of levels, for example.
        entropy: Shannon's bound in bytes of independent symbols with the statistics that the codec uses; the encoder
            knows it, a decoder is given 0.
    """

    codec: pb.Codec
    data: bytes
    parameter: int = 0
    entropy: float = 0.0
