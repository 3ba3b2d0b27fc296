"""What a weight costs: how often it is multiplied."""

from __future__ import annotations

from collections import Counter

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from hedgerow.ledger.trace import trace
from hedgerow.pruning import prunable_tensors

__all__ = ["weight_operations"]


def weight_operations(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Multiply-accumulates of one weight of each prunable tensor in a forward pass of one sample.

    That is the number of output positions of its layer, or input positions of a transposed convolution, summed over its
    calls; 1 where the network does not call it.

    Args:
        model: the dense network; it stays as it is.
        input_shape: (C, H, W) of a sample.

    >>> layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 4 * 5, 3))
    >>> weight_operations(layers, (1, 6, 7))
    {'0.weight': 20, '2.weight': 1}
    """
    weights = prunable_tensors(model)
    found, counts = trace(model, input_shape), Counter[str]()
    for call in found.calls:
        if call.weight:
            turned = isinstance(model.get_submodule(call.name), _ConvTransposeNd)
            # A position multiplies each weight of its channel once; the channels are the first dimension of both.
            places = found.elements[call.inputs[0] if turned else call.output]
            counts[call.weight] += places // weights[call.weight].shape[0]
    return {name: max(1, counts[name]) for name in weights}
