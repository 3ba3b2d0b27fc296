"""Networks to prune, each built from a name, a shape and a seed."""

from hedgerow.models.layers import Norm
from hedgerow.models.registry import build_model, model_names

__all__ = ["Norm", "build_model", "model_names"]
