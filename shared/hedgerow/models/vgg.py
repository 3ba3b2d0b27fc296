"""VGG-11 for small images: configuration A of Simonyan and Zisserman, arXiv:1409.1556, with one linear layer."""

from __future__ import annotations

from torch import nn

from hedgerow.models.layers import InputShape, Layers, Norm, chain, conv, max_pool

__all__ = ["vgg11"]

_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def vgg11(input_shape: InputShape, *, classes: int, norm: Norm) -> nn.Sequential:
    """Eight 3x3 convolutions in five stages; global average pooling and one linear layer in place of the paper's three.

    A stage ends in a 2x2 max-pool as long as the map can be halved.
    """
    channels, *sides = input_shape
    size = (sides[0], sides[1])
    layers: Layers = []
    for stage, widths in enumerate(_STAGES, start=1):
        for index, width in enumerate(widths, start=1):
            layers += conv(f"stage{stage}_conv{index}", inputs=channels, outputs=width, norm=norm)
            channels = width
        pool, size = max_pool(f"stage{stage}_pool", size=size)
        layers += pool
    return chain(
        [
            *layers,
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("output", nn.Linear(channels, classes)),
        ]
    )
