"""Representations: what a client trains and sends of the kept weights."""

from hedgerow.representation.base import Broadcast, Representation
from hedgerow.representation.signs import Signs, dequantised, layer_magnitudes, quantised
from hedgerow.representation.weights import Weights

__all__ = [
    "Broadcast",
    "Representation",
    "Signs",
    "Weights",
    "dequantised",
    "layer_magnitudes",
    "quantised",
]
