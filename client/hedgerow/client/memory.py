"""What a client keeps from one round to the next, and what it needs of it to read a request."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hedgerow.codec import Floats, Header, Sections, decode_payload, encode_payload, has_mask
from hedgerow.errors import PayloadError
from hedgerow.exchange import Exchange, Version
from hedgerow.files import sealed, unsealed
from hedgerow.representation import Said
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["ClientState", "Memories"]

_AGAIN = "the coordinator has to send it again"


@dataclass(frozen=True, slots=True)
class ClientState:
    """What a client keeps. All of it may be lost: then it is sent the whole again, and what rounding left over is gone.

    Attributes:
        rounds: how many rounds it has trained.
        mask: the payload that holds the mask it was last given; empty before that.
        version: the payload, sealed, that says the version it was last given, whole; empty where none is remembered.
        residuals: what the rounding of its last reply left over: float32, those of the kept weights and then those of
            what is never pruned; empty where nothing was.
    """

    rounds: int = 0
    mask: bytes = b""
    version: bytes = b""
    residuals: tuple[bytes, bytes] = (b"", b"")


class Memories:
    """A client's state, read as far as a request needs it.

    Args:
        exchange: what the two ends say to each other.
        state: what the client kept.
        limit: the most bytes that a payload in it may have.
    """

    def __init__(self, exchange: Exchange, state: ClientState, *, limit: int) -> None:
        self._exchange, self._state, self._limit = exchange, state, limit

    def mask(self, digest: bytes) -> Sections:
        """The sections that hold the mask of that digest.

        Raises:
            PayloadError: the client has none, or another one.
        """
        if not self._state.mask:
            raise PayloadError(f"this client has no mask yet; {_AGAIN}", kind="mismatch")
        header, sections = decode_payload(self._state.mask, limit=self._limit)
        if header.mask_digest != digest:
            raise PayloadError(f"this client has another mask; {_AGAIN}", kind="mismatch")
        return sections

    def version(self, round: int, digest: bytes, *, layers: tuple[int, ...]) -> Version:
        """The version of a round.

        Raises:
            PayloadError: the client has none, or another one.
        """
        if not self._state.version:
            raise PayloadError(f"this client has no version yet; {_AGAIN}", kind="mismatch")
        # A changed bit may decode, and training would start from something else.
        payload = unsealed(self._state.version)
        if payload is None:
            raise PayloadError(f"this client's version was damaged; {_AGAIN}", kind="mismatch")
        header, sections = decode_payload(payload, limit=self._limit)
        if header.mask_digest != digest:
            raise PayloadError(f"this client has a version of another mask; {_AGAIN}", kind="mismatch")
        if header.round != round:
            raise PayloadError(f"this client has version {header.round} and not {round}; {_AGAIN}", kind="mismatch")
        return self._exchange.decode(sections, round=round, mask_digest=digest, base=None, layers=layers)

    def residuals(self, digest: bytes, *, layers: tuple[int, ...]) -> tuple[Floats | None, Floats | None]:
        """What rounding left over of the kept weights and of the floats; None where nothing did, or under another mask.

        What was damaged is forgotten: it is worth less than the reply that it would be added to.
        """
        kept, floats = self._state.residuals
        return (
            _residual(kept, sum(layers)) if self._has_mask(digest) else None,
            _residual(floats, self._exchange.architecture.float_count),
        )

    def _has_mask(self, digest: bytes) -> bool:
        try:
            return decode_payload(self._state.mask, limit=self._limit)[0].mask_digest == digest
        except PayloadError:
            return False

    def after(
        self,
        header: Header,
        version: Version,
        *,
        layers: tuple[int, ...],
        said: tuple[Said, Said],
        sections: Sections,
    ) -> ClientState:
        """The state after a request whose header, version and sections these are, and a reply."""
        bare = replace(header, base=0, tensors=())
        kept, floats = (b"" if one.memory is None else one.memory.astype("<f4").tobytes() for one in said)
        state = replace(self._state, rounds=self._state.rounds + 1, residuals=(kept, floats))
        if has_mask(sections):
            state = replace(state, mask=encode_payload(bare, [sections[pb.KIND_MASK]]))
        if self._exchange.remembers:
            whole = [section for kind, section in sections.items() if kind != pb.KIND_MASK]
            if header.base:
                whole = self._exchange.encode(version, base=None, layers=layers)
            state = replace(state, version=sealed(encode_payload(bare, whole)))
        return state


def _residual(data: bytes, count: int) -> Floats | None:
    if not data or len(data) != 4 * count:
        return None
    values = np.frombuffer(data, dtype="<f4")
    return values if np.isfinite(values).all() else None
