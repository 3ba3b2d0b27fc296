"""What travels, at its real size: symbols, sections, payloads, and Shannon's bound beside them."""

from hedgerow.codec.entropy import binary_entropy_bytes, symbol_entropy_bytes
from hedgerow.codec.payload import (
    PAYLOAD_VERSION,
    Header,
    Section,
    Sections,
    decode_payload,
    encode_payload,
    floats_section,
    has_mask,
    mask_section,
    read_floats,
    read_mask,
    read_signs,
    read_votes,
    read_weights,
    signs_section,
    votes_section,
    weights_section,
)
from hedgerow.codec.symbols import Bits, Floats, Levels

__all__ = [
    "PAYLOAD_VERSION",
    "Bits",
    "Floats",
    "Header",
    "Levels",
    "Section",
    "Sections",
    "binary_entropy_bytes",
    "decode_payload",
    "encode_payload",
    "floats_section",
    "has_mask",
    "mask_section",
    "read_floats",
    "read_mask",
    "read_signs",
    "read_votes",
    "read_weights",
    "signs_section",
    "symbol_entropy_bytes",
    "votes_section",
    "weights_section",
]
