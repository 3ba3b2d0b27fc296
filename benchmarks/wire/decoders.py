"""Everything that takes bytes from the network and makes arrays of them, each as a function of one string of bytes.

What comes out is checked; a `PayloadError` is what a decoder may raise, and nothing else.
"""

from __future__ import annotations

import numpy as np

from benchmarks.wire.change_decoders import change_decoders
from benchmarks.wire.codec_decoders import codec_decoders
from benchmarks.wire.decoder import Decoder
from benchmarks.wire.look_decoders import look_decoders
from benchmarks.wire.message_decoders import message_decoders

__all__ = ["Decoder", "decoders"]


def decoders() -> tuple[Decoder, ...]:
    """All of them; the same each time."""
    generator = np.random.default_rng(7)
    return (
        *codec_decoders(generator),
        *message_decoders(generator),
        *look_decoders(generator),
        *change_decoders(generator),
    )
