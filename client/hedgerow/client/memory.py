"""What a client keeps from one round to the next, and what it needs of it to read a request."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import numpy as np

from hedgerow.codec import Floats, Header, Sections, decode_payload, encode_payload, has_mask
from hedgerow.errors import PayloadError
from hedgerow.exchange import Exchange, Version
from hedgerow.files import sealed, unsealed
from hedgerow.pruning import Mask
from hedgerow.pruning.moves import Moves
from hedgerow.representation import Said
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["ClientState", "Memories"]

_AGAIN = "the coordinator has to send it again"
_MASKS = (pb.KIND_MASK, pb.KIND_MASK_DELTA)


@dataclass(frozen=True, slots=True)
class ClientState:
    """What a client keeps. All of it may be lost: then it is sent the whole again, and what rounding left over is gone.

    Attributes:
        rounds: how many rounds it has trained.
        mask: the payload that holds the mask it was last given; empty before that.
        version: the payload, sealed, that says the version it was last given, whole; empty where none is remembered.
        residuals: what the rounding of its last reply left over: float32, those of the kept weights and then those of
            what is never pruned; empty where nothing was.
        pool: the request, sealed, that brought networks to choose from, until one of them is trained; else empty.
    """

    rounds: int = 0
    mask: bytes = b""
    version: bytes = b""
    residuals: tuple[bytes, bytes] = (b"", b"")
    pool: bytes = b""


@dataclass(frozen=True, slots=True)
class _Moved:
    """What a change of mask means for the version before it: the old mask's digest and kept weights a layer."""

    digest: bytes
    layers: tuple[int, ...]
    moves: Moves


class Memories:
    """A client's state, read as far as one request needs it; the caller's stays as it is.

    Args:
        exchange: what the two ends say to each other.
        state: what the client kept.
        limit: the most bytes that a payload in it may have.
    """

    def __init__(self, exchange: Exchange, state: ClientState, *, limit: int) -> None:
        self._exchange, self._state, self._limit = exchange, state, limit
        self._moved: _Moved | None = None
        self._mask: Mask | None = None

    def mask(self, digest: bytes) -> Sections:
        """The sections that hold the mask of that digest.

        Raises:
            PayloadError: the client has none, or another one.
        """
        header, sections = self._held()
        if header.mask_digest != digest:
            raise PayloadError(f"this client has another mask; {_AGAIN}", kind="mismatch")
        return sections

    def read_mask(self, header: Header) -> Mask:
        """The mask that a request is for and does not bring; it is decoded once, however often it is asked for.

        Raises:
            PayloadError: the client has none, another one, or a damaged one.
        """
        if self._mask is None or self._mask.digest != header.mask_digest:
            mask = self._exchange.decode_mask(self.mask(header.mask_digest))
            if mask.digest != header.mask_digest:
                raise PayloadError(f"the mask does not match its digest; {_AGAIN}")
            self._mask = _needed(mask, header)
            return mask
        return self._mask

    def new_mask(self, header: Header, sections: Sections) -> Mask:
        """The mask that a request brings, whole or as what changed; what is told of the one before goes over to it.

        Raises:
            PayloadError: it is damaged or not the one that the request names, or changes one that this client lacks.
        """
        if has_mask(sections):
            mask, section = self._exchange.decode_mask(sections), sections[pb.KIND_MASK]
            old = self._outgrown(mask.digest)
        else:
            old = self._old_mask()
            mask = self._exchange.decode_mask(sections, base=old)
            section = self._exchange.encode_mask(mask)
        if mask.digest != header.mask_digest:
            raise PayloadError(f"the mask does not match its digest; {_AGAIN}", kind="mismatch")
        kept, floats = self._state.residuals
        if old is not None:
            moves = Moves.between(old, mask)
            kept = _carried(kept, moves)
            if header.base:
                self._moved = _Moved(old.digest, tuple(old.layer_kept().values()), moves)
        elif not self._has_mask(mask.digest):
            kept = b""
        self._state = replace(self._state, mask=encode_payload(_bare(header), [section]), residuals=(kept, floats))
        self._mask = _needed(mask, header)
        return mask

    def version(self, round: int, digest: bytes, *, layers: tuple[int, ...]) -> Version:
        """The version of a round, as one of the mask of that digest: carried over, if the request changed the mask.

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
        # The moves take half as much as the weights: nothing to hold on to while these are trained.
        moved, self._moved = self._moved, None
        known = digest if moved is None else moved.digest
        if header.mask_digest != known:
            raise PayloadError(f"this client has a version of another mask; {_AGAIN}", kind="mismatch")
        if header.round != round:
            raise PayloadError(f"this client has version {header.round} and not {round}; {_AGAIN}", kind="mismatch")
        before = layers if moved is None else moved.layers
        version = self._exchange.decode(sections, round=round, mask_digest=known, base=None, layers=before)
        return version if moved is None else self._exchange.carried(version, moved.moves, mask_digest=digest)

    def residuals(self, digest: bytes, *, layers: tuple[int, ...]) -> tuple[Floats | None, Floats | None]:
        """What rounding left over of the kept weights and of the floats; None where nothing did, or under another mask.

        What was damaged is forgotten: it is worth less than the reply that it would be added to.
        """
        kept, floats = self._state.residuals
        return (
            _residual(kept, sum(layers)) if self._has_mask(digest) else None,
            _residual(floats, self._exchange.architecture.float_count),
        )

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
        kept, floats = (b"" if one.memory is None else one.memory.astype("<f4").tobytes() for one in said)
        state = replace(self._state, rounds=self._state.rounds + 1, residuals=(kept, floats))
        if self._exchange.remembers:
            whole = [section for kind, section in sections.items() if kind not in _MASKS]
            if header.base:
                whole = self._exchange.encode(version, base=None, layers=layers)
            state = replace(state, version=sealed(encode_payload(_bare(header), whole)))
        return state

    def _held(self) -> tuple[Header, Sections]:
        if not self._state.mask:
            raise PayloadError(f"this client has no mask yet; {_AGAIN}", kind="mismatch")
        try:
            return decode_payload(self._state.mask, limit=self._limit)
        except PayloadError:
            raise PayloadError(f"this client's mask was damaged; {_AGAIN}", kind="mismatch") from None

    def _has_mask(self, digest: bytes) -> bool:
        try:
            return self._held()[0].mask_digest == digest
        except PayloadError:
            return False

    def _old_mask(self) -> Mask:
        header, sections = self._held()
        with contextlib.suppress(PayloadError):
            mask = self._exchange.decode_mask(sections)
            if mask.digest == header.mask_digest:
                return mask
        raise PayloadError(f"this client's mask was damaged; {_AGAIN}", kind="mismatch")

    def _outgrown(self, digest: bytes) -> Mask | None:
        """The mask before a new one of that digest; None where it is lost, or nothing of it is worth carrying over."""
        if not self._state.residuals[0] or self._has_mask(digest):
            return None
        try:
            return self._old_mask()
        except PayloadError:
            return None


def _needed(mask: Mask, header: Header) -> Mask | None:
    # Only who is asked about pruned weights needs it again; for others it would take room beside the training.
    return mask if any(asked.count for asked in header.growth) else None


def _bare(header: Header) -> Header:
    """Of what is kept: neither what a request builds on nor what it asks."""
    return Header(header.experiment, header.round, header.mask_digest)


def _carried(data: bytes, moves: Moves) -> bytes:
    values = _residual(data, moves.stays.size)
    return b"" if values is None else moves.carried(values, grown=0).tobytes()


def _residual(data: bytes, count: int) -> Floats | None:
    if not data or len(data) != 4 * count:
        return None
    values = np.frombuffer(data, dtype="<f4")
    return values if np.isfinite(values).all() else None
