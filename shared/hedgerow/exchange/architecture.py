"""What both ends know of a network without being told: which tensors there are, and which of them are pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
from torch import nn

from hedgerow.codec import TensorShape
from hedgerow.errors import PayloadError
from hedgerow.pruning import prunable_tensors
from hedgerow.sparse import float_names, float_tensors, variance_positions

__all__ = ["Architecture"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The tensors of a network, in the order in which they travel.

    Attributes:
        prunable: shape of each tensor whose weights are pruned, by name.
        floats: shape of each other tensor, by name.
        variances: for each of those whether it holds running variances.
    """

    prunable: Mapping[str, tuple[int, ...]]
    floats: Mapping[str, tuple[int, ...]]
    variances: tuple[bool, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Architecture:
        """That of a dense network, which may be hollow."""
        tensors = float_tensors(model)
        ends = np.cumsum([0, *(t.numel() for t in tensors)])
        positions = variance_positions(model)
        return cls(
            {name: tuple(w.shape) for name, w in prunable_tensors(model).items()},
            {name: tuple(t.shape) for name, t in zip(float_names(model), tensors, strict=True)},
            tuple(bool(positions[a:b].any()) for a, b in pairwise(ends)),
        )

    @property
    def weights(self) -> int:
        """Number of prunable weights."""
        return sum(prod(shape) for shape in self.prunable.values())

    @property
    def float_groups(self) -> list[int]:
        """Number of values of each of the other tensors."""
        return [prod(shape) for shape in self.floats.values()]

    @property
    def float_count(self) -> int:
        """Number of all those values."""
        return sum(self.float_groups)

    def tensors(self) -> tuple[TensorShape, ...]:
        """All of it, as it travels beside a mask."""
        prunable = [TensorShape(name, shape, True) for name, shape in self.prunable.items()]
        return (*prunable, *(TensorShape(name, shape, False) for name, shape in self.floats.items()))

    def require(self, tensors: Sequence[TensorShape]) -> None:
        """Refuses the tensors of another network; none at all are not refused.

        Raises:
            PayloadError: names the first difference.
        """
        if not tensors:
            return
        own = self.tensors()
        for mine, other in zip(own, tensors, strict=False):
            if mine != other:
                raise PayloadError(
                    f"the coordinator's network has {_words(other)} where this one has {_words(mine)}; use its model "
                    "here",
                    kind="mismatch",
                )
        if len(own) != len(tensors):
            raise PayloadError(
                f"the coordinator's network has {len(tensors)} tensors, this one {len(own)}; use its model here",
                kind="mismatch",
            )


def _words(tensor: TensorShape) -> str:
    shape = "×".join(map(str, tensor.shape)) or "a scalar"
    return f"{tensor.name[:80]!r} ({shape}{', pruned' if tensor.prunable else ''})"
