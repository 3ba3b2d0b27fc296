"""Layers that need no norm after them: they compute with standardised weights (scaled weight standardisation).

Source: Brock et al., arXiv:2101.08692, equation 4; "normalised sparse convolution" in FedMef, arXiv:2403.14737.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

__all__ = [
    "LEAST_SQUARE",
    "StandardConv2d",
    "StandardLinear",
    "StandardModule",
    "Statistics",
    "make_plain",
    "whole_standardised",
]

Statistics: TypeAlias = Literal["kept", "all"]
"""Which weights of an output its mean and variance are of: the kept ones, or all of them, zeros included."""

LEAST_SQUARE = 1e-4
"""ε: what fan-in times variance is at least taken to be."""


def whole_standardised(weight: Tensor, gain: Tensor) -> Tensor:
    """A dense weight made standard: γ · (w - mean) / √max(fan-in · var, 10⁻⁴) in each output.

    Args:
        weight: (O, …).
        gain: (O,), γ.

    >>> whole_standardised(torch.tensor([[1.0, 3.0]]), torch.ones(1)).tolist()
    [[-0.5, 0.5]]
    """
    rows = weight.flatten(1)
    fan_in = rows.shape[1]
    if fan_in < 2:
        # Of one weight alone there is no mean and no variance.
        scaled = rows * rows.square().clamp(min=LEAST_SQUARE).rsqrt()
    else:
        variance, mean = torch.var_mean(rows, dim=1, keepdim=True)
        scaled = (rows - mean) * (fan_in * variance).clamp(min=LEAST_SQUARE).rsqrt()
    return (scaled * gain[:, None]).view_as(weight)


class StandardConv2d(nn.Conv2d):
    """`nn.Conv2d` that standardises its whole weight; for pruned ones see `hedgerow.sparse`.

    Attributes:
        gain: (outputs,) parameter, the size of each output's weight; starts at 1.
        statistics: which weights count once it is pruned.
    """

    statistics: Statistics = "kept"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.gain = nn.Parameter(torch.ones(self.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, out, H', W')."""
        weight = whole_standardised(self.weight, self.gain)
        return cast(Tensor, self._conv_forward(x, weight, self.bias))


class StandardLinear(nn.Linear):
    """`nn.Linear` that standardises its whole weight; attributes as those of `StandardConv2d`."""

    statistics: Statistics = "kept"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.gain = nn.Parameter(torch.ones(self.out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        return nn.functional.linear(x, whole_standardised(self.weight, self.gain), self.bias)


StandardModule: TypeAlias = StandardConv2d | StandardLinear
"""Either of them."""


def make_plain(module: StandardModule) -> None:
    """Lets a layer compute with its weight as it is from now on, without its gain, in place: it becomes torch's own."""
    del module.gain
    cast(nn.Module, module).__class__ = nn.Conv2d if isinstance(module, StandardConv2d) else nn.Linear
