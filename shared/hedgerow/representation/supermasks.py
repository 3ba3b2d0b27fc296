"""The representation `supermask`: frozen random weights, and a trained probability to keep each.

It is FedPM (Isik et al. 2023, "Sparse Random Networks for Communication-Efficient Federated Learning", ICLR, arXiv
2209.15328).

The coordinator's state is θ in [0, 1] for each weight that the mask keeps. A client starts its scores at logit(θ),
trains them through masks that are drawn anew for each batch, and sends one mask that it draws in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.activations import Activations
from hedgerow.codec import (
    Bits,
    Floats,
    Levels,
    PackedBits,
    Section,
    Sections,
    Votes,
    bits_entropy,
    expected,
    levels_entropy,
    levels_section,
    plain_bits_section,
    read_levels,
    read_signs,
)
from hedgerow.config import AggregationSettings, PrivacySettings, SupermaskSettings, WireSettings
from hedgerow.privacy import Draw, randomised, unbiased
from hedgerow.pruning import Mask
from hedgerow.representation.base import Heard, Published, Representation, Said
from hedgerow.representation.levels import LevelCoder
from hedgerow.representation.signs import layer_magnitudes
from hedgerow.seeds import numpy_generator
from hedgerow.sparse import KeptNetwork, Kernels, sparsify
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Supermasks", "frozen_weights"]

_EDGE = np.float32(0.01)
"""How near to 0 and 1 training starts, as in the authors' program: at 0 and 1 a score would be infinite."""


@final
@dataclass(frozen=True, slots=True)
class Supermasks(Representation):
    """Which of the frozen weights that the mask keeps are there, as probabilities.

    Attributes:
        settings: of the representation.
        aggregation: its `levels` are those of θ in the broadcast.
        wire: how it travels.
        privacy: what is done to the bits of a drawn mask.
        seed: decides which mask the coordinator draws to evaluate and deliver.
    """

    settings: SupermaskSettings
    aggregation: AggregationSettings = field(default_factory=AggregationSettings)
    wire: WireSettings = field(default_factory=WireSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    seed: int = 0

    @property
    def has_deltas(self) -> bool:
        """Levels are told given those of the base."""
        return self._coder.has_deltas

    def initial(self, weights: dict[str, Tensor], mask: Mask) -> Floats:
        """θ = 1/2, of which nothing is known yet."""
        return np.full(mask.kept, 0.5, dtype=np.float32)

    def publish(self, state: Floats, *, layers: Sequence[int]) -> Levels:
        """(kept,) levels of θ, uniform over [0, 1]."""
        return self._coder.publish(2 * state - 1)

    def drop_scores(self, state: Floats, *, mean: Floats | None = None) -> Floats:
        """θ."""
        return state.copy()

    def grown(self, gradients: Floats) -> Floats:
        """θ = 1/2, as at first."""
        return np.full(gradients.shape, 0.5, dtype=np.float32)

    def start(self, published: Published) -> Floats:
        """The scores logit(θ) = log(θ / (1 - θ)) of the θ that levels stand for, but at least 0.01 from 0 and 1."""
        theta = (self._coder.start(published) + np.float32(1)) / np.float32(2)
        theta = np.clip(theta, _EDGE, 1 - _EDGE)
        scores: Floats = np.log(theta / (1 - theta))
        return scores

    def encode(self, published: Published, *, base: Published | None, layers: Sequence[int]) -> Section:
        """Levels given the base's levels."""
        return self._coder.encode(published, base=base, layers=layers)

    def decode(self, sections: Sections, *, base: Published | None, layers: Sequence[int]) -> Levels:
        """What `publish` gave."""
        return self._coder.decode(sections, base=base, layers=layers)

    def network(
        self,
        model: nn.Module,
        mask: Mask,
        *,
        kernels: Kernels = "auto",
        storage: Activations | None = None,
        recompute: bool = False,
    ) -> KeptNetwork:
        """Layers of scores over the frozen weights of `model`, which has to have its weights."""
        return sparsify(
            model,
            mask,
            magnitudes=frozen_weights(model, mask),
            estimator="sampled",
            kernels=kernels,
            storage=storage,
            recompute=recompute,
        )

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
        """One mask drawn with the probabilities sigmoid(score); coded given the broadcast θ, which both ends know."""
        theta = torch.sigmoid(torch.from_numpy(trained)).numpy()
        bits: Levels = _drawn(theta, generator).astype(np.uint8)
        if self.privacy.vote_epsilon is not None:
            bits = randomised(bits, alphabet=2, epsilon=self.privacy.vote_epsilon, draw=draw)
        if self.wire.coder == "plain":
            return Said(plain_bits_section(pb.KIND_SIGNS, PackedBits.from_bools(bits > 0)))
        contexts = self._coder.contexts(published, layers=layers)
        return Said(levels_section(pb.KIND_SIGNS, bits, alphabet=2, contexts=contexts))

    def read_reply(self, sections: Sections, *, published: Published, layers: Sequence[int]) -> Heard:
        """The mask of one client, as votes."""
        section = expected(sections, pb.KIND_SIGNS, sum(layers))
        if section.codec not in (pb.CODEC_SYMBOLS_RANS, pb.CODEC_BYTES_ZSTD):
            votes = read_signs(sections, pb.KIND_SIGNS, sum(layers), groups=layers)
            return Heard(Votes.of(votes), bits_entropy(votes, layers))
        contexts = self._coder.contexts(published, layers=layers)
        bits = read_levels(sections, pb.KIND_SIGNS, sum(layers), alphabet=2, contexts=contexts)
        entropy = levels_entropy(section.coded, bits, contexts)
        return Heard(Votes.of(PackedBits.from_bools(bits > 0)), entropy)

    def following(self, state: Floats, *, start: Floats, mean: Floats, scale: float, round: int = 1) -> Floats:
        """θ after a round: the share of masks that keep a weight, over the rounds since the prior began anew.

        It is the mode of the posterior of algorithm 2, (α - 1) / (α + β - 2), where α and β begin at 1 and count masks;
        here each mask counts as its client's samples do, and each round as much as another.
        """
        if self.privacy.vote_epsilon is not None:
            mean = unbiased(mean, alphabet=2, epsilon=self.privacy.vote_epsilon)
        share = np.clip((mean + 1) / 2, 0, 1)
        before = (round - 1) % self.settings.reset
        theta: Floats = ((before * state + share) / (before + 1)).astype(np.float32)
        return theta

    def kept_weights(self, state: Floats, model: nn.Module, mask: Mask) -> Floats:
        """The frozen weights of one mask drawn with the probabilities θ, and 0 elsewhere: what the run delivers.

        It is drawn from the same numbers each time, so that equal states are equal networks.
        """
        frozen = np.concatenate([weights.numpy() for weights in frozen_weights(model, mask).values()])
        kept: Floats = np.where(_drawn(state, numpy_generator(self.seed, "supermask")), frozen, np.float32(0))
        return kept

    @property
    def _coder(self) -> LevelCoder:
        return LevelCoder(self.aggregation.levels, self.wire)


def frozen_weights(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    """±√(2 / kept fan-in) for each kept weight, with the sign that it has at initialization: (k,) float32 by name.

    These are signed Kaiming constants (Ramanujan et al. 2020, arXiv 1911.13299), as section 4 of FedPM takes them.

    Args:
        model: the network at initialization.
        mask: the kept positions.
    """
    sizes = layer_magnitudes(model, mask, kind="constant")
    weights = dict(model.named_parameters())
    return {name: torch.where(_kept(weights[name], mask, name) >= 0, size, -size) for name, size in sizes.items()}


def _kept(weight: Tensor, mask: Mask, name: str) -> Tensor:
    return weight.detach().flatten().index_select(0, mask.kept_index(name))


def _drawn(theta: Floats, generator: np.random.Generator) -> Bits:
    drawn: Bits = generator.random(theta.size, dtype=np.float32) < theta
    return drawn
