"""Networks to prune, each built from a name, a shape and a seed."""

from hedgerow.models.layers import Norm
from hedgerow.models.registry import build_model, model_names
from hedgerow.models.standard import StandardConv2d, StandardLinear, StandardModule, Statistics

__all__ = [
    "Norm",
    "StandardConv2d",
    "StandardLinear",
    "StandardModule",
    "Statistics",
    "build_model",
    "model_names",
]
