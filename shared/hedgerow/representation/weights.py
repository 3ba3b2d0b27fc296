"""The representation `weights`: the kept weights themselves; dense and in float32, it is federated averaging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from torch import Tensor, nn

from hedgerow.activations import Activations
from hedgerow.codec import Floats, Section, Sections
from hedgerow.config import PrivacySettings, WireSettings
from hedgerow.privacy import Draw
from hedgerow.pruning import Mask
from hedgerow.representation.base import Heard, Published, Representation, Said
from hedgerow.representation.values import Values
from hedgerow.sparse import KeptNetwork, Kernels, gather_kept, sparsify
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Weights"]


@final
@dataclass(frozen=True, slots=True)
class Weights(Representation):
    """Float values of the kept weights."""

    wire: WireSettings = field(default_factory=WireSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)

    @property
    def has_deltas(self) -> bool:
        """Differences are told of all but float32."""
        return self._values.has_deltas

    def initial(self, weights: dict[str, Tensor], mask: Mask) -> Floats:
        """The kept weights at initialization."""
        return gather_kept(weights, mask)

    def publish(self, state: Floats, *, layers: Sequence[int]) -> Published:
        """The values in the precision of `wire.down`."""
        return self._values.publish(state, groups=layers)

    def drop_scores(self, state: Floats, *, mean: Floats | None = None) -> Floats:
        """|w|, as RigL has it (Evci et al. 2020, arXiv 1911.11134); the state is the mean."""
        scores: Floats = np.abs(state)
        return scores

    def grown(self, gradients: Floats) -> Floats:
        """0: what grows changes nothing before it is trained."""
        return np.zeros(gradients.shape, dtype=np.float32)

    def start(self, published: Published) -> Floats:
        """Those values."""
        return self._values.start(published)

    def encode(self, published: Published, *, base: Published | None, layers: Sequence[int]) -> Section:
        """Those values, or their differences."""
        return self._values.encode(published, base=base, groups=layers)

    def decode(self, sections: Sections, *, base: Published | None, layers: Sequence[int]) -> Published:
        """What `publish` gave."""
        return self._values.decode(sections, base=base, groups=layers)

    def network(
        self,
        model: nn.Module,
        mask: Mask,
        *,
        kernels: Kernels = "auto",
        storage: Activations | None = None,
        recompute: bool = False,
    ) -> KeptNetwork:
        """Layers of kept weights; layers that the mask keeps whole are the dense ones."""
        return sparsify(model, mask, kernels=kernels, storage=storage, recompute=recompute)

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
        """The trained values, or their changes."""
        relative = [False] * len(layers)
        return self._values.reply(
            trained,
            published=published,
            groups=layers,
            relative=relative,
            memory=memory,
            generator=generator,
            draw=draw,
        )

    def read_reply(self, sections: Sections, *, published: Published, layers: Sequence[int]) -> Heard:
        """The trained values of one client."""
        return self._values.read_reply(sections, published=published, groups=layers, relative=[False] * len(layers))

    def following(self, state: Floats, *, start: Floats, mean: Floats, scale: float, round: int = 1) -> Floats:
        """The mean (McMahan et al. 2017); what it has over what clients were told, where that was rounded to a step.

        Of half precisions rounding is less than what a round changes; of a step it is more, and would undo it.
        """
        return state + (mean - start) if self.wire.down == "uniform" else mean

    def kept_weights(self, state: Floats, model: nn.Module, mask: Mask) -> Floats:
        """The state itself."""
        return state

    @property
    def _values(self) -> Values:
        return Values(pb.KIND_WEIGHTS, self.wire, self.privacy, self.wire.drop)
