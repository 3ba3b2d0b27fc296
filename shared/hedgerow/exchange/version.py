"""Versions: what a round's request says, whole or as what changed since a version that the reader holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hedgerow.codec import (
    Bits,
    Floats,
    Section,
    Sections,
    mask_delta_section,
    mask_section,
    plain_mask_section,
    read_mask,
    read_mask_delta,
)
from hedgerow.config import Experiment, PrivacySettings, WireSettings
from hedgerow.errors import PayloadError
from hedgerow.exchange.architecture import Architecture
from hedgerow.privacy import Draw
from hedgerow.pruning import Mask
from hedgerow.pruning.moves import Moves
from hedgerow.representation import Heard, Published, Representation, Said, Values
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Exchange", "Version", "floats_of"]


@dataclass(frozen=True, slots=True)
class Version:
    """What a round's request says; the same, to the bit, at both ends and whatever it was coded against.

    Attributes:
        round: its number.
        mask_digest: 16 bytes, the mask that it is about.
        kept: (kept,) what it says of the kept weights; see `Representation.publish`.
        floats: (floats,) what it says of what is never pruned.
    """

    round: int
    mask_digest: bytes
    kept: Published
    floats: Published


@dataclass(frozen=True, slots=True)
class Exchange:
    """What the two ends of an experiment say to each other about one network.

    Attributes:
        architecture: the network's tensors.
        representation: of the kept weights.
        floats: how what is never pruned travels.
        since: the first round whose versions say the kept weights so.
        seeds: of the draws that a mask may have come of, so that it can be told as one of them.
    """

    architecture: Architecture
    representation: Representation
    floats: Values
    since: int = 1
    seeds: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        experiment: Experiment,
        *,
        architecture: Architecture,
        representation: Representation,
        seeds: tuple[int, ...] = (),
    ) -> Exchange:
        """That of an experiment, or of those of its rounds that `Experiment.at` gives the settings of."""
        floats = floats_of(experiment.wire, experiment.privacy)
        return cls(architecture, representation, floats, since=experiment.first_round, seeds=seeds)

    @property
    def plain(self) -> bool:
        """Whether nothing is entropy-coded."""
        return self.floats.wire.coder == "plain"

    @property
    def remembers(self) -> bool:
        """Whether a version can be told as what changed since an older one, so that both ends remember some.

        A mask can be told so wherever coding is not plain: a device always has its last one.
        """
        wanted = self.floats.wire.history > 0 and not self.plain
        return wanted and (self.representation.has_deltas or self.floats.has_deltas)

    def version(
        self, round: int, mask_digest: bytes, *, kept: Floats, floats: Floats, layers: Sequence[int]
    ) -> Version:
        """What round `round` says of the coordinator's state; `layers` are numbers of kept weights of the tensors."""
        groups = self.architecture.float_groups
        said = self.representation.publish(kept, layers=layers)
        return Version(round, mask_digest, said, self.floats.publish(floats, groups=groups))

    def part(self, whole: Version, mask_digest: bytes, *, places: Bits, floats: Floats) -> Version:
        """What a version says to those who keep a part: of each weight what it says to the others, whose replies are
        averaged with theirs.

        Args:
            whole: the version of all weights.
            mask_digest: of the part's mask.
            places: (kept,) bool, the part.
            floats: (floats,) float32, which may be its own.
        """
        said = self.floats.publish(floats, groups=self.architecture.float_groups)
        return Version(whole.round, mask_digest, whole.kept[places], said)

    def starts(self, version: Version) -> tuple[Floats, Floats]:
        """What training starts from: (kept,) and (floats,) float32."""
        return self.representation.start(version.kept), self.floats.start(version.floats)

    def encode(self, version: Version, *, base: Version | None, layers: Sequence[int]) -> list[Section]:
        """A version for a reader who holds `base`, or none."""
        before = (None, None) if base is None else (base.kept, base.floats)
        groups = self.architecture.float_groups
        return [
            self.representation.encode(version.kept, base=before[0], layers=layers),
            self.floats.encode(version.floats, base=before[1], groups=groups),
        ]

    def decode(
        self, sections: Sections, *, round: int, mask_digest: bytes, base: Version | None, layers: Sequence[int]
    ) -> Version:
        """Inverse of `encode`.

        Raises:
            PayloadError: a section is missing, damaged, or of another size.
        """
        before = (None, None) if base is None else (base.kept, base.floats)
        groups = self.architecture.float_groups
        kept = self.representation.decode(sections, base=before[0], layers=layers)
        return Version(round, mask_digest, kept, self.floats.decode(sections, base=before[1], groups=groups))

    def carried(self, version: Version, moves: Moves, *, mask_digest: bytes) -> Version:
        """A version of an old mask as one that a version of a new mask can be coded against, the same at both ends.

        Args:
            version: of the old mask.
            moves: from the old mask to the new one.
            mask_digest: that of the new one.
        """
        kept = moves.carried(version.kept, grown=self.representation.filler())
        return replace(version, mask_digest=mask_digest, kept=kept)

    def encode_mask(self, mask: Mask, *, base: Mask | None = None) -> Section:
        """A mask; for a reader who holds `base`, unless coding is plain, what it gains and loses against that one."""
        if base is not None:
            assert not self.plain, "nothing is told as a change"
            return mask_delta_section(mask.bits(), base.bits())
        if self.plain:
            return plain_mask_section(mask.bits())
        return mask_section(mask.bits(), shapes=list(self.architecture.prunable.values()), seeds=self.seeds)

    def decode_mask(self, sections: Sections, *, base: Mask | None = None) -> Mask:
        """Inverse of `encode_mask`: from the whole mask, or with `base` from what changed.

        Raises:
            PayloadError: the section is missing, damaged, or of another size.
        """
        shapes = self.architecture.prunable
        if base is None:
            bits = read_mask(sections, self.architecture.weights, shapes=list(shapes.values()))
        else:
            bits = read_mask_delta(sections, base.bits())
        return Mask.unpack(bits.data.tobytes(), shapes)

    def reply(
        self,
        kept: Floats,
        floats: Floats,
        *,
        version: Version,
        layers: Sequence[int],
        memory: tuple[Floats | None, Floats | None],
        generator: np.random.Generator,
        draw: Draw,
    ) -> tuple[Said, Said]:
        """What a client says of the two vectors that it trained from `version`, and what rounding left over of each."""
        architecture = self.architecture
        return (
            self.representation.reply(
                kept, published=version.kept, layers=layers, memory=memory[0], generator=generator, draw=draw
            ),
            self.floats.reply(
                floats,
                published=version.floats,
                groups=architecture.float_groups,
                relative=architecture.variances,
                memory=memory[1],
                generator=generator,
                draw=draw,
            ),
        )

    def read_reply(self, sections: Sections, *, version: Version, layers: Sequence[int]) -> tuple[Heard, Heard]:
        """Inverse of `reply`: the kept weights' votes or values, and the floats.

        Raises:
            PayloadError: a section is missing, damaged, of another size, or a variance is negative.
        """
        architecture = self.architecture
        kept = self.representation.read_reply(sections, published=version.kept, layers=layers)
        floats = self.floats.read_reply(
            sections, published=version.floats, groups=architecture.float_groups, relative=architecture.variances
        )
        assert isinstance(floats.values, np.ndarray)
        if (floats.values[self._variances()] < 0).any():
            raise PayloadError("a variance is negative", kind="bounds")
        return kept, floats

    def _variances(self) -> np.ndarray:
        return np.repeat(np.asarray(self.architecture.variances, dtype=np.bool_), self.architecture.float_groups)


def floats_of(wire: WireSettings, privacy: PrivacySettings) -> Values:
    """How what is never pruned travels. Nothing of it is dropped or told in steps: there is little of it, and all of it
    matters.
    """
    if wire.down == "uniform":
        wire = wire.model_copy(update={"down": "bf16"})
    return Values(pb.KIND_FLOATS, wire, privacy)
