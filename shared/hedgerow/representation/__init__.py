"""Representations: what a client trains and sends of the kept weights."""

from hedgerow.representation.base import Heard, Published, Representation, Said
from hedgerow.representation.levels import dequantised, quantised
from hedgerow.representation.signs import Signs, layer_magnitudes
from hedgerow.representation.supermasks import Supermasks, frozen_weights
from hedgerow.representation.values import Values
from hedgerow.representation.weights import Weights

__all__ = [
    "Heard",
    "Published",
    "Representation",
    "Said",
    "Signs",
    "Supermasks",
    "Values",
    "Weights",
    "dequantised",
    "frozen_weights",
    "layer_magnitudes",
    "quantised",
]
