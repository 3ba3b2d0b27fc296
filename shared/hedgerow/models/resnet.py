"""Residual networks for small images: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from hedgerow.models.layers import InputShape, Layers, Norm, chain, conv

__all__ = ["BasicBlock", "PadShortcut", "resnet18", "resnet20"]


class PadShortcut(nn.Module):
    """Option A of the paper: every second row and column, and zeros for the channels that are new. No parameters."""

    def __init__(self, *, stride: int, new_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = new_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C + new_channels, ⌈H / stride⌉, ⌈W / stride⌉)."""
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class BasicBlock(nn.Module):
    """relu(main(x) + shortcut(x)), where main is two 3x3 convolutions with their norms."""

    def __init__(self, *, main: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.main = main
        self.shortcut = shortcut
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) → (N, C', ⌈H / stride⌉, ⌈W / stride⌉)."""
        activation: torch.Tensor = self.relu(self.main(x) + self.shortcut(x))
        return activation


def resnet20(input_shape: InputShape, *, classes: int, norm: Norm) -> nn.Sequential:
    """Section 4.2, n = 3: stages of 16, 32 and 64, three blocks each; shortcuts of option A, as there."""
    return _resnet(input_shape, widths=(16, 32, 64), blocks=3, project=False, classes=classes, norm=norm)


def resnet18(input_shape: InputShape, *, classes: int, norm: Norm) -> nn.Sequential:
    """Stages of 64, 128, 256 and 512, two blocks each; shortcuts of option B: a 1x1 convolution where shapes change.

    For small images the stem is 3x3 with stride 1, and there is no max-pool after it.
    """
    return _resnet(input_shape, widths=(64, 128, 256, 512), blocks=2, project=True, classes=classes, norm=norm)


def _resnet(
    input_shape: InputShape, *, widths: Sequence[int], blocks: int, project: bool, classes: int, norm: Norm
) -> nn.Sequential:
    channels = widths[0]
    layers: Layers = conv("stem", inputs=input_shape[0], outputs=channels, norm=norm)
    for stage, width in enumerate(widths):
        for index in range(blocks):
            stride = 2 if stage > 0 and index == 0 else 1
            block = _block(channels, outputs=width, stride=stride, project=project, norm=norm)
            layers.append((f"stage{stage + 1}_block{index + 1}", block))
            channels = width
    return chain(
        [
            *layers,
            ("pool", nn.AdaptiveAvgPool2d(1)),
            ("flatten", nn.Flatten()),
            ("output", nn.Linear(channels, classes)),
        ]
    )


def _block(inputs: int, *, outputs: int, stride: int, project: bool, norm: Norm) -> BasicBlock:
    main = [
        *conv("conv1", inputs=inputs, outputs=outputs, stride=stride, norm=norm),
        *conv("conv2", inputs=outputs, outputs=outputs, relu=False, norm=norm),
    ]
    shortcut: nn.Module
    if stride == 1 and inputs == outputs:
        shortcut = nn.Identity()
    elif project:
        shortcut = chain(
            conv(
                "conv",
                inputs=inputs,
                outputs=outputs,
                kernel=1,
                stride=stride,
                padding=0,
                relu=False,
                norm=norm,
            )
        )
    else:
        shortcut = PadShortcut(stride=stride, new_channels=outputs - inputs)
    return BasicBlock(main=chain(main), shortcut=shortcut)
