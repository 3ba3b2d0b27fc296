"""Vectors of floats as they travel: versions in some precision or as multiples of a step, replies as values or as
quantised changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hedgerow.codec import (
    SEED_BYTES,
    Bits,
    Coded,
    Floats,
    Section,
    Sections,
    applied,
    decode_multiples,
    decode_ordered,
    decode_values,
    dropped,
    encode_multiples,
    encode_ordered,
    encode_values,
    expected,
    from_ordered,
    kept_groups,
    multiples_of,
    seeded_positions,
    to_ordered,
    update_of,
    value_codec,
    values_entropy,
    values_of,
)
from hedgerow.config import PrivacySettings, WireSettings
from hedgerow.errors import PayloadError
from hedgerow.privacy import Draw, clipped, noised
from hedgerow.representation.base import Heard, Published, Said
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Values"]

_ORDERED = (pb.CODEC_ORDERED16, pb.CODEC_ORDERED_BFLOAT16)


@dataclass(frozen=True, slots=True)
class Values:
    """How one vector of floats travels in both directions. `groups` are the lengths of the tensors that it is made of.

    Attributes:
        kind: of its sections.
        wire: how it is coded.
        privacy: what is done to changes before they leave.
        drop: fraction of the changes that are not sent.
    """

    kind: pb.Kind
    wire: WireSettings
    privacy: PrivacySettings
    drop: float = 0.0

    @property
    def has_deltas(self) -> bool:
        """Whether `encode` makes use of a base."""
        return self.wire.down != "fp32" and self.wire.coder != "plain"

    def publish(self, values: Floats, *, groups: Sequence[int]) -> Published:
        """What a version says: the values, in a half precision its ordered integers, or multiples of a step."""
        match self.wire.down:
            case "fp32":
                return values
            case "uniform":
                return multiples_of(values, groups=groups, step=self.wire.down_step)
            case down:
                return to_ordered(values, kind=down)

    def start(self, published: Published) -> Floats:
        """The values that a version says."""
        match self.wire.down:
            case "fp32":
                return published
            case "uniform":
                return values_of(published)
            case down:
                return from_ordered(published, kind=down)

    def encode(self, published: Published, *, base: Published | None, groups: Sequence[int]) -> Section:
        """The values; differences from those of `base` where there is one and that is smaller."""
        down = self.wire.down
        if down == "uniform":
            known = None if base is None else self.start(base)
            coded = encode_multiples(published, groups=groups, base=known)
        elif down == "fp32" or self.wire.coder == "plain":
            coded = encode_values(self.start(published), format=down, groups=groups).coded
        else:
            coded = encode_ordered(published, kind=down, base=base, groups=groups)
        return Section.of(self.kind, coded, count=published.size)

    def decode(self, sections: Sections, *, base: Published | None, groups: Sequence[int]) -> Published:
        """What `publish` gave.

        Raises:
            PayloadError: the section is missing, of the wrong size, or not what this setting sends.
        """
        count, down = sum(groups), self.wire.down
        section = expected(sections, self.kind, count)
        if down == "uniform":
            known = None if base is None else self.start(base)
            return decode_multiples(section.coded, count, groups=groups, base=known)
        if down != "fp32" and section.codec in _ORDERED:
            return decode_ordered(section.coded, count, kind=down, base=base, groups=groups)
        expected(sections, self.kind, count, codecs=(value_codec(down),))
        return self.publish(decode_values(section.coded, count, groups=groups), groups=groups)

    def reply(
        self,
        trained: Floats,
        *,
        published: Published,
        groups: Sequence[int],
        relative: Sequence[bool],
        memory: Floats | None,
        generator: np.random.Generator,
        draw: Draw,
    ) -> Said:
        """The trained values, or what training changed.

        Args:
            trained: (n,) float32.
            published: the version that training began with.
            groups: see above.
            relative: for each group whether its values are variances, whose changes are those of logarithms.
            memory: (n,) float32, what the last reply's rounding left over.
            generator: draws what is dropped.
            draw: where the noise of privacy comes from.
        """
        start, privacy = self.start(published), self.privacy
        spread = _spread(relative, groups)
        if privacy.clip is not None:
            change = clipped(update_of(trained, start, relative=spread), norm=privacy.clip)
            if privacy.noise:
                change = noised(change, norm=privacy.clip, multiplier=privacy.noise, draw=draw)
            trained = applied(start, change, relative=spread)
        if not self._sends_changes or not self.drop:
            # What rounding left over would give away what noise hides.
            remembers = self._sends_changes and self.wire.error_feedback and privacy.clip is None
            encoded = encode_values(
                trained,
                format=self.wire.up,
                groups=groups,
                base=start,
                step=self.wire.step,
                residual=memory if remembers else None,
                relative=spread,
            )
            section = Section.of(self.kind, encoded.coded, count=trained.size)
            return Said(section, encoded.residual if remembers else None)
        seed = generator.bytes(SEED_BYTES)
        keep = seeded_positions(seed, trained.size, drop=self.drop)
        change = dropped(update_of(trained, start, relative=spread), keep, drop=self.drop)
        coded = encode_values(
            change,
            format=self.wire.up,
            groups=kept_groups(keep, groups),
            base=np.zeros_like(change),
            step=self.wire.step,
        ).coded
        data = Coded(coded.codec, seed + coded.data, coded.parameter, coded.entropy)
        return Said(Section.of(self.kind, data, count=trained.size))

    def read_reply(
        self, sections: Sections, *, published: Published, groups: Sequence[int], relative: Sequence[bool]
    ) -> Heard:
        """The values after training, (n,) float32, finite; variances are not negative.

        Raises:
            PayloadError: the section is missing, of the wrong size, or not what this setting sends.
        """
        count, start, spread = sum(groups), self.start(published), _spread(relative, groups)
        section = expected(sections, self.kind, count, codecs=(value_codec(self.wire.up),))
        if not self._sends_changes or not self.drop:
            values = decode_values(section.coded, count, groups=groups, base=start, relative=spread)
            return Heard(values, values_entropy(section.coded, count, groups=groups))
        if len(section.data) < SEED_BYTES:
            raise PayloadError("the seed of what was dropped is missing")
        coded = Coded(section.codec, section.data[SEED_BYTES:], section.parameter)
        keep = seeded_positions(section.data[:SEED_BYTES], count, drop=self.drop)
        parts = kept_groups(keep, groups)
        change = np.zeros(count, dtype=np.float32)
        change[keep] = decode_values(coded, sum(parts), groups=parts, base=np.zeros(sum(parts), dtype=np.float32))
        values = applied(start, change, relative=spread)
        return Heard(values, values_entropy(coded, sum(parts), groups=parts))

    @property
    def _sends_changes(self) -> bool:
        return self.wire.up in ("int8", "uniform")


def _spread(flags: Sequence[bool], groups: Sequence[int]) -> Bits:
    spread: Bits = np.repeat(np.asarray(flags, dtype=np.bool_), groups)
    return spread
