"""The representation `weights`: the kept weights themselves, in float32; dense, it is federated averaging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from hedgerow.activations import Activations
from hedgerow.codec import Bits, Floats, Section, Sections, read_weights, weights_section
from hedgerow.pruning import Mask
from hedgerow.representation.base import Broadcast, Representation
from hedgerow.sparse import KeptNetwork, Kernels, gather_kept, sparsify

__all__ = ["Weights"]


@final
@dataclass(frozen=True, slots=True)
class Weights(Representation):
    """Float values of the kept weights."""

    def initial(self, weights: dict[str, Tensor], mask: Mask) -> Floats:
        """The kept weights at initialization."""
        return gather_kept(weights, mask)

    def broadcast(self, state: Floats) -> Broadcast:
        """The values as they are."""
        return Broadcast(weights_section(state), start=state)

    def receive(self, sections: Sections, kept: int) -> Floats:
        """The values as they are."""
        return read_weights(sections, kept)

    def network(
        self,
        model: nn.Module,
        mask: Mask,
        *,
        kernels: Kernels = "auto",
        storage: Activations | None = None,
        recompute: bool = False,
    ) -> KeptNetwork:
        """Layers of kept weights; layers that the mask keeps whole are the dense ones."""
        return sparsify(model, mask, kernels=kernels, storage=storage, recompute=recompute)

    def reply(self, trained: Floats, *, start: Floats) -> Section:
        """The trained values."""
        return weights_section(trained)

    def read_reply(self, sections: Sections, kept: int) -> Floats:
        """The trained values of one client."""
        return read_weights(sections, kept)

    def flips(self, reply: Bits | Floats, *, start: Floats) -> int | None:
        """There are no signs."""
        return None

    def reply_entropy(self, reply: Bits | Floats, *, start: Floats) -> float:
        """Float bits have no useful order-0 bound; it is taken as what is sent."""
        return 4.0 * reply.size

    def following(self, state: Floats, *, start: Floats, mean: Floats, scale: float) -> Floats:
        """The mean (McMahan et al. 2017)."""
        return mean

    def kept_weights(self, state: Floats, model: nn.Module, mask: Mask) -> Floats:
        """The state itself."""
        return state
