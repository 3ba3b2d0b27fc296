"""LeNet-300-100: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998."""

from __future__ import annotations

import math

from torch import nn

from hedgerow.models.layers import InputShape, Norm, chain, linear

__all__ = ["mlp"]


def mlp(input_shape: InputShape, *, classes: int, norm: Norm) -> nn.Sequential:
    """Two hidden layers of 300 and 100, with ReLU as in Frankle and Carbin, arXiv:1803.03635."""
    return chain(
        [
            ("flatten", nn.Flatten()),
            *linear("linear1", inputs=math.prod(input_shape), outputs=300, norm=norm),
            *linear("linear2", inputs=300, outputs=100, norm=norm),
            ("output", nn.Linear(100, classes)),
        ]
    )
