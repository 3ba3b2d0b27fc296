"""Local optimisers that torch does not have."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["NormalisedSGD"]

_DECAY = 0.99


class NormalisedSGD(torch.optim.Optimizer):
    """SGD without momentum whose gradient is divided by its own running root mean square: one scalar of state a tensor.

    v ← 0.99 v + 0.01 mean(g²);  s ← s - lr · g / √(v / (1 - 0.99ᵗ))

    The size of an update is then about lr whatever the layer, so that scores of all layers flip at a like pace.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch allows a closure; nobody here has one
        """Takes one step on every tensor that has a gradient."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None or tensor.numel() == 0:
                    continue
                state = self.state[tensor]
                state["step"] = state.get("step", 0) + 1
                square = tensor.grad.square().mean().item()
                state["square"] = _DECAY * state.get("square", 0.0) + (1 - _DECAY) * square
                root = (state["square"] / (1 - _DECAY ** state["step"])) ** 0.5
                if root > 0:
                    tensor.sub_(tensor.grad, alpha=group["lr"] / root)
