"""SNIP: prune before training by what one batch of samples says.

Lee et al. 2019, "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR, arXiv 1810.02340.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.errors import PruningError
from hedgerow.pruning.prunable import prunable_tensors

__all__ = ["snip"]


@torch.inference_mode(False)  # gradients are needed even where the caller switched them off
@torch.enable_grad()
def snip(model: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """The connection sensitivity |w · ∂L/∂w| of every prunable weight, in the weight's dtype; L is the cross-entropy.

    It is equation 6 without the sum of all, by which that divides: the order is the same. The model is not changed, and
    norms take the batch's statistics, as in training. A weight that the loss does not depend on scores 0.

    Args:
        model: the dense network at initialization.
        images: (N, C, H, W), normalised, N at least 2.
        labels: (N,) int64, the class of each.
        seed: of what the model draws, in dropout for example; the global random state is not touched.

    Raises:
        PruningError: there are too few samples, or the loss is not finite.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    >>> scores = snip(model, torch.ones(2, 1, 1, 2), torch.tensor([0, 0]))
    >>> scores["1.weight"].tolist()
    [[0.5, 1.0], [0.5, 1.0]]
    """
    if len(labels) < 2:
        raise PruningError(f"SNIP was given {len(labels)} samples, and norms need 2; raise selection.public_samples")
    network = copy.deepcopy(model).train()
    weights = prunable_tensors(network)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        loss = F.cross_entropy(network(images), labels)
    if not loss.isfinite():
        raise PruningError(
            f"the loss of the untrained network is {loss.item()}, so SNIP cannot rank weights; choose another saliency"
        )
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else (weight.detach() * gradient).abs()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
