"""The payloads of one round: for each version that a node of the cohort may hold, what changed since, or the whole.

A payload is encoded once, whoever it goes to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hedgerow.codec import Header, Section, Sections, decode_payload, encode_payload, section_label
from hedgerow.errors import PayloadError
from hedgerow.exchange import Exchange, Version
from hedgerow.pruning import Mask
from hedgerow.pruning.moves import Moves
from hedgerow.server.fleet import Request
from hedgerow.server.history import History
from hedgerow.server.state import RoundState
from hedgerow.telemetry import SectionBytes

__all__ = ["NEW", "WHOLE", "Outgoing"]

NEW, WHOLE = -1, 0
"""Who lacks the mask is sent it and the whole version; who has it, but no version that is known here, the whole."""


@dataclass(frozen=True, slots=True)
class _Change:
    """How the round's mask came of an older one.

    Attributes:
        section: what the mask gained and lost.
        layers: numbers of weights that the older one kept.
        moves: from the older one.
    """

    section: Section
    layers: list[int]
    moves: Moves


class Outgoing:
    """What a round sends. The version and its mask are in `history` afterwards, so far as anybody can build on them.

    Args:
        header: of every payload of the round.
        version: what the round says.
        exchange: codes it.
        state: the state that the round starts from; it says who holds what.
        history: the versions before.
        level: whose versions these are.
    """

    def __init__(
        self,
        header: Header,
        version: Version,
        *,
        exchange: Exchange,
        state: RoundState,
        history: History,
        level: int = 0,
    ) -> None:
        self._header, self._version, self._exchange = header, version, exchange
        self._state, self._history, self._level = state, history, level
        self._layers = list(state.mask.layer_kept().values())
        self._payloads: dict[int, bytes] = {}
        self._sections: dict[int, list[Section]] = {}
        self._changes: dict[bytes, _Change | None] = {}
        self._remember()

    def requests(self, cohort: Sequence[int]) -> Iterator[Request]:
        """One request for each node of the cohort."""
        for node in cohort:
            yield Request(node, self._payload(self._base(node)))

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
        """How many nodes are sent what changed since each version, if only to the mask; NEW and WHOLE for others."""
        return Counter(map(self._base, cohort))

    def _remember(self) -> None:
        if self._exchange.plain:
            return
        mask = self._state.mask
        if self._history.find_mask(mask.digest) is None:
            self._history.add_mask(mask.digest, mask.packed())
        self._payload(WHOLE)
        sections = self._sections[WHOLE] if self._exchange.remembers else []
        payload = encode_payload(self._bare(self._header.round, mask.digest), sections)
        self._history.add(self._header.round, payload, level=self._level)

    def _bare(self, round: int, mask_digest: bytes) -> Header:
        """Of a remembered version, which says nothing of what was asked with it."""
        return Header(self._header.experiment, round, mask_digest)

    def _base(self, node: int) -> int:
        held = self._state.held.get(node, 0)
        if not held:
            return NEW
        self._payload(held)
        return held if held in self._sections else self._without(held)

    def _without(self, held: int) -> int:
        """What is sent where nothing can be told as a change of what was held."""
        return WHOLE if held >= self._state.since else NEW

    def _payload(self, base: int) -> bytes:
        if base not in self._payloads:
            self._encode(base)
        return self._payloads[base]

    def _encode(self, base: int) -> None:
        header = self._header
        if base == NEW:
            header = replace(header, tensors=self._exchange.architecture.tensors())
            self._payload(WHOLE)
            mask = self._exchange.encode_mask(self._state.mask)
            self._sections[NEW] = [mask, *self._sections[WHOLE]]
        elif base == WHOLE:
            self._sections[WHOLE] = self._exchange.encode(self._version, base=None, layers=self._layers)
        else:
            self._encode_changes(base)
            return
        self._payloads[base] = encode_payload(header, self._sections[base])

    def _encode_changes(self, base: int) -> None:
        otherwise = self._payloads[base] = self._payload(self._without(base))
        changes = self._changes_since(base)
        if changes is None:
            return
        header, sections = changes
        payload = encode_payload(header, sections)
        # The header is longer by the base, which may be more than the sections save.
        if len(payload) < len(otherwise):
            self._payloads[base], self._sections[base] = payload, sections

    def _changes_since(self, base: int) -> tuple[Header, list[Section]] | None:
        # A file of our own, but a file: what is wrong with it costs bytes and nothing else.
        try:
            return self._told_since(base)
        except PayloadError:
            return None

    def _told_since(self, base: int) -> tuple[Header, list[Section]] | None:
        payload = None if self._exchange.plain else self._history.find(base, level=self._level)
        if payload is None:
            return None
        header, found = decode_payload(payload, limit=len(payload))
        if header != self._bare(base, header.mask_digest):
            return None
        # What was said of signs is nothing that weights differ from.
        remembers = self._exchange.remembers and base >= self._exchange.since
        if header.mask_digest == self._header.mask_digest:
            return self._values_since(self._read(header, found, layers=self._layers)) if remembers else None
        change = self._change_from(header.mask_digest)
        if change is None:
            return None
        if not remembers:
            self._payload(WHOLE)
            return self._header, [change.section, *self._sections[WHOLE]]
        version = self._read(header, found, layers=change.layers)
        carried = self._exchange.carried(version, change.moves, mask_digest=self._header.mask_digest)
        header, sections = self._values_since(carried)
        return header, [change.section, *sections]

    def _values_since(self, version: Version) -> tuple[Header, list[Section]]:
        sections = self._exchange.encode(self._version, base=version, layers=self._layers)
        return replace(self._header, base=version.round), sections

    def _read(self, header: Header, sections: Sections, *, layers: Sequence[int]) -> Version:
        return self._exchange.decode(
            sections, round=header.round, mask_digest=header.mask_digest, base=None, layers=layers
        )

    def _change_from(self, digest: bytes) -> _Change | None:
        if digest not in self._changes:
            self._changes[digest] = self._compare(digest)
        return self._changes[digest]

    def _compare(self, digest: bytes) -> _Change | None:
        packed, new = self._history.find_mask(digest), self._state.mask
        if packed is None:
            return None
        old = Mask.unpack(packed, new.shapes)
        if old.digest != digest:
            return None
        section = self._exchange.encode_mask(new, base=old)
        return _Change(section, list(old.layer_kept().values()), Moves.between(old, new))
