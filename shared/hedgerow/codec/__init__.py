"""What travels, at its real size: symbols, sections, payloads, and Shannon's bound beside them.

From the bottom up: `rans` and `adaptive` are the entropy coders; `bitstreams`, `levels`, `masks`, `topk` and `values`
code arrays with them; `sections` says of what kind an array is, and `payload` puts sections together.
"""

from hedgerow.codec.bitstreams import decode_bits, encode_bits
from hedgerow.codec.bounds import bits_entropy, levels_entropy, values_entropy
from hedgerow.codec.coded import Coded
from hedgerow.codec.drop import SEED_BYTES, dropped, kept_groups, seeded_positions
from hedgerow.codec.entropy import binary_entropy_bytes, symbol_entropy_bytes
from hedgerow.codec.levels import Context, decode_levels, encode_levels
from hedgerow.codec.ordered import decode_ordered, encode_ordered, from_ordered, to_ordered
from hedgerow.codec.packed_bits import PackedBits
from hedgerow.codec.payload import (
    MOST_LEVELS,
    PAYLOAD_VERSION,
    Candidate,
    Growth,
    Header,
    Section,
    Sections,
    TensorShape,
    decode_candidates,
    decode_payload,
    encode_payload,
    section_label,
)
from hedgerow.codec.sections import (
    counts_section,
    drawn_section,
    expected,
    has_mask,
    layer_context,
    levels_section,
    mask_delta_section,
    mask_section,
    plain_bits_section,
    plain_levels_section,
    plain_mask_section,
    read_counts,
    read_drawn,
    read_levels,
    read_mask,
    read_mask_delta,
    read_signs,
    read_top_k,
    signs_section,
    top_k_section,
)
from hedgerow.codec.symbols import Bits, Floats, Levels
from hedgerow.codec.uniform import Multiples, decode_multiples, encode_multiples, multiples_of, values_of
from hedgerow.codec.updates import applied, update_of
from hedgerow.codec.values import decode_values, encode_values, value_codec
from hedgerow.codec.votes import Votes

__all__ = [
    "MOST_LEVELS",
    "PAYLOAD_VERSION",
    "SEED_BYTES",
    "Bits",
    "Candidate",
    "Coded",
    "Context",
    "Floats",
    "Growth",
    "Header",
    "Levels",
    "Multiples",
    "PackedBits",
    "Section",
    "Sections",
    "TensorShape",
    "Votes",
    "applied",
    "binary_entropy_bytes",
    "bits_entropy",
    "counts_section",
    "decode_bits",
    "decode_candidates",
    "decode_levels",
    "decode_multiples",
    "decode_ordered",
    "decode_payload",
    "decode_values",
    "drawn_section",
    "dropped",
    "encode_bits",
    "encode_levels",
    "encode_multiples",
    "encode_ordered",
    "encode_payload",
    "encode_values",
    "expected",
    "from_ordered",
    "has_mask",
    "kept_groups",
    "layer_context",
    "levels_entropy",
    "levels_section",
    "mask_delta_section",
    "mask_section",
    "multiples_of",
    "plain_bits_section",
    "plain_levels_section",
    "plain_mask_section",
    "read_counts",
    "read_drawn",
    "read_levels",
    "read_mask",
    "read_mask_delta",
    "read_signs",
    "read_top_k",
    "section_label",
    "seeded_positions",
    "signs_section",
    "symbol_entropy_bytes",
    "to_ordered",
    "top_k_section",
    "update_of",
    "value_codec",
    "values_entropy",
    "values_of",
]
