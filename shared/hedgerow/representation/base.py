"""What a client trains and sends of the kept weights, as the operations that both ends need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hedgerow.activations import Activations
from hedgerow.codec import Floats, Section, Sections, Votes
from hedgerow.privacy import Draw
from hedgerow.pruning import Mask
from hedgerow.sparse import KeptNetwork, Kernels

__all__ = ["Heard", "Published", "Representation", "Said"]

Published: TypeAlias = npt.NDArray[Any]
"""(n,) integers or floats: what a version says, exactly the same at both ends."""


@dataclass(frozen=True, slots=True)
class Said:
    """A client's reply about one vector.

    Attributes:
        section: the encoded symbols.
        memory: (n,) float32, what rounding left over, for the client's next reply; None where nothing is kept.
    """

    section: Section
    memory: Floats | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What the coordinator reads from such a reply.

    Attributes:
        values: votes or values of each element.
        entropy: Shannon's bound in bytes for a reader who knows the version and the contexts that the codec uses.
        flips: how many signs the reply changes; None where it does not tell.
    """

    values: Votes | Floats
    entropy: float
    flips: int | None = None


class Representation(ABC):
    """One way to describe, train and send kept weights. `state` is the coordinator's vector, (kept,) float32.

    `layers` are the numbers of kept weights of the prunable tensors; they add up to `kept`.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def has_deltas(self) -> bool:
        """Whether `encode` makes use of a base."""

    @abstractmethod
    def initial(self, weights: dict[str, Tensor], mask: Mask) -> Floats:
        """The state before any training, from the dense weights at initialization."""

    @abstractmethod
    def publish(self, state: Floats, *, layers: Sequence[int]) -> Published:
        """What a version says of a state; `layers` as of the class."""

    def filler(self) -> Published:
        """(1,) what stands for a weight that just grew, where a base is carried to a new mask; the same at both ends.

        It is what `publish` says of 0, whatever the weight grows to, which a device may not know.
        """
        return self.publish(np.zeros(1, dtype=np.float32), layers=[1])

    @abstractmethod
    def drop_scores(self, state: Floats, *, mean: Floats | None = None) -> Floats:
        """(kept,) float32, at least 0: how much each kept weight matters; the smallest are pruned first.

        Args:
            state: see above.
            mean: (kept,) of the replies that it came from, if they are to have a say.
        """

    @abstractmethod
    def grown(self, gradients: Floats) -> Floats:
        """The state of weights that grow, (k,) float32, from the mean gradients at their positions, (k,)."""

    @abstractmethod
    def start(self, published: Published) -> Floats:
        """(kept,) float32, what every client's training starts from."""

    @abstractmethod
    def encode(self, published: Published, *, base: Published | None, layers: Sequence[int]) -> Section:
        """What goes to a client that holds the version `base`, or none."""

    @abstractmethod
    def decode(self, sections: Sections, *, base: Published | None, layers: Sequence[int]) -> Published:
        """The client's end of `encode`.

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
        """The trainable network; its `kept` tensors take what `start` gives.

        Args:
            model: the dense network at initialization.
            mask: the kept positions.
            kernels: what computes its layers (see `sparsify`, as for the rest).
            storage: how it holds what its backward pass needs; as it is when None.
            recompute: whether it runs its blocks again for that.
        """

    @abstractmethod
    def reply(
        self,
        trained: Floats,
        *,
        published: Published,
        layers: Sequence[int],
        memory: Floats | None,
        generator: np.random.Generator,
        draw: Draw,
    ) -> Said:
        """What the client sends back of its trained vector.

        Args:
            trained: (kept,) float32.
            published: the version that training began with.
            layers: see above.
            memory: what its last reply left over; None when there is none.
            generator: decides what is random in a reply.
            draw: where the noise of privacy comes from.
        """

    @abstractmethod
    def read_reply(self, sections: Sections, *, published: Published, layers: Sequence[int]) -> Heard:
        """The coordinator's end of `reply`.

        Raises:
            PayloadError: the section is missing, of the wrong size or out of bounds.
        """

    @abstractmethod
    def following(self, state: Floats, *, start: Floats, mean: Floats, scale: float, round: int = 1) -> Floats:
        """The state after a round.

        Args:
            state: before it.
            start: what the clients started from.
            mean: weighted mean of their replies.
            scale: step size of the round as a fraction of the first.
            round: its number, from 1.
        """

    @abstractmethod
    def kept_weights(self, state: Floats, model: nn.Module, mask: Mask) -> Floats:
        """The weights of the network that a state stands for, (kept,) float32; `model` is the one at initialization."""
