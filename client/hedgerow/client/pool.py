"""Networks to choose from, as a client is sent them and keeps them until it has said how good each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hedgerow.codec import Candidate, Header, decode_payload
from hedgerow.errors import PayloadError
from hedgerow.files import unsealed
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["pool_in"]

_AGAIN = "the coordinator has to send the networks again"


def pool_in(
    pool: bytes, header: Header, asked: Sequence[Candidate], *, read: Callable[[bytes], list[Candidate]]
) -> list[Candidate]:
    """The networks of a request to evaluate: its values of what is never pruned, and the rest from the pool.

    Args:
        pool: what the client kept of the request before; see `ClientState.pool`.
        header: of this request.
        asked: the candidates in it.
        read: finds the candidates in a request.

    Raises:
        PayloadError: the client has no pool, another one, or a damaged one; or there is more in the request.
    """
    if not pool:
        raise PayloadError(f"this client has no networks to choose from yet; {_AGAIN}", kind="mismatch")
    payload = unsealed(pool)
    if payload is None:
        raise PayloadError(f"this client's networks to choose from were damaged; {_AGAIN}", kind="mismatch")
    held = read(payload)
    before, _ = decode_payload(payload, limit=len(payload))
    same_request = (before.experiment, before.round) == (header.experiment, header.round)
    if not same_request or [c.mask_digest for c in held] != [c.mask_digest for c in asked]:
        raise PayloadError(f"this client has other networks to choose from; {_AGAIN}", kind="mismatch")
    if any(set(candidate.sections) != {pb.KIND_FLOATS} for candidate in asked):
        raise PayloadError("a network to evaluate has other sections than KIND_FLOATS", kind="mismatch")
    return [
        Candidate(mine.mask_digest, {**mine.sections, **theirs.sections})
        for mine, theirs in zip(held, asked, strict=True)
    ]
