"""Which tensors of a model may lose weights."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from hedgerow.errors import PruningError

__all__ = ["prunable_tensors"]


def prunable_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weight of every convolution and linear layer, in ``named_modules`` order.

    Biases and the parameters of normalisation layers are never pruned: they are few, and cheap to keep. A weight that
    several layers share appears once, under the first of its names.

    Returns:
        Names as in ``state_dict`` to the model's own parameters (not copies).

    Raises:
        PruningError: the model has no such layer.

    >>> list(prunable_tensors(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))))
    ['0.weight', '2.weight']
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        weight = module.weight
        if isinstance(weight, nn.Parameter) and id(weight) not in seen:
            seen.add(id(weight))
            found[f"{prefix}.weight" if prefix else "weight"] = weight
    if not found:
        raise PruningError(
            f"{type(model).__name__} has no convolution and no linear layer, so nothing can be pruned: "
            "choose a model that has one, or density 1"
        )
    return found
