"""Budget-aware extrusion: before weights are pruned, training moves what they know into the others.

Weights that are marked are pressed towards 0 in the last steps of a round, or as long as its seconds last (FedMef,
Huang et al. 2024, arXiv 2403.14737). It knows nothing of messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from hedgerow.codec import Bits
from hedgerow.config import ExtrusionSettings

__all__ = ["Extrusion", "extrusion_rate", "rex"]

_TINY = 1e-12


def rex(share: float) -> float:
    """The REX schedule, 2(1 - x) / (2 - x): from 1 where nothing of a budget is spent to 0 where all is.

    Of T steps x is t/T, which gives the paper's (2T - 2t) / (2T - t).

    >>> [round(rex(step / 4), 4) for step in range(4)]
    [1.0, 0.8571, 0.6667, 0.4]
    """
    spent = min(max(share, 0.0), 1.0)
    return 2 * (1 - spent) / (2 - spent)


def extrusion_rate(share: float, *, norm: float, scheduled: float, first: float) -> float:
    """The learning rate of a step: max(scheduled, rex(share)·(2σ(norm) - 1)·first), σ the logistic function.

    It is high at first, and only as long as the marked weights are large.

    Args:
        share: of the budget that is spent before the step.
        norm: Euclidean norm of all marked weights.
        scheduled: the learning rate of the round.
        first: that of the first round.

    >>> round(extrusion_rate(0.0, norm=math.log(3), scheduled=0.01, first=0.1), 6)
    0.05
    >>> extrusion_rate(0.9, norm=math.log(3), scheduled=0.01, first=0.1)
    0.01
    """
    # 2σ(x) - 1 = tanh(x / 2), which no x overflows.
    return max(scheduled, rex(share) * math.tanh(norm / 2) * first)


@dataclass(frozen=True, slots=True)
class Extrusion:
    """What presses marked weights in one round.

    Attributes:
        places: of each tensor of kept weights the marked ones in it, (m,) int64; None where there is none.
        penalty: λ.
        form: λ·‖w‖² of all marked weights, or λ·‖w‖ of those of each tensor.
        steps: the last steps of the round, so many, press; all of them when None.
        seconds: all steps press, and training ends when they are over; no limit when None.
        rate: learning rate of the first round.
    """

    places: Sequence[Tensor | None]
    penalty: float
    form: Literal["squared", "norm"]
    steps: int | None
    seconds: float | None
    rate: float

    @classmethod
    def of(cls, settings: ExtrusionSettings, marks: Bits, *, layers: Sequence[int], rate: float) -> Self:
        """That of the settings.

        Args:
            settings: penalty, form and budget.
            marks: (kept,) bool, see `hedgerow.pruning.marked`.
            layers: numbers of kept weights of the tensors, which add up to kept.
            rate: learning rate of the first round.
        """
        parts = np.split(marks, np.cumsum(layers)[:-1])
        places = [torch.from_numpy(np.flatnonzero(part)) if part.any() else None for part in parts]
        return cls(places, settings.penalty, settings.form, settings.steps, settings.seconds, rate)

    @property
    def held_bytes(self) -> int:
        """What it keeps in memory."""
        return sum(own.numel() * own.element_size() for own in self.places if own is not None)

    def share(self, step: int, *, steps: int, elapsed: float) -> float | None:
        """The fraction of the budget that is spent before a step; None before it begins, 1 and more when it is over.

        Args:
            step: from 0.
            steps: of the round.
            elapsed: seconds since its training began.
        """
        if self.seconds is not None:
            return elapsed / self.seconds
        most = steps if self.steps is None else min(self.steps, steps)
        first = steps - most
        return None if step < first else (step - first) / most

    def norm(self, kept: Sequence[Tensor]) -> float:
        """Euclidean norm of all marked weights."""
        return math.sqrt(math.fsum(float(own.double().square().sum()) for own in self._marked(kept) if own is not None))

    @torch.no_grad()
    def add_to_gradients(self, kept: Sequence[Tensor]) -> None:
        """Adds the penalty's gradient to those of the marked weights: 2λ·w, or λ·w / ‖w‖ within a tensor.

        It is added here and not to the loss: exact, without a graph, and once a batch in however many parts it came.

        Args:
            kept: the tensors of kept weights; only their gradients are changed.
        """
        for tensor, own, places in zip(kept, self._marked(kept), self.places, strict=True):
            if own is None or places is None or tensor.grad is None:
                continue
            if not tensor.grad.is_contiguous():
                # Of dense layers in channels-last order, whose rows could not be told by a flat place.
                tensor.grad = tensor.grad.contiguous()
            size = 0.5 if self.form == "squared" else max(float(own.norm()), _TINY)
            tensor.grad.view(-1).index_add_(0, places, own.to(tensor.grad.dtype), alpha=self.penalty / size)

    def _marked(self, kept: Sequence[Tensor]) -> list[Tensor | None]:
        return [
            None if places is None else tensor.detach().reshape(-1)[places]
            for tensor, places in zip(kept, self.places, strict=True)
        ]
