"""What a storage that is not exact can hold: finite floats."""

from __future__ import annotations

import torch
from torch import Tensor

from hedgerow.errors import ModelError, TrainingError

__all__ = ["check_floats", "check_range"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_floats(x: Tensor, *, what: str) -> None:
    """Raises ModelError unless `x` is an (N, C, …) tensor of floats on the CPU."""
    if x.dtype not in _FLOATS or x.dim() < 2 or x.device.type != "cpu":
        raise ModelError(
            f"an activation of shape {tuple(x.shape)}, {x.dtype} on {x.device.type} cannot be stored as {what},"
            " which takes floats of shape (N, C, …) on the CPU: store it exactly"
        )


def check_range(spans: Tensor) -> None:
    """Raises TrainingError unless all of `spans`, ranges or largest sizes of an activation, are finite."""
    if not bool(torch.isfinite(spans).all()):
        raise TrainingError(
            "an activation holds a NaN, an infinity or values beyond float32: lower the learning rate, or look for"
            " such values in the data"
        )
