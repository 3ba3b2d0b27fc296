"""Taking in the replies of one round: check everything, then fold; a bad reply is noted and changes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hedgerow.codec import Section, section_label
from hedgerow.errors import PayloadError
from hedgerow.exchange import Measures
from hedgerow.server.aggregation import HeldMean, Nested
from hedgerow.server.fleet import Reply
from hedgerow.server.growth import GradientSum
from hedgerow.server.reading import Reader
from hedgerow.telemetry import Failure, SectionBytes
from hedgerow.units import clean_text

__all__ = ["Fold"]

_MOST_TOGETHER = 2**36
"""Weights that both sums can take; far more than honest clients hold."""


@dataclass(slots=True)
class Fold:
    """What a round has taken in. Its size does not depend on the replies, but for a few numbers for each.

    Attributes:
        readers: of the replies of each level that somebody is asked about.
        kept: sums the kept weights.
        floats: sums all that is never pruned.
        gradients: sums those that devices are asked for, where the round adjusts the mask.
        held: sums the kept weights instead, where devices adjust the mask, each for itself.
        levels: of the nodes that train another part of the network than the whole.
        clients: nodes whose reply was folded.
        answered: those, and all that failed.
        failures: who failed, and why.
        bytes_up: of all replies, as they travelled.
        bytes_down: of all requests, as they travelled.
        entropies: Shannon's bound of each folded reply, in bytes.
        measures: what the folded clients measured.
        peaks: bytes that each of them held at most, by node; 0 where it did not measure that.
        short: nodes that failed for want of memory.
        replies: how many were folded, by level.
        samples: training samples behind those, by level.
        flips: signs that each folded client changed, where its reply tells.
        told: signs that those replies were about, all together.
        lengths: bytes of the folded replies' sections, by kind and codec.
        bounds: Shannon's bounds of the same, in bytes.
    """

    readers: Mapping[int, Reader]
    kept: Nested
    floats: Nested
    gradients: GradientSum | None = None
    held: HeldMean | None = None
    levels: Mapping[int, int] = field(default_factory=dict)
    clients: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    entropies: list[float] = field(default_factory=list)
    measures: list[Measures] = field(default_factory=list)
    peaks: dict[int, float] = field(default_factory=dict)
    short: set[int] = field(default_factory=set)
    replies: Counter[int] = field(default_factory=Counter)
    samples: Counter[int] = field(default_factory=Counter)
    flips: list[int] = field(default_factory=list)
    told: int = 0
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
            if error.kind == "memory":
                self.short.add(reply.node)
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
        level = self.levels.get(reply.node, 0)
        taken = self.readers[level].read(reply.payload, gradients=self.gradients)
        measures, kept, found = taken.measures, taken.kept, taken.gradients
        if self.examples + measures.examples > _MOST_TOGETHER:
            raise PayloadError("the round's samples are more than can be summed", kind="metrics")
        # All are checked before any is folded, so that a bad reply changes nothing.
        self.floats.check(taken.floats, level=level)
        self.kept.check(kept.values, level=level)
        if self.gradients is not None and found is not None:
            self.gradients.check(found)
            self.gradients.add(found, weight=measures.examples)
        self.floats.add(taken.floats, weight=measures.examples, level=level)
        if self.held is not None and taken.mask is not None:
            assert isinstance(kept.values, np.ndarray), "who has a mask of its own has no votes"
            self.held.add(kept.values, held=taken.mask.flat(), weight=measures.examples)
        else:
            self.kept.add(kept.values, weight=measures.examples, level=level)
        self.clients.add(reply.node)
        self.measures.append(measures)
        self.peaks[reply.node] = measures.held_bytes
        self.replies[level] += 1
        self.samples[level] += measures.examples
        if kept.flips is not None:
            self.flips.append(kept.flips)
            self.told += sum(self.readers[level].layers)
        self.entropies.append(kept.entropy + math.fsum(taken.entropies.values()))
        for section in taken.sections.values():
            self._note(section, entropy=taken.entropies.get(section.kind, kept.entropy))

    def _note(self, section: Section, *, entropy: float) -> None:
        label = section_label(section)
        self.lengths[label] += len(section.data)
        self.bounds.setdefault(label, []).append(entropy)
