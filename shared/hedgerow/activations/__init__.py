"""What layers keep between forward and backward: exact, rounded, the largest only, one bit, or just a block's input."""

from hedgerow.activations.bits import BitReLU, bit_relu, bit_relu_
from hedgerow.activations.choice import Kind, activations
from hedgerow.activations.quantised import Quantised
from hedgerow.activations.recompute import Recompute
from hedgerow.activations.storage import Activations, Exact, FaithfulStorage, Layers, Packed, Storage
from hedgerow.activations.topk import TopK

__all__ = [
    "Activations",
    "BitReLU",
    "Exact",
    "FaithfulStorage",
    "Kind",
    "Layers",
    "Packed",
    "Quantised",
    "Recompute",
    "Storage",
    "TopK",
    "activations",
    "bit_relu",
    "bit_relu_",
]
