"""Taking in the replies of one round: check everything, then fold; a bad reply is noted and changes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from hedgerow.codec import Bits, Floats, Header, Section, decode_payload, read_floats, section_label
from hedgerow.errors import PayloadError
from hedgerow.representation import Representation
from hedgerow.server.aggregation import Aggregator, FloatMean
from hedgerow.server.fleet import Reply
from hedgerow.telemetry import Failure, SectionBytes
from hedgerow.units import clean_text
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["Fold"]

_ENVELOPE = 4096
"""Generous bound of a payload's bytes beside its symbols."""
_MOST_EXAMPLES = 2**24
"""Of one client: `FloatMean` sums weights below 2³⁶, so 4,096 clients that all claim as much do no harm."""
_LARGEST_METRIC = 2.0**53
"""Sums of metrics up to this one stay finite, and counts exact."""
_BYTES = ("peak-bytes", "forward-bytes", "backward-bytes", "update-bytes")
_METRICS = ("examples", "loss", "seconds", *_BYTES, "native-share")


@dataclass(slots=True)
class Fold:
    """What a round has taken in. Its size does not depend on the replies, but for a few numbers for each.

    Attributes:
        header: what every reply has to repeat.
        start: (kept,) float32, what the clients started from.
        representation: reads the replies.
        kept: sums the kept weights.
        floats: sums all that is never pruned.
        float_count: number of those.
        variances: (float_count,) True where a float is a variance, which cannot be negative; none is when None.
        clients: nodes whose reply was folded.
        answered: those, and all that failed.
        failures: who failed, and why.
        bytes_up: of all replies, as they travelled.
        bytes_down: of all requests, as they travelled.
        entropies: Shannon's bound of each folded reply, in bytes.
        metrics: what the folded clients measured.
        flips: signs that each folded client changed, where its reply tells.
        lengths: bytes of the folded replies' sections, by kind and codec.
        bounds: Shannon's bounds of the same, in bytes.
    """

    header: Header
    start: Floats
    representation: Representation
    kept: Aggregator
    floats: FloatMean
    float_count: int
    variances: Bits | None = None
    clients: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    entropies: list[float] = field(default_factory=list)
    metrics: list[Mapping[str, float]] = field(default_factory=list)
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
        return sum(int(m["examples"]) for m in self.metrics)

    def train_loss(self) -> float:
        """Mean loss of the folded clients, weighted by their samples; the same in whatever order they came."""
        return math.fsum(m["loss"] * m["examples"] for m in self.metrics) / self.examples

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
        kept = self.start.size
        header, sections = decode_payload(reply.payload, limit=4 * kept + 4 * self.float_count + _ENVELOPE)
        if header != self.header:
            raise PayloadError("the reply is for another experiment, round or mask", kind="mismatch")
        metrics = _checked_metrics(reply.metrics)
        values = self.representation.read_reply(sections, kept)
        floats = read_floats(sections, self.float_count)
        if self.variances is not None and (floats[self.variances] < 0).any():
            raise PayloadError("a variance is negative", kind="bounds")
        if len(sections) != 2:
            raise PayloadError(f"a reply of {len(sections)} sections; two were asked for", kind="mismatch")
        weight = int(metrics["examples"])
        # Both are checked before either is folded, so that a bad reply changes nothing.
        self.floats.check(floats)
        self.kept.check(values)
        self.floats.add(floats, weight=weight)
        self.kept.add(values, weight=weight)
        self.clients.add(reply.node)
        self.metrics.append(metrics)
        flips = self.representation.flips(values, start=self.start)
        if flips is not None:
            self.flips.append(flips)
        entropy = self.representation.reply_entropy(values, start=self.start)
        self.entropies.append(entropy + 4.0 * self.float_count)
        for section in sections.values():
            self._note(section, entropy=4.0 * self.float_count if section.kind == pb.KIND_FLOATS else entropy)

    def _note(self, section: Section, *, entropy: float) -> None:
        label = section_label(section)
        self.lengths[label] += len(section.data)
        self.bounds.setdefault(label, []).append(entropy)


def _checked_metrics(metrics: Mapping[str, float]) -> Mapping[str, float]:
    for name in ("examples", "loss", "seconds"):
        value = metrics.get(name)
        if value is None or not 0 <= value <= _LARGEST_METRIC:
            raise PayloadError(f"metric {name!r} is {value}; a finite number of at least 0 is needed", kind="metrics")
    for name in _BYTES:
        peak = metrics.get(name, 0.0)
        if not abs(peak) <= _LARGEST_METRIC:
            raise PayloadError(f"metric {name!r} is {peak}; a finite number is needed", kind="metrics")
    share = metrics.get("native-share", 0.0)
    if not 0 <= share <= 1:
        raise PayloadError(f"metric 'native-share' is {share}; it has to be 0 to 1", kind="metrics")
    if not 1 <= metrics["examples"] <= _MOST_EXAMPLES or metrics["examples"] % 1:
        raise PayloadError(
            f"metric 'examples' is {metrics['examples']}; it has to be 1 to {_MOST_EXAMPLES}", kind="metrics"
        )
    # Whatever else a client sends is not kept: a round's memory must not grow with it.
    return {name: metrics[name] for name in _METRICS if name in metrics}
