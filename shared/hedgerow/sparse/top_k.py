"""A buffer of the largest values of a stream."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["TopK"]


class TopK:
    """The k values of largest size among all that are added; of equal ones those at lower positions.

    It holds at most k of them, in 8 bytes each, and while it takes a piece in, those of the piece that are large
    enough. However the values are divided into pieces, and in whatever order these come, the result is the same.

    Args:
        k: how many.
        size: of the largest position and 1; from 2³¹ on a position takes 8 bytes by itself.

    >>> top = TopK(2)
    >>> top.add(torch.tensor([0, 1, 2]), torch.tensor([1.0, -3.0, 2.0]))
    >>> top.add(torch.tensor([3, 4]), torch.tensor([0.5, -2.0]))
    >>> top.result()
    (array([1, 2]), array([-3.,  2.], dtype=float32))
    """

    def __init__(self, k: int, *, size: int = 1 << 31) -> None:
        self.k = k
        self._positions = torch.empty(0, dtype=torch.int32 if size <= 1 << 31 else torch.int64)
        self._values = torch.empty(0)
        self._least = 0.0

    def add(self, positions: Tensor, values: Tensor) -> None:
        """Takes a piece in.

        Args:
            positions: (n,) integers, none of which was added before.
            values: (n,) float32, none of which is NaN.
        """
        if self.k == 0:
            return
        if self._values.numel() == self.k:
            enough = values.abs() >= self._least
            positions, values = positions[enough], values[enough]
        # Each replaces what it is made of at once: there is to be little beside the buffer.
        self._positions = torch.cat((self._positions, positions.to(self._positions.dtype)))
        self._values = torch.cat((self._values, values))
        if self._values.numel() > self.k:
            chosen = _largest(self._positions, self._values, self.k)
            self._positions = self._positions[chosen]
            self._values = self._values[chosen]
        if self._values.numel() == self.k:
            self._least = self._values.abs().min().item()

    def result(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """(m,) positions, ascending, and (m,) values, where m is k, or less if not so many were added."""
        positions, order = self._positions.sort()
        return positions.numpy().astype(np.int64), self._values[order].numpy()


def _largest(positions: Tensor, values: Tensor, k: int) -> Tensor:
    """Where the k largest of more than k values are: (values,) bool."""
    # One partition finds the least of them; what is above it is taken whole, what is equal by position. NumPy's needs
    # no room, where torch's has a place for each value.
    sizes = values.abs()
    sizes.numpy().partition(at := sizes.numel() - k)
    least = sizes[at].item()
    torch.abs(values, out=sizes)
    chosen, equal = sizes > least, (sizes == least).nonzero().view(-1)
    chosen[equal[positions[equal].argsort()[: k - int(chosen.sum())]]] = True
    return chosen
