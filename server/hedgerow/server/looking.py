"""Asking a cohort to look at networks without training them, and taking in what each device says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hedgerow.codec import Header, Sections, decode_payload
from hedgerow.config import Experiment
from hedgerow.errors import PayloadError, TooFewRepliesError
from hedgerow.server.fleet import GRIDS_OWN, Fleet, Reply, Request
from hedgerow.server.progress import Observer
from hedgerow.telemetry import Failure
from hedgerow.units import clean_text

__all__ = ["Said", "look"]

_ENVELOPE = 4096
"""Generous bound of a payload's bytes beside its values."""
_SECTIONS = 2
"""Of a reply about networks: what was found, and on how many samples."""

Value = TypeVar("Value")


@dataclass(slots=True)
class Said(Generic[Value]):
    """What devices said.

    Attributes:
        values: of each device whose reply is usable, by node in ascending order.
        failures: who failed, and why, by name.
        bytes_up: of all replies, as they travelled.
        bytes_down: of all requests that were answered, as they travelled.
    """

    values: dict[int, Value] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0


def look(
    requests: Iterable[Request],
    *,
    number: int,
    header: Header,
    values: int,
    read: Callable[[Sections], Value],
    experiment: Experiment,
    fleet: Fleet,
    observer: Observer,
    sections: int = _SECTIONS,
    quorum: int | None = None,
) -> Said[Value]:
    """Sends requests that change nothing, and waits for replies as a round does: for so many usable ones as a cohort
    has, for the quorum once the deadline is over, or for everybody who was asked.

    Memory grows with the number of devices, by the `values` floats that each says.

    Args:
        requests: what to send.
        number: of the exchange. Devices answer with what they knew before it; what they remember of it, an exchange of
            the same number does not see, and training of the same number writes over.
        header: of the requests.
        values: how many float32 values a reply may hold.
        read: makes something of a reply's sections, or raises PayloadError.
        experiment: its deadline and quorum.
        fleet: whom to ask.
        observer: is told of each reply.
        sections: how many a reply has.
        quorum: usable replies that are needed; `aggregation.min_replies` when None.

    Raises:
        TooFewRepliesError: there are fewer.
    """
    said, began = Said[Value](), time.monotonic()
    deadline = experiment.fleet.deadline
    quorum = experiment.aggregation.min_replies if quorum is None else quorum

    def over() -> bool:
        late = deadline is not None and time.monotonic() - began >= deadline
        usable = len(said.values)
        return usable >= experiment.fleet.cohort or (late and usable >= quorum)

    requests = list(requests)
    for reply in fleet.exchange(requests, round=number, over=over):
        said.bytes_up += reply.bytes_up
        said.bytes_down += reply.bytes_down
        try:
            said.values[reply.node] = _read(
                reply, said, header=header, limit=4 * values + _ENVELOPE, read=read, sections=sections
            )
        except PayloadError as error:
            # A node's own words end up on a terminal, where control characters would be obeyed.
            failure = Failure(client=fleet.name(reply.node), reason=clean_text(str(error)), kind=error.kind)
            said.failures.append(failure)
        observer.replied()
    said.values = dict(sorted(said.values.items()))
    said.failures.sort(key=lambda failure: failure.client)
    if len(said.values) < quorum:
        why = f"{said.failures[0].client}: {said.failures[0].reason}" if said.failures else "nobody answered"
        raise TooFewRepliesError(
            f"{len(said.values)} of {len(requests)} clients gave a usable reply and {quorum} are needed; {why}",
            usable=frozenset(said.values),
            answered=any(failure.kind not in GRIDS_OWN for failure in said.failures),
        )
    return said


def _read(
    reply: Reply,
    said: Said[Value],
    *,
    header: Header,
    limit: int,
    read: Callable[[Sections], Value],
    sections: int,
) -> Value:
    if reply.payload is None:
        raise PayloadError(reply.error or "no reply", kind=reply.kind)
    if reply.node in said.values:
        raise PayloadError("a second reply of the same client to one request", kind="duplicate")
    found, read_sections = decode_payload(reply.payload, limit=limit)
    if found != header.of_reply():
        raise PayloadError("the reply is to another request", kind="mismatch")
    if len(read_sections) != sections:
        raise PayloadError(f"a reply of {len(read_sections)} sections; {sections} were asked for", kind="mismatch")
    return read(read_sections)
