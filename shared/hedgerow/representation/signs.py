"""The representation `signs`: frozen magnitudes and one trained sign a kept weight (HideNseek, arXiv 2206.04385).

The coordinator's state is θ in [-1, 1] for each sign. A client starts its scores at θ, trains them through
a straight-through estimator, and votes with their signs, or with the directions in which they moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.activations import Activations
from hedgerow.codec import (
    SEED_BYTES,
    Bits,
    Floats,
    Levels,
    PackedBits,
    Section,
    Sections,
    Votes,
    binary_entropy_bytes,
    bits_entropy,
    drawn_section,
    levels_entropy,
    levels_section,
    plain_bits_section,
    plain_levels_section,
    read_drawn,
    read_levels,
    read_signs,
    seeded_positions,
    signs_section,
)
from hedgerow.config import AggregationSettings, PrivacySettings, SignSettings, WireSettings
from hedgerow.errors import PayloadError
from hedgerow.privacy import Draw, randomised, unbiased
from hedgerow.pruning import Mask
from hedgerow.representation.base import Heard, Published, Representation, Said
from hedgerow.representation.drift import ternary
from hedgerow.representation.levels import LevelCoder
from hedgerow.sparse import KeptNetwork, Kernels, gather_kept, sparsify
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Signs", "layer_magnitudes"]

_TIE = np.float32(1024)
_BEYOND_ZERO = 1.01
"""Half the distance of levels, and a little: 0 has all that is nearer to it."""


@final
@dataclass(frozen=True, slots=True)
class Signs(Representation):
    """Signs of kept weights over frozen magnitudes."""

    settings: SignSettings
    aggregation: AggregationSettings
    wire: WireSettings = field(default_factory=WireSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)

    @property
    def has_deltas(self) -> bool:
        """Levels, or signs, are told given those of the base."""
        return self._coder.has_deltas

    def initial(self, weights: dict[str, Tensor], mask: Mask) -> Floats:
        """θ = ±initial_vote, with the signs of the weights at initialization."""
        theta: Floats = np.float32(self.settings.initial_vote) * _to_signs(gather_kept(weights, mask) >= 0)
        return theta

    def publish(self, state: Floats, *, layers: Sequence[int]) -> Levels:
        """(kept,) levels of θ, or with `vote` its signs, 1 = positive."""
        if self.aggregation.signs == "vote":
            return (state >= 0).astype(np.uint8)
        return self._coder.publish(state)

    def drop_scores(self, state: Floats, *, mean: Floats | None = None) -> Floats:
        """How sure the clients are of a sign: |θ| over all rounds, |mean vote| in this one, or the larger of both.

        Of equal margins those of a smaller |θ| go first, as few voices give few different ones. Without a mean it is
        |θ|.
        """
        theta: Floats = np.abs(state)
        if mean is None or self.settings.drop == "theta":
            return theta
        margin = np.abs(mean)
        scores: Floats = np.maximum(theta, margin) if self.settings.drop == "both" else margin + theta / _TIE
        return scores.astype(np.float32)

    def grown(self, gradients: Floats) -> Floats:
        """θ = -sign(g) · initial_vote: the sign that lowers the loss, as easy to flip as those at initialization.

        With an odd number of levels it is at least so large that its level is not 0, which reads as +.
        """
        size = self.settings.initial_vote
        if self.aggregation.signs != "vote" and self.aggregation.levels % 2:
            size = max(size, _BEYOND_ZERO / (self.aggregation.levels - 1))
        grown: Floats = np.float32(size) * -np.sign(gradients)
        return grown.astype(np.float32)

    def start(self, published: Published) -> Floats:
        """The θ that levels stand for; ±initial_vote for signs."""
        if self.aggregation.signs == "vote":
            started: Floats = np.float32(self.settings.initial_vote) * _to_signs(published > 0)
            return started
        return self._coder.start(published)

    def encode(self, published: Published, *, base: Published | None, layers: Sequence[int]) -> Section:
        """Levels given the base's levels; with `vote` the signs, or their flips from the base's."""
        if self.aggregation.signs != "vote":
            return self._coder.encode(published, base=base, layers=layers)
        bits = PackedBits.from_bools(published > 0)
        if self.wire.coder == "plain":
            return plain_bits_section(pb.KIND_SIGNS, bits)
        if base is None:
            return signs_section(pb.KIND_SIGNS, bits, groups=layers)
        return signs_section(pb.KIND_FLIPS, bits.xor(PackedBits.from_bools(base > 0)), groups=layers)

    def decode(self, sections: Sections, *, base: Published | None, layers: Sequence[int]) -> Levels:
        """What `publish` gave."""
        if self.aggregation.signs != "vote":
            return self._coder.decode(sections, base=base, layers=layers)
        kept = sum(layers)
        if pb.KIND_FLIPS not in sections:
            return read_signs(sections, pb.KIND_SIGNS, kept, groups=layers).to_bools().astype(np.uint8)
        if base is None:
            raise PayloadError("flips came without a version that they build on", kind="mismatch")
        flips = read_signs(sections, pb.KIND_FLIPS, kept, groups=layers)
        return ((base > 0) ^ flips.to_bools()).astype(np.uint8)

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
        """With `drift` whether each score rose or fell, else whether it is positive, as flips.

        A score that did not move at all abstains where it can, and else votes to stay where it is, so that weights
        without a gradient keep their signs.
        """
        start, kind = self.start(published), self._kind()
        if kind == pb.KIND_DRIFT:
            votes = ternary(trained - start, layers=layers, abstain=self.settings.abstain)
        elif self.aggregation.signs == "drift":
            votes = np.where(trained == start, start >= 0, trained > start).astype(np.uint8)
        else:
            votes = (trained >= 0).astype(np.uint8)
        if self.privacy.vote_epsilon is not None:
            alphabet, epsilon = self._alphabet(), self.privacy.vote_epsilon
            votes = randomised(votes, alphabet=alphabet, epsilon=epsilon, draw=draw)
        if kind == pb.KIND_DRIFT:
            if self.wire.coder == "plain":
                return Said(plain_levels_section(kind, votes, alphabet=3))
            contexts = self._coder.contexts(published, layers=layers)
            return Said(levels_section(kind, votes, alphabet=3, contexts=contexts))
        if self._draws_voters:
            seed = generator.bytes(SEED_BYTES)
            speaks = seeded_positions(seed, votes.size, drop=self.settings.abstain)
            return Said(drawn_section(PackedBits.from_bools(votes[speaks] > 0), seed=seed, count=votes.size))
        if self.wire.coder == "plain":
            return Said(plain_bits_section(pb.KIND_SIGNS, PackedBits.from_bools(votes > 0)))
        if kind == pb.KIND_FLIPS:
            # How sure the last vote was tells how likely a flip is.
            flips = votes ^ (start >= 0).astype(np.uint8)
            contexts = self._coder.contexts(published, layers=layers)
            return Said(levels_section(kind, flips, alphabet=2, contexts=contexts))
        return Said(signs_section(kind, PackedBits.from_bools(votes > 0), groups=layers))

    def read_reply(self, sections: Sections, *, published: Published, layers: Sequence[int]) -> Heard:
        """The votes of one client."""
        kept, contexts = sum(layers), self._coder.contexts(published, layers=layers)
        if self._kind() == pb.KIND_DRIFT:
            symbols = read_levels(sections, pb.KIND_DRIFT, kept, alphabet=3, contexts=contexts)
            return Heard(Votes.from_ternary(symbols), levels_entropy(sections[pb.KIND_DRIFT].coded, symbols, contexts))
        if self._draws_voters:
            voted, speaks = read_drawn(sections, kept, drop=self.settings.abstain)
            return Heard(Votes.of_some(voted, speaks), binary_entropy_bytes(voted.ones(), voted.count))
        before = PackedBits.from_bools(self.start(published) >= 0)
        if pb.KIND_FLIPS in sections and self._kind() == pb.KIND_FLIPS:
            flips = read_levels(sections, pb.KIND_FLIPS, kept, alphabet=2, contexts=contexts)
            votes = PackedBits.from_bools(flips > 0).xor(before)
            entropy = levels_entropy(sections[pb.KIND_FLIPS].coded, flips, contexts)
            return Heard(Votes.of(votes), entropy, int(np.count_nonzero(flips)))
        votes = read_signs(sections, pb.KIND_SIGNS, kept, groups=layers)
        if self.aggregation.signs == "drift":
            return Heard(Votes.of(votes), bits_entropy(votes, layers))
        turned = votes.xor(before)
        return Heard(Votes.of(votes), bits_entropy(turned, layers), turned.ones())

    def following(self, state: Floats, *, start: Floats, mean: Floats, scale: float, round: int = 1) -> Floats:
        """θ after a round.

        `drift`: θ is the score of a central training whose update is the mean of the clients' signs of update (as in
        signSGD with a mean vote, Bernstein et al. 2018, arXiv 1802.04434, after local steps).

        `innovation`: if a score ends a client's training normally distributed around θ with standard deviation σ, its
        sign is positive with probability Φ(θ/σ), so that the mean vote is expected at erf(θ / (√2·σ)). θ moves by what
        was not expected. It integrates over rounds what one bit a client cannot say in one.
        """
        aggregation, epsilon = self.aggregation, self.privacy.vote_epsilon
        if epsilon is not None:
            mean = unbiased(mean, alphabet=self._alphabet(), epsilon=epsilon)
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

    @property
    def _coder(self) -> LevelCoder:
        return LevelCoder(2 if self.aggregation.signs == "vote" else self.aggregation.levels, self.wire)

    @property
    def _draws_voters(self) -> bool:
        return self.settings.abstain > 0 and self.settings.voters == "random"

    def _kind(self) -> pb.Kind:
        if self.aggregation.signs == "drift":
            return pb.KIND_SIGNS if not self.settings.abstain or self._draws_voters else pb.KIND_DRIFT
        return pb.KIND_FLIPS

    def _alphabet(self) -> int:
        return 3 if self._kind() == pb.KIND_DRIFT else 2


def layer_magnitudes(model: nn.Module, mask: Mask, *, kind: str) -> dict[str, Tensor]:
    """Frozen sizes of the kept weights, a () or (k,) float32 tensor for each prunable layer.

    Args:
        model: the network at initialization.
        mask: the kept positions.
        kind: `constant`: √(2 / kept fan-in), He et al. 2015 with the fan-in that is left, averaged over the outputs
            (after SynFlow, which would see equal scores in a layer of equal weights); `dense`: √(2 / fan-in) of the
            dense layer; `random`: |w| at initialization.
    """
    if kind == "random":
        weights = dict(model.named_parameters())
        return {name: weights[name].detach().flatten().index_select(0, mask.kept_index(name)).abs() for name in mask}
    if kind == "dense":
        fan_in = {name: float(math.prod(shape[1:])) for name, shape in mask.shapes.items()}
    else:
        fan_in = {name: kept / mask.shapes[name][0] for name, kept in mask.layer_kept().items()}
    return {name: torch.tensor(math.sqrt(2 / max(fan, 1.0))) for name, fan in fan_in.items()}


def _to_signs(positive: Bits) -> Floats:
    return np.where(positive, np.float32(1), np.float32(-1))
