"""What a change of mask does to the vectors that belong to kept weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hedgerow.pruning.mask import Mask

__all__ = ["Moves"]

Number = TypeVar("Number", bound=np.generic)


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
        before, after = old.flat(), new.flat()
        return cls(after[before], before[after])

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
