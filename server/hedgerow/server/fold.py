"""Taking in the replies of one round: check everything, then fold; a bad reply is noted and changes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hedgerow.codec import Header, Section, decode_payload, section_label
from hedgerow.errors import PayloadError
from hedgerow.exchange import Exchange, Measures, Version, growth_entropy
from hedgerow.server.aggregation import Aggregator, FloatMean
from hedgerow.server.fleet import Reply
from hedgerow.server.growth import GradientSum
from hedgerow.telemetry import Failure, SectionBytes
from hedgerow.units import clean_text
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Fold"]

_ENVELOPE = 4096
"""Generous bound of a payload's bytes beside its symbols."""
_MOST_TOGETHER = 2**36
"""Weights that both sums can take; far more than honest clients hold."""
_MOST_PER_GRADIENT = 16
"""Bytes: a value of 4, a gap of at most 10."""
_SECTIONS = {pb.KIND_FLOATS, pb.KIND_COUNTS}
"""Of every reply, beside the one of the kept weights."""


@dataclass(slots=True)
class Fold:
    """What a round has taken in. Its size does not depend on the replies, but for a few numbers for each.

    Attributes:
        header: of the requests.
        version: what the clients started from.
        layers: numbers of kept weights of the prunable tensors.
        exchange: reads the replies.
        kept: sums the kept weights.
        floats: sums all that is never pruned.
        gradients: sums those of pruned weights, where the round adjusts the mask.
        clients: nodes whose reply was folded.
        answered: those, and all that failed.
        failures: who failed, and why.
        bytes_up: of all replies, as they travelled.
        bytes_down: of all requests, as they travelled.
        entropies: Shannon's bound of each folded reply, in bytes.
        measures: what the folded clients measured.
        flips: signs that each folded client changed, where its reply tells.
        lengths: bytes of the folded replies' sections, by kind and codec.
        bounds: Shannon's bounds of the same, in bytes.
    """

    header: Header
    version: Version
    layers: Sequence[int]
    exchange: Exchange
    kept: Aggregator
    floats: FloatMean
    gradients: GradientSum | None = None
    clients: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    entropies: list[float] = field(default_factory=list)
    measures: list[Measures] = field(default_factory=list)
    flips: list[int] = field(default_factory=list)
    lengths: Counter[str] = field(default_factory=Counter)
    bounds: dict[str, list[float]] = field(default_factory=dict)

    def take(self, reply: Reply, *, name: str) -> None:
        """Folds a reply, or notes why it was not usable."""
        self.bytes_up += reply.bytes_up
        self.bytes_down += reply.bytes_down
        self.answered.add(reply.node)
        try:
            self._fold(reply)
        except PayloadError as error:
            # A node's own words end up on a terminal, where control characters would be obeyed.
            self.failures.append(Failure(client=name, reason=clean_text(str(error)), kind=error.kind))

    @property
    def examples(self) -> int:
        """Training samples behind the folded replies."""
        return sum(m.examples for m in self.measures)

    def train_loss(self) -> float:
        """Mean loss of the folded clients, weighted by their samples; the same in whatever order they came."""
        return math.fsum(m.loss * m.examples for m in self.measures) / self.examples

    def sections(self) -> dict[str, SectionBytes]:
        """What the folded replies held, by kind and codec; the same in whatever order they came."""
        return {
            label: SectionBytes(bytes=self.lengths[label], entropy=math.fsum(bounds))
            for label, bounds in sorted(self.bounds.items())
        }

    def _fold(self, reply: Reply) -> None:
        if reply.payload is None:
            raise PayloadError(reply.error or "no reply", kind=reply.kind)
        if reply.node in self.clients:
            raise PayloadError("a second reply of the same client to one request", kind="duplicate")
        limit = 4 * sum(self.layers) + 4 * self.exchange.architecture.float_count + _ENVELOPE
        limit += _MOST_PER_GRADIENT * sum(asked.count for asked in self.header.growth)
        header, sections = decode_payload(reply.payload, limit=limit)
        if header != self.header.of_reply():
            raise PayloadError("the reply is for another experiment or round", kind="mismatch")
        measures = Measures.read(sections)
        if self.examples + measures.examples > _MOST_TOGETHER:
            raise PayloadError("the round's samples are more than can be summed", kind="metrics")
        kept, floats = self.exchange.read_reply(sections, version=self.version, layers=self.layers)
        found = None if self.gradients is None else self.gradients.read(sections)
        wanted = len(_SECTIONS) + 1 + (found is not None)
        if len(sections) != wanted:
            raise PayloadError(f"a reply of {len(sections)} sections; {wanted} were asked for", kind="mismatch")
        assert isinstance(floats.values, np.ndarray)
        # All are checked before any is folded, so that a bad reply changes nothing.
        self.floats.check(floats.values)
        self.kept.check(kept.values)
        if self.gradients is not None and found is not None:
            self.gradients.check(found)
            self.gradients.add(found, weight=measures.examples)
        self.floats.add(floats.values, weight=measures.examples)
        self.kept.add(kept.values, weight=measures.examples)
        self.clients.add(reply.node)
        self.measures.append(measures)
        if kept.flips is not None:
            self.flips.append(kept.flips)
        counts = float(len(sections[pb.KIND_COUNTS].data))
        others = {pb.KIND_FLOATS: floats.entropy, pb.KIND_COUNTS: counts}
        if found is not None:
            others[pb.KIND_TOP_K] = growth_entropy(sections[pb.KIND_TOP_K])
        self.entropies.append(kept.entropy + math.fsum(others.values()))
        for section in sections.values():
            self._note(section, entropy=others.get(section.kind, kept.entropy))

    def _note(self, section: Section, *, entropy: float) -> None:
        label = section_label(section)
        self.lengths[label] += len(section.data)
        self.bounds.setdefault(label, []).append(entropy)
