"""MobileNetV2 for small images: Sandler et al., "Inverted Residuals and Linear Bottlenecks", arXiv:1801.04381."""

from __future__ import annotations

import torch
from torch import nn

from hedgerow.models.layers import InputShape, Layers, Norm, chain, conv

__all__ = ["InvertedResidual", "mobilenetv2"]

# Expansion, channels, blocks and first stride of each stage: table 2 of the paper, but stride 1 for the 24 channels,
# which with the stem's stride 1 leaves a map that is four times as wide and high: 32x32 ends as 4x4, 8x8 as 1x1.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """main(x) + x; main is 1x1 to more channels, 3x3 depthwise, and 1x1 back, the last one without ReLU."""

    def __init__(self, *, main: nn.Sequential) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        output: torch.Tensor = self.main(x) + x
        return output


def mobilenetv2(input_shape: InputShape, *, classes: int, norm: Norm) -> nn.Sequential:
    """Width 1.0 with a stem of stride 1, without dropout.

    ReLU in place of ReLU6: SynFlow needs a network that is linear in the scale of its input, and the cap at 6 would
    leave all of it without a gradient.
    """
    channels = 32
    layers: Layers = conv("stem", inputs=input_shape[0], outputs=channels, norm=norm)
    for stage, (expansion, width, blocks, first_stride) in enumerate(_STAGES, start=1):
        for index in range(blocks):
            stride = first_stride if index == 0 else 1
            main = _bottleneck(channels, outputs=width, expansion=expansion, stride=stride, norm=norm)
            residual = stride == 1 and channels == width
            block = InvertedResidual(main=main) if residual else main
            layers.append((f"stage{stage}_block{index + 1}", block))
            channels = width
    return chain(
        [
            *layers,
            *conv("head", inputs=channels, outputs=1280, kernel=1, padding=0, norm=norm),
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("output", nn.Linear(1280, classes)),
        ]
    )


def _bottleneck(inputs: int, *, outputs: int, expansion: int, stride: int, norm: Norm) -> nn.Sequential:
    hidden = inputs * expansion
    expand = conv("expand", inputs=inputs, outputs=hidden, kernel=1, padding=0, norm=norm) if expansion > 1 else []
    return chain(
        [
            *expand,
            *conv("depthwise", inputs=hidden, outputs=hidden, stride=stride, groups=hidden, norm=norm),
            *conv("project", inputs=hidden, outputs=outputs, kernel=1, padding=0, relu=False, norm=norm),
        ]
    )
