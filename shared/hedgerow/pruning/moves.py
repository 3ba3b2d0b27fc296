"""What a change of mask does to the vectors that belong to kept weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hedgerow.pruning.mask import Mask

__all__ = ["Moves"]

Number = TypeVar("Number", bound=np.generic)

_BLOCK = 1 << 17
"""So many weights at once, with a byte each."""


@dataclass(frozen=True, slots=True)
class Moves:
    """How the kept weights of one mask lie among those of another of the same tensors.

    Attributes:
        stays: (old kept,) bool, those that the new mask keeps too.
        stayed: (new kept,) bool, those that the old mask kept too; the others grew.

    >>> import torch
    >>> old, new = (Mask({"w": torch.tensor(bits)}) for bits in ([True, True, False], [False, True, True]))
    >>> Moves.between(old, new).carried(np.array([5.0, 6.0]), grown=0.0).tolist()
    [6.0, 0.0]
    """

    stays: npt.NDArray[np.bool_]
    stayed: npt.NDArray[np.bool_]

    @classmethod
    def between(cls, old: Mask, new: Mask) -> Moves:
        """From `old` to `new`."""
        assert old.shapes == new.shapes, "the masks are of other tensors"
        stays, stayed = np.empty(old.kept, dtype=np.bool_), np.empty(new.kept, dtype=np.bool_)
        left = right = 0
        held, wanted = old.bits(), new.bits()
        for begin in range(0, held.count, _BLOCK):
            end = min(begin + _BLOCK, held.count)
            before, after = held.between(begin, end), wanted.between(begin, end)
            of_old, of_new = after[before], before[after]
            stays[left : left + of_old.size], stayed[right : right + of_new.size] = of_old, of_new
            left, right = left + of_old.size, right + of_new.size
        return cls(stays, stayed)

    @property
    def grown(self) -> int:
        """How many weights the new mask keeps that the old one did not."""
        return int(np.count_nonzero(~self.stayed))

    def carried(self, values: npt.NDArray[Number], *, grown: Any) -> npt.NDArray[Number]:
        """The values, (old kept,), as (new kept,): what stays, and `grown`, one or (grown,), where weights grew."""
        assert values.shape == self.stays.shape
        result = np.empty(self.stayed.shape, dtype=values.dtype)
        result[self.stayed] = values[self.stays]
        result[~self.stayed] = grown
        return result
