"""Pieces that the families share: named layers for a chain, and the initialisation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import nn

from hedgerow.models.standard import StandardConv2d, StandardLinear, StandardModule, Statistics

__all__ = [
    "Builder",
    "InputShape",
    "Layers",
    "Norm",
    "chain",
    "conv",
    "initialise",
    "linear",
    "max_pool",
    "standardise",
]

Norm: TypeAlias = Literal["batch", "nsconv", "none"]
"""What follows each convolution and hidden linear layer: batch normalisation, or nothing (they have a bias then). With
`nsconv` nothing follows either, and they compute with standardised weights (see `hedgerow.models.standard`)."""

InputShape: TypeAlias = tuple[int, int, int]
"""(C, H, W) of one image."""

Builder: TypeAlias = Callable[..., nn.Sequential]
"""Called as `builder(input_shape, classes=…, norm=…)`."""

Layers: TypeAlias = list[tuple[str, nn.Module]]
"""Named modules, each the only input of the next."""


def chain(layers: Layers) -> nn.Sequential:
    """The outermost module of every model here.

    Each child is the next one's only input, so, while biases and the shifts of norms are 0 as SynFlow has them, a
    positive factor on the output of one child changes all its scores by that factor, and their ranking not at all.
    """
    assert len({name for name, _ in layers}) == len(layers), "OrderedDict would drop a layer in silence"
    return nn.Sequential(OrderedDict(layers))


def conv(
    name: str,
    *,
    inputs: int,
    outputs: int,
    norm: Norm,
    kernel: int = 3,
    stride: int = 1,
    padding: int | tuple[int, int] = 1,
    groups: int = 1,
    relu: bool = True,
) -> Layers:
    """A convolution, its norm, and ReLU unless `relu` is False."""
    kind = StandardConv2d if norm == "nsconv" else nn.Conv2d
    layer = kind(inputs, outputs, kernel, stride, padding, groups=groups, bias=norm != "batch")
    normed: Layers = [(f"{name}_norm", nn.BatchNorm2d(outputs))] if norm == "batch" else []
    activated: Layers = [(f"{name}_relu", nn.ReLU())] if relu else []
    return [(name, layer), *normed, *activated]


def linear(name: str, *, inputs: int, outputs: int, norm: Norm) -> Layers:
    """A hidden linear layer, its norm and ReLU."""
    normed: Layers = [(f"{name}_norm", nn.BatchNorm1d(outputs))] if norm == "batch" else []
    kind = StandardLinear if norm == "nsconv" else nn.Linear
    return [(name, kind(inputs, outputs, bias=norm != "batch")), *normed, (f"{name}_relu", nn.ReLU())]


def max_pool(name: str, *, size: tuple[int, int]) -> tuple[Layers, tuple[int, int]]:
    """A 2x2 max-pool and the size (H, W) after it; nothing where a map of `size` is too small to be halved."""
    height, width = size
    if min(height, width) < 2:
        return [], size
    return [(name, nn.MaxPool2d(2))], (height // 2, width // 2)


def initialise(model: nn.Module, *, generator: torch.Generator) -> None:
    """Draw all weights of a model that was just built, in place: N(0, 2 / fan_in); biases 0, norms 1 and 0.

    Source: He et al., "Delving Deep into Rectifiers", arXiv:1502.01852, equation 10. Of its two variants this is
    fan_in, which keeps the variance of activations: for a depthwise convolution PyTorch's fan_out counts all channels
    although each output feeds one, and the weights would be far too small.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def standardise(model: nn.Module, *, statistics: Statistics, gain: float) -> None:
    """Tells all layers with standardised weights which of these count and how large they start, in place."""
    for module in model.modules():
        if isinstance(module, StandardModule):
            module.statistics = statistics
            nn.init.constant_(module.gain, gain)
