"""The gradients of all kept weights on one batch."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from hedgerow.codec import Floats
from hedgerow.errors import TrainingError
from hedgerow.sparse.conversion import kernel_layers, set_paths
from hedgerow.sparse.measuring import undisturbed
from hedgerow.sparse.network import KeptNetwork, read_vector

__all__ = ["kept_gradients"]


def kept_gradients(network: KeptNetwork, loss: Callable[[], Tensor]) -> Floats:
    """The gradient by each kept weight, where `largest_gradients` has those by pruned ones.

    One forward and one backward pass by the dense path and in training mode, as there, so that both are of the same
    function. Of standardised weights it is the gradient of what they are made of, with what all weights of an output
    share.

    Args:
        network: a network of kept weights. It comes out as it went in.
        loss: runs its module on a batch; (), its mean loss.

    Returns:
        (kept,) float32, in the mask's order; 0 in a layer that was not run.

    Raises:
        TrainingError: the loss or a gradient is not finite.
    """
    with undisturbed(network.module):
        set_paths(network.module, dict.fromkeys(kernel_layers(network.module), "dense"))
        network.module.train()
        network.module.zero_grad(set_to_none=True)
        value = loss()
        if not isfinite(value.item()):
            raise TrainingError(f"the loss became {value.item()} where gradients were asked for; lower the step sizes")
        value.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        found = [torch.zeros_like(kept) if kept.grad is None else kept.grad for kept in network.kept]
        gradients = read_vector(found)
    if not np.isfinite(gradients).all():
        raise TrainingError("a gradient that was asked for is not finite though the loss is; lower the step sizes")
    return gradients
