"""The representation `signs`: frozen magnitudes and one trained sign a kept weight (HideNseek, arXiv 2206.04385).

The coordinator's state is θ in [-1, 1] for each sign. A client starts its scores at θ, trains them through
a straight-through estimator, and votes with their signs: one bit a kept weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.activations import Activations
from hedgerow.codec import (
    Bits,
    Floats,
    Levels,
    Section,
    Sections,
    binary_entropy_bytes,
    read_signs,
    read_votes,
    signs_section,
    votes_section,
)
from hedgerow.config import AggregationSettings, SignSettings
from hedgerow.pruning import Mask
from hedgerow.representation.base import Broadcast, Representation
from hedgerow.sparse import KeptNetwork, Kernels, gather_kept, sparsify

__all__ = ["Signs", "dequantised", "layer_magnitudes", "quantised"]


@final
@dataclass(frozen=True, slots=True)
class Signs(Representation):
    """Signs of kept weights over frozen magnitudes."""

    settings: SignSettings
    aggregation: AggregationSettings

    def initial(self, weights: dict[str, Tensor], mask: Mask) -> Floats:
        """θ = ±initial_vote, with the signs of the weights at initialization."""
        theta: Floats = np.float32(self.settings.initial_vote) * _to_signs(gather_kept(weights, mask) >= 0)
        return theta

    def broadcast(self, state: Floats) -> Broadcast:
        """θ in levels, or with `vote` only its sign."""
        if self.aggregation.signs == "vote":
            positive = state >= 0
            return Broadcast(signs_section(positive), start=self._voted(positive))
        symbols = quantised(state, levels=self.aggregation.levels)
        section = votes_section(symbols, levels=self.aggregation.levels)
        return Broadcast(section, start=dequantised(symbols, levels=self.aggregation.levels))

    def receive(self, sections: Sections, kept: int) -> Floats:
        """What `broadcast` calls `start`."""
        if self.aggregation.signs == "vote":
            return self._voted(read_signs(sections, kept))
        levels = self.aggregation.levels
        return dequantised(read_votes(sections, kept, levels=levels), levels=levels)

    def network(
        self,
        model: nn.Module,
        mask: Mask,
        *,
        kernels: Kernels = "auto",
        storage: Activations | None = None,
        recompute: bool = False,
    ) -> KeptNetwork:
        """Layers of scores over the magnitudes of `model`'s mask."""
        return sparsify(
            model,
            mask,
            magnitudes=layer_magnitudes(model, mask, kind=self.settings.magnitude),
            estimator=self.settings.gradient,
            kernels=kernels,
            storage=storage,
            recompute=recompute,
        )

    def reply(self, trained: Floats, *, start: Floats) -> Section:
        """One bit a kept weight: with `drift` whether its score rose, else whether it is positive.

        A score that did not move at all votes to stay where it is, so that weights without a gradient keep their signs.
        """
        if self.aggregation.signs == "drift":
            return signs_section(np.where(trained == start, start >= 0, trained > start))
        return signs_section(trained >= 0)

    def read_reply(self, sections: Sections, kept: int) -> Bits:
        """The votes of one client, True = positive."""
        return read_signs(sections, kept)

    def flips(self, reply: Bits | Floats, *, start: Floats) -> int | None:
        """How many signs a client changed; `drift` does not tell."""
        return None if self.aggregation.signs == "drift" else int(np.count_nonzero(reply != (start >= 0)))

    def reply_entropy(self, reply: Bits | Floats, *, start: Floats) -> float:
        """Signs are known up to the flips; drifts are not known at all."""
        flips = self.flips(reply, start=start)
        return binary_entropy_bytes(int(np.count_nonzero(reply)) if flips is None else flips, reply.size)

    def following(self, state: Floats, *, start: Floats, mean: Floats, scale: float) -> Floats:
        """θ after a round.

        `drift`: θ is the score of a central training whose update is the mean of the clients' signs of update (as in
        signSGD with a mean vote, Bernstein et al. 2018, arXiv 1802.04434, after local steps).

        `innovation`: if a score ends a client's training normally distributed around θ with standard deviation σ, its
        sign is positive with probability Φ(θ/σ), so that the mean vote is expected at erf(θ / (√2·σ)). θ moves by what
        was not expected. It integrates over rounds what one bit a client cannot say in one.
        """
        aggregation = self.aggregation
        if aggregation.signs == "drift":
            drifted: Floats = np.clip(state + np.float32(aggregation.gain * scale) * mean, -1, 1)
            return drifted
        if aggregation.signs == "innovation":
            expected = torch.erf(torch.from_numpy(start) / (math.sqrt(2) * aggregation.spread)).numpy()
            moved: Floats = np.clip(state + np.float32(aggregation.gain) * (mean - expected), -1, 1)
            return moved
        memory = np.float32(aggregation.memory)
        blended: Floats = memory * state + (1 - memory) * mean
        return blended

    def kept_weights(self, state: Floats, model: nn.Module, mask: Mask) -> Floats:
        """magnitude · sign(θ), with sign(0) = +1: the network that the run delivers."""
        sizes = layer_magnitudes(model, mask, kind=self.settings.magnitude)
        flat = [sizes[name].expand(count).numpy() for name, count in mask.layer_kept().items()]
        weights: Floats = _to_signs(state >= 0) * np.concatenate(flat)
        return weights

    def _voted(self, positive: Bits) -> Floats:
        start: Floats = np.float32(self.settings.initial_vote) * _to_signs(positive)
        return start


def layer_magnitudes(model: nn.Module, mask: Mask, *, kind: str) -> dict[str, Tensor]:
    """Frozen sizes of the kept weights, a () or (k,) float32 tensor for each prunable layer.

    Args:
        model: the network at initialization.
        mask: the kept positions.
        kind: `constant`: √(2 / kept fan-in), He et al. 2015 with the fan-in that is left, averaged over the outputs
            (after SynFlow, which would see equal scores in a layer of equal weights); `random`: |w| at initialization.
    """
    index = mask.kept_indices()
    if kind == "random":
        weights = dict(model.named_parameters())
        return {name: weights[name].detach().flatten()[i.long()].abs() for name, i in index.items()}
    fan_in = {name: i.numel() / mask.shapes[name][0] for name, i in index.items()}
    return {name: torch.tensor(math.sqrt(2 / max(fan, 1.0))) for name, fan in fan_in.items()}


def quantised(theta: Floats, *, levels: int) -> Levels:
    """Uniform quantiser of [-1, 1]: the nearest of `levels` symbols. With an even number of levels signs are kept.

    >>> quantised(np.array([-1, -0.1, 0.1, 1], dtype=np.float32), levels=4).tolist()
    [0, 1, 2, 3]
    """
    # Levels lie at half steps around 0 when their number is even. Rounding is never across 0 then, as it would be with
    # rint(theta + 1), and a split vote, 0, reads as +1 like everywhere else.
    steps = theta * np.float32((levels - 1) / 2) + np.float32(0.5 * (levels % 2))
    symbols: Levels = (np.floor(steps) + levels // 2).astype(np.uint8)
    return symbols


def dequantised(symbols: Levels, *, levels: int) -> Floats:
    """The values that symbols stand for.

    >>> dequantised(np.array([0, 3], dtype=np.uint8), levels=4).tolist()
    [-1.0, 1.0]
    """
    return symbols.astype(np.float32) * np.float32(2 / (levels - 1)) - np.float32(1)


def _to_signs(positive: Bits) -> Floats:
    return np.where(positive, np.float32(1), np.float32(-1))
