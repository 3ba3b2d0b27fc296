"""Conv-4 and Conv-6 of Frankle and Carbin, "The Lottery Ticket Hypothesis", arXiv:1803.03635, figure 2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from hedgerow.models.layers import InputShape, Layers, Norm, chain, conv, linear, max_pool

__all__ = ["conv4", "conv6"]


def conv4(input_shape: InputShape, *, classes: int, norm: Norm) -> nn.Sequential:
    """64, 64, pool, 128, 128, pool, then 256, 256 and the classes."""
    return _conv_net(input_shape, stages=(64, 128), classes=classes, norm=norm)


def conv6(input_shape: InputShape, *, classes: int, norm: Norm) -> nn.Sequential:
    """64, 64, pool, 128, 128, pool, 256, 256, pool, then 256, 256 and the classes."""
    return _conv_net(input_shape, stages=(64, 128, 256), classes=classes, norm=norm)


def _conv_net(input_shape: InputShape, *, stages: Sequence[int], classes: int, norm: Norm) -> nn.Sequential:
    channels, *sides = input_shape
    size = (sides[0], sides[1])
    layers: Layers = []
    for stage, width in enumerate(stages, start=1):
        layers += conv(f"conv{2 * stage - 1}", inputs=channels, outputs=width, norm=norm)
        layers += conv(f"conv{2 * stage}", inputs=width, outputs=width, norm=norm)
        pool, size = max_pool(f"pool{stage}", size=size)
        layers += pool
        channels = width
    return chain(
        [
            *layers,
            ("flatten", nn.Flatten()),
            *linear("linear1", inputs=channels * size[0] * size[1], outputs=256, norm=norm),
            *linear("linear2", inputs=256, outputs=256, norm=norm),
            ("output", nn.Linear(256, classes)),
        ]
    )
