"""The payloads of one round: one for the nodes that hold the mask, one for those that do not. Each is encoded once."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from hedgerow.codec import Header, Section, encode_payload, floats_section, mask_section, section_label
from hedgerow.representation import Broadcast
from hedgerow.server.fleet import Request
from hedgerow.server.state import RoundState
from hedgerow.telemetry import SectionBytes

__all__ = ["Outgoing"]


class Outgoing:
    """What a round sends.

    Args:
        header: of every payload of the round.
        broadcast: the kept weights as they are sent.
        state: the state that the round starts from; its `holders` are not sent the mask again.
    """

    def __init__(self, header: Header, broadcast: Broadcast, state: RoundState) -> None:
        self._header, self._state = header, state
        self._sections = [broadcast.section, floats_section(state.floats)]

    def requests(self, cohort: Sequence[int]) -> Iterator[Request]:
        """One request for each node of the cohort."""
        for node in cohort:
            yield Request(node, self._known if node in self._state.holders else self._new)

    def entropy(self, cohort: Sequence[int]) -> float:
        """Shannon's bound of all requests together, in bytes."""
        strangers = sum(node not in self._state.holders for node in cohort)
        mask = self._mask.entropy if strangers else 0.0
        return len(cohort) * sum(s.entropy for s in self._sections) + strangers * mask

    def sections(self, cohort: Sequence[int]) -> dict[str, SectionBytes]:
        """What all requests together hold, by kind and codec."""
        strangers = sum(node not in self._state.holders for node in cohort)
        counts = [(section, len(cohort)) for section in self._sections]
        if strangers:
            counts.append((self._mask, strangers))
        return {
            section_label(s): SectionBytes(bytes=count * len(s.data), entropy=count * s.entropy) for s, count in counts
        }

    @functools.cached_property
    def _known(self) -> bytes:
        return encode_payload(self._header, self._sections)

    @functools.cached_property
    def _new(self) -> bytes:
        return encode_payload(self._header, [self._mask, *self._sections])

    @functools.cached_property
    def _mask(self) -> Section:
        return mask_section(self._state.mask.flat())
