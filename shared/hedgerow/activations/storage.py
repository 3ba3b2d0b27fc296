"""What a layer keeps of an activation between forward and backward, as an axis.

A storage turns an activation into what is held, and back. There are two kinds, told apart by type:

- `Storage` may drop elements (top-k does). It serves only where a convolution or linear layer keeps its input for its
  weight gradient, which is a sum over many elements.
- `FaithfulStorage` gives every element back close to what it was. Whatever decides element by element (a norm, an
  activation, a prologue that is computed again) needs this one: with elements dropped there, the cosine of gradients
  to the exact ones falls to 0.42.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeAlias

from torch import Tensor

from hedgerow.errors import ConfigError
from hedgerow.seeds import derive_seed

__all__ = ["Activations", "Exact", "FaithfulStorage", "Layers", "Packed", "Storage"]

Layers: TypeAlias = Literal["all", "standardised"]
"""All convolutions and linear layers, or those that compute with standardised weights."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One activation as it is held.

    An autograd function gives `tensors` to `ctx.save_for_backward` and keeps `restore`, so that autograd frees them as
    soon as the layer's backward is through, even while the loss is still alive.

    Attributes:
        tensors: all that is held.
        restore: gives the activation back from these tensors; it holds no tensor itself.
    """

    tensors: tuple[Tensor, ...]
    restore: Callable[[tuple[Tensor, ...]], Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that `tensors` keep alive: those of whole storages, each once."""
        storages = (tensor.untyped_storage() for tensor in self.tensors)
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def unpack(self) -> Tensor:
        """The activation, with the shape, dtype and strides that it had (dense strides where its own had gaps)."""
        return self.restore(self.tensors)


class Storage(Protocol):
    """Holds an activation; elements may come back as 0."""

    def pack(self, x: Tensor) -> Packed:
        """Packs `x`, (N, C, …) floats with any strides, which stays as it is.

        Raises:
            TrainingError: the storage is not exact, and `x` holds a NaN or an infinity.
            ModelError: `x` is of a shape or dtype that this storage cannot hold.
        """
        ...

    def reseed(self, seed: int) -> None:
        """Begins its random draws anew; nothing where it draws none."""
        ...


class FaithfulStorage(Storage, Protocol):
    """Holds an activation, each element of which comes back equal or within a rounding step of its channel."""

    @property
    def faithful(self) -> Literal[True]:
        """Marks the type; top-k does not have it."""
        ...


@dataclass(frozen=True, slots=True)
class Exact:
    """Holds the activation itself, not a copy.

    >>> import torch
    >>> x = torch.ones(2, 3)
    >>> Exact().pack(x).unpack() is x, Exact().pack(x).nbytes
    (True, 24)
    """

    @property
    def faithful(self) -> Literal[True]:
        """True."""
        return True

    def pack(self, x: Tensor) -> Packed:
        """Holds `x`."""
        return Packed((x,), _itself)

    def reseed(self, seed: int) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """How a network stores what its layers keep for the backward.

    Attributes:
        inputs: for the input of a convolution or linear layer, where nothing but its weight gradient reads it.
        values: for all else, such as the input of a norm.
        layers: which layers `inputs` is for; the others store their inputs exactly.
    """

    inputs: Storage = field(default_factory=Exact)
    values: FaithfulStorage = field(default_factory=Exact)
    layers: Layers = "all"

    def __post_init__(self) -> None:
        if getattr(self.values, "faithful", False) is not True:
            raise ConfigError(
                f"{type(self.values).__name__} drops activations and cannot store what norms and activation functions"
                " read again: use it for `inputs` only"
            )

    def of(self, *, standard: bool) -> Activations:
        """How a layer stores that computes with standardised weights, or does not."""
        return self if standard or self.layers == "all" else replace(self, inputs=Exact())

    def reseed(self, seed: int) -> None:
        """Begins the random draws anew, so that a network's next training does not depend on its last one."""
        self.inputs.reseed(derive_seed(seed, "activations", "inputs"))
        self.values.reseed(derive_seed(seed, "activations", "values"))


def _itself(tensors: tuple[Tensor, ...]) -> Tensor:
    (x,) = tensors
    return x
