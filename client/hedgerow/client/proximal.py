"""What keeps local training near its start (FedProx): a proximal term μ/2·‖w - wₜ‖² beside the loss.

Li et al. 2020, "Federated Optimization in Heterogeneous Networks", MLSys, arXiv 1812.06127, equation 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from hedgerow.codec import Floats
from hedgerow.sparse import KeptNetwork, read_vector

__all__ = ["Proximal"]


@dataclass(frozen=True, slots=True)
class Proximal:
    """What pulls trained values back to where a round began.

    Attributes:
        strength: μ.
        starts: for each trained tensor its values when the round began, wₜ, float32 and of its shape.
    """

    strength: float
    starts: Sequence[Tensor]

    @classmethod
    def of(cls, network: KeptNetwork, *, strength: float, start: tuple[Floats, Floats] | None = None) -> Self:
        """That of a network.

        Args:
            network: what is trained.
            strength: μ.
            start: (kept,) and (f,) float32, the values of `network.kept` and `network.floats` when the round began.
                They are not copied, and must not change. None: a copy of those that the network has now.
        """
        kept, floats = (read_vector(network.kept), read_vector(network.floats)) if start is None else start
        return cls(strength, [*_views(network.kept, kept), *_views(network.floats, floats)])

    @property
    def held_bytes(self) -> int:
        """What it keeps in memory."""
        return sum(start.numel() * start.element_size() for start in self.starts)

    @torch.no_grad()
    def add_to_gradients(self, network: KeptNetwork) -> None:
        """Adds μ·(w - wₜ) to the gradient of each trained tensor.

        It is added here and not to the loss: without a graph, and once a batch in however many parts it came. It is
        added in two terms, as a difference of its own would take the memory of another tensor.

        Args:
            network: that of `of`; only gradients are changed.
        """
        for tensor, start in zip(_trained(network), self.starts, strict=True):
            if tensor.grad is not None:
                tensor.grad.add_(tensor, alpha=self.strength).sub_(start, alpha=self.strength)


def _trained(network: KeptNetwork) -> list[Tensor]:
    return [tensor for tensor in (*network.kept, *network.floats) if tensor.requires_grad]


def _views(tensors: Sequence[Tensor], vector: Floats) -> list[Tensor]:
    assert sum(tensor.numel() for tensor in tensors) == vector.size, "the start is of another network"
    parts = np.split(vector, np.cumsum([tensor.numel() for tensor in tensors])[:-1]) if tensors else []
    return [
        torch.from_numpy(part).view(tensor.shape)
        for tensor, part in zip(tensors, parts, strict=True)
        # Running statistics have no gradient.
        if tensor.requires_grad
    ]
