"""What a client trains and sends, as the operations that both ends need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from hedgerow.activations import Activations
from hedgerow.codec import Bits, Floats, Section, Sections
from hedgerow.pruning import Mask
from hedgerow.sparse import KeptNetwork, Kernels

__all__ = ["Broadcast", "Representation"]


@dataclass(frozen=True, slots=True)
class Broadcast:
    """What the coordinator sends of the kept weights.

    Attributes:
        section: the encoded symbols.
        start: (kept,) float32, what every client reads from them.
    """

    section: Section
    start: Floats


class Representation(ABC):
    """One way to describe, train and send kept weights. `state` is the coordinator's vector, (kept,) float32."""

    __slots__ = ()

    @abstractmethod
    def initial(self, weights: dict[str, Tensor], mask: Mask) -> Floats:
        """The state before any training, from the dense weights at initialization."""

    @abstractmethod
    def broadcast(self, state: Floats) -> Broadcast:
        """What goes to the clients."""

    @abstractmethod
    def receive(self, sections: Sections, kept: int) -> Floats:
        """The client's end of `broadcast`: its `start`.

        Raises:
            PayloadError: the section is missing, of the wrong size or out of bounds.
        """

    @abstractmethod
    def network(
        self,
        model: nn.Module,
        mask: Mask,
        *,
        kernels: Kernels = "auto",
        storage: Activations | None = None,
        recompute: bool = False,
    ) -> KeptNetwork:
        """The trainable network; its `kept` tensors take what `receive` gives.

        Args:
            model: the dense network at initialization.
            mask: the kept positions.
            kernels: what computes its layers (see `sparsify`, as for the rest).
            storage: how it holds what its backward pass needs; as it is when None.
            recompute: whether it runs its blocks again for that.
        """

    @abstractmethod
    def reply(self, trained: Floats, *, start: Floats) -> Section:
        """What the client sends back of its trained vector, which began at `start`."""

    @abstractmethod
    def read_reply(self, sections: Sections, kept: int) -> Bits | Floats:
        """The coordinator's end of `reply`.

        Raises:
            PayloadError: the section is missing, of the wrong size or out of bounds.
        """

    @abstractmethod
    def flips(self, reply: Bits | Floats, *, start: Floats) -> int | None:
        """How many signs a client's reply changes; None where it does not tell."""

    @abstractmethod
    def reply_entropy(self, reply: Bits | Floats, *, start: Floats) -> float:
        """Shannon's bound of a reply in bytes, for a reader who knows `start`."""

    @abstractmethod
    def following(self, state: Floats, *, start: Floats, mean: Floats, scale: float) -> Floats:
        """The state after a round.

        Args:
            state: before it.
            start: what the clients were sent.
            mean: weighted mean of their replies.
            scale: step size of the round as a fraction of the first.
        """

    @abstractmethod
    def kept_weights(self, state: Floats, model: nn.Module, mask: Mask) -> Floats:
        """The weights of the network that a state stands for, (kept,) float32; `model` is the one at initialization."""
