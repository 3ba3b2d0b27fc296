"""What a reply to a request to train has to be: everything is checked here before any of it is folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hedgerow.codec import Floats, Header, Sections, decode_payload, values_entropy
from hedgerow.errors import PayloadError
from hedgerow.exchange import Exchange, Measures, Version, growth_entropy, own_mask_entropy, read_own_mask
from hedgerow.pruning import Gradients, Mask, Moves
from hedgerow.representation import Heard
from hedgerow.server.growth import GradientSum
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Reader", "Taken"]

_ENVELOPE = 4096
"""Generous bound of a payload's bytes beside its symbols."""
_MOST_PER_GRADIENT = 16
"""Bytes: a value of 4, a gap of at most 10."""
_SECTIONS = {pb.KIND_FLOATS, pb.KIND_COUNTS}
"""Of every reply, beside the one of the kept weights."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a reply says.

    Attributes:
        measures: what its client measured.
        kept: of the kept weights.
        floats: (f,) float32, of what is never pruned.
        gradients: as `GradientSum.read` gave them; None where it was not asked for any.
        mask: what its client keeps now, where it was to change that itself; else None.
        sections: all of it.
        entropies: Shannon's bound of each of them but that of the kept weights, in bytes, by kind.
    """

    measures: Measures
    kept: Heard
    floats: Floats
    gradients: Gradients | None
    sections: Sections
    entropies: Mapping[int, float]
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """What the replies to one request have to be.

    Attributes:
        header: of the request.
        version: what the clients started from.
        layers: numbers of kept weights of the prunable tensors.
        exchange: reads the sections.
        mask: what the clients keep, where that is a part of all that is kept.
        sent: what the clients kept, where each was to change that itself, by no more than `header.growth` says.
    """

    header: Header
    version: Version
    layers: Sequence[int]
    exchange: Exchange
    mask: Mask | None = None
    sent: Mask | None = None

    def read(self, payload: bytes, *, gradients: GradientSum | None) -> Taken:
        """Takes a reply apart.

        Args:
            payload: as it came.
            gradients: what those that were asked for are added to; None where there are none.

        Raises:
            PayloadError: it is damaged, too long, for another request, or a value is out of bounds.
        """
        header, sections = decode_payload(payload, limit=self._limit(kept=gradients is not None and gradients.kept))
        if header != self.header.of_reply():
            raise PayloadError("the reply is for another experiment or round", kind="mismatch")
        measures = Measures.read(sections)
        own, version = None, self.version
        if self.sent is not None:
            own = read_own_mask(sections, sent=self.sent, growth=self.header.growth, exchange=self.exchange)
            version = self.exchange.carried(version, Moves.between(self.sent, own), mask_digest=own.digest)
        kept, floats = self.exchange.read_reply(sections, version=version, layers=self.layers)
        found = None
        if gradients is not None and any(asked.count for asked in self.header.growth):
            found = gradients.read(sections, mask=self.mask, growth=self.header.growth)
        asked = 0 if gradients is None or found is None else gradients.sections
        wanted = len(_SECTIONS) + 1 + asked + (own is not None)
        if len(sections) != wanted:
            raise PayloadError(f"a reply of {len(sections)} sections; {wanted} were asked for", kind="mismatch")
        assert isinstance(floats.values, np.ndarray)
        entropies = _entropies(sections, floats)
        if own is not None and self.sent is not None:
            kind = pb.KIND_MASK if self.exchange.plain else pb.KIND_MASK_DELTA
            entropies[kind] = own_mask_entropy(own, sent=self.sent, exchange=self.exchange)
        return Taken(measures, kept, floats.values, found, sections, entropies, own)

    def _limit(self, *, kept: bool) -> int:
        limit = 4 * sum(self.layers) + 4 * self.exchange.architecture.float_count + _ENVELOPE
        if self.sent is not None:
            # A mask takes no more than a bit a weight, whole or as what changed.
            limit += self.exchange.architecture.weights // 8
        if kept:
            limit += 4 * sum(self.layers)
        return limit + _MOST_PER_GRADIENT * sum(asked.count for asked in self.header.growth)


def _entropies(sections: Sections, floats: Heard) -> dict[int, float]:
    counts = float(len(sections[pb.KIND_COUNTS].data))
    entropies: dict[int, float] = {pb.KIND_FLOATS: floats.entropy, pb.KIND_COUNTS: counts}
    if pb.KIND_TOP_K in sections:
        entropies[pb.KIND_TOP_K] = growth_entropy(sections[pb.KIND_TOP_K])
    if pb.KIND_GRADIENTS in sections:
        section = sections[pb.KIND_GRADIENTS]
        entropies[pb.KIND_GRADIENTS] = values_entropy(section.coded, section.count, groups=[section.count])
    return entropies
