"""The payloads of one round: for each version that a node of the cohort may hold, what changed since, or the whole.

A payload is encoded once, whoever it goes to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hedgerow.codec import (
    Header,
    Section,
    decode_payload,
    encode_payload,
    mask_section,
    plain_mask_section,
    section_label,
)
from hedgerow.errors import PayloadError
from hedgerow.exchange import Exchange, Version
from hedgerow.server.fleet import Request
from hedgerow.server.history import History
from hedgerow.server.state import RoundState
from hedgerow.telemetry import SectionBytes

__all__ = ["NEW", "WHOLE", "Outgoing"]

NEW, WHOLE = -1, 0
"""Who has no mask is sent it and the whole version; who has it, but no version that is known here, the whole."""


class Outgoing:
    """What a round sends. The version is in `history` afterwards.

    Args:
        header: of every payload of the round.
        version: what the round says.
        exchange: codes it.
        state: the state that the round starts from; it says who holds what.
        history: the versions before.
    """

    def __init__(
        self, header: Header, version: Version, *, exchange: Exchange, state: RoundState, history: History
    ) -> None:
        self._header, self._version, self._exchange = header, version, exchange
        self._state, self._history = state, history
        self._layers = list(state.mask.layer_kept().values())
        self._payloads: dict[int, bytes] = {}
        self._sections: dict[int, list[Section]] = {}
        history.add(header.round, self._payload(WHOLE))

    def requests(self, cohort: Sequence[int]) -> Iterator[Request]:
        """One request for each node of the cohort."""
        for node in cohort:
            yield Request(node, self._payload(self._base(node)))

    def entropy(self, cohort: Sequence[int]) -> float:
        """Shannon's bound of all requests together, in bytes."""
        return sum(found.entropy for found in self.sections(cohort).values())

    def sections(self, cohort: Sequence[int]) -> dict[str, SectionBytes]:
        """What all requests together hold, by kind and codec."""
        lengths: Counter[str] = Counter()
        bounds: dict[str, float] = {}
        for base, count in sorted(Counter(map(self._base, cohort)).items()):
            self._payload(base)
            for section in self._sections[base]:
                label = section_label(section)
                lengths[label] += count * len(section.data)
                bounds[label] = bounds.get(label, 0.0) + count * section.entropy
        return {label: SectionBytes(bytes=lengths[label], entropy=bounds[label]) for label in sorted(bounds)}

    def bases(self, cohort: Sequence[int]) -> Counter[int]:
        """How many nodes are sent what changed since each version; NEW and WHOLE for the others."""
        return Counter(map(self._base, cohort))

    def _base(self, node: int) -> int:
        held = self._state.held.get(node)
        if held is None:
            return NEW
        self._payload(held)
        return held if held in self._sections else WHOLE

    def _payload(self, base: int) -> bytes:
        if base not in self._payloads:
            self._encode(base)
        return self._payloads[base]

    def _encode(self, base: int) -> None:
        header = self._header
        if base == NEW:
            header = replace(header, tensors=self._exchange.architecture.tensors())
            self._payload(WHOLE)
            self._sections[NEW] = [self._mask_section(), *self._sections[WHOLE]]
        elif base == WHOLE:
            self._sections[WHOLE] = self._exchange.encode(self._version, base=None, layers=self._layers)
        else:
            self._encode_changes(base)
            return
        self._payloads[base] = encode_payload(header, self._sections[base])

    def _encode_changes(self, base: int) -> None:
        self._payloads[base] = self._payloads[WHOLE]
        found = self._found(base)
        if found is None:
            return
        sections = self._exchange.encode(self._version, base=found, layers=self._layers)
        payload = encode_payload(replace(self._header, base=base), sections)
        # The header is longer by the base, which may be more than the sections save.
        if len(payload) < len(self._payloads[WHOLE]):
            self._payloads[base], self._sections[base] = payload, sections

    def _found(self, base: int) -> Version | None:
        payload = self._history.find(base)
        if payload is None:
            return None
        # A file of our own, but a file: what is wrong with it costs bytes and nothing else.
        try:
            header, sections = decode_payload(payload, limit=len(payload))
            if replace(header, round=self._header.round) != self._header or header.round != base:
                return None
            return self._exchange.decode(
                sections, round=base, mask_digest=header.mask_digest, base=None, layers=self._layers
            )
        except PayloadError:
            return None

    def _mask_section(self) -> Section:
        bits = self._state.mask.flat()
        if self._exchange.plain:
            return plain_mask_section(bits)
        return mask_section(bits, shapes=list(self._exchange.architecture.prunable.values()))
