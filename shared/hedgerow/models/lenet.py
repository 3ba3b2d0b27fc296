"""LeNet-5: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, with ReLU and max-pooling."""

from __future__ import annotations

from torch import nn

from hedgerow.models.layers import InputShape, Norm, chain, conv, linear, max_pool

__all__ = ["lenet5"]


def lenet5(input_shape: InputShape, *, classes: int, norm: Norm) -> nn.Sequential:
    """6 and 16 filters of 5x5, each with a 2x2 max-pool, then 120, 84 and the classes.

    The paper pads 28x28 to 32x32. Likewise here, for each axis on its own: the first convolution pads 2 where a side
    is under 32, and the second, which the paper does not pad, pads 2 where its input is under 6 and nothing would be
    left to pool. So 28x28 and 32x32 give the paper's 16x5x5 before the linear layers, and 8x8 gives 16x2x2.
    """
    channels, height, width = input_shape
    padding1 = (_pad_below(32, height), _pad_below(32, width))
    size = (height + 2 * padding1[0] - 4, width + 2 * padding1[1] - 4)
    pool1, size = max_pool("pool1", size=size)
    padding2 = (_pad_below(6, size[0]), _pad_below(6, size[1]))
    size = (size[0] + 2 * padding2[0] - 4, size[1] + 2 * padding2[1] - 4)
    pool2, size = max_pool("pool2", size=size)
    return chain(
        [
            *conv("conv1", inputs=channels, outputs=6, kernel=5, padding=padding1, norm=norm),
            *pool1,
            *conv("conv2", inputs=6, outputs=16, kernel=5, padding=padding2, norm=norm),
            *pool2,
            ("flatten", nn.Flatten()),
            *linear("linear1", inputs=16 * size[0] * size[1], outputs=120, norm=norm),
            *linear("linear2", inputs=120, outputs=84, norm=norm),
            ("output", nn.Linear(84, classes)),
        ]
    )


def _pad_below(limit: int, side: int) -> int:
    return 2 if side < limit else 0
