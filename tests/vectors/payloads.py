"""How whole messages about training are written and read: requests, and replies to them."""

from __future__ import annotations

import numpy as np

from hedgerow.codec import Growth, Header, Section, Votes, decode_payload, encode_payload, has_mask
from hedgerow.errors import PayloadError
from hedgerow.exchange import (
    Exchange,
    Measures,
    Version,
    asked_counts,
    growth_section,
    kept_gradients_section,
    marked_counts,
    own_mask_section,
    read_growth,
    read_kept_gradients,
    read_own_mask,
)
from hedgerow.privacy import seeded_words
from hedgerow.pruning import Mask, Moves, marked
from hedgerow.v1 import payload_pb2 as pb
from tests.vectors.form import Json, Way, listed, packed
from tests.vectors.network import (
    EXPERIMENT,
    FLOATS,
    LIMIT,
    MASK,
    VARIANCES,
    Knows,
    exchange_in,
    in_words,
    layers_of,
    mask_in,
    tensors_in,
    version_in,
)

__all__ = ["PAYLOAD_WAYS"]


def _write_request(knows: Knows, source: Knows) -> dict[str, Json]:
    exchange = exchange_in(knows)
    mask = mask_in(source.get("mask", MASK), exchange)
    old = None if knows["mask"] is None else mask_in(knows["mask"], exchange)
    base, first = _base(knows, old, mask, exchange), list[Section]()
    version = version_in(source, mask, exchange)
    assert version is not None
    if old is None:
        first = [exchange.encode_mask(mask)]
    elif old != mask:
        first = [exchange.encode_mask(mask, base=old)]
    header = Header(
        EXPERIMENT,
        version.round,
        mask.digest,
        base=0 if base is None else base.round,
        tensors=tensors_in(knows) if old is None else (),
        task=source.get("task", pb.TASK_TRAIN),
        growth=_growth(source),
    )
    sections = exchange.encode(version, base=base, layers=layers_of(mask))
    return {"data": encode_payload(header, [*first, *sections]).hex()}


def _read_request(knows: Knows, sent: Knows) -> Json:
    exchange = exchange_in(knows)
    header, sections = decode_payload(bytes.fromhex(sent["data"]), limit=LIMIT)
    exchange.architecture.require(header.tensors)
    holds: dict[str, Json] = {"header": in_words(header)}
    old = None if knows["mask"] is None else mask_in(knows["mask"], exchange)
    mask = old
    if has_mask(sections) or pb.KIND_MASK_DELTA in sections:
        mask = exchange.decode_mask(sections, base=None if has_mask(sections) else old)
        holds["mask"] = packed(mask.flat())
    if mask is None or mask.digest != header.mask_digest:
        raise PayloadError("the mask is another one", kind="mismatch")
    asked_counts(header.growth, mask=mask)
    layers = layers_of(mask)
    counts = marked_counts(header.growth, layers=layers)
    base = _base(knows, old, mask, exchange) if header.base else None
    if header.base != (0 if base is None else base.round):
        raise PayloadError("the version that it builds on is another one", kind="mismatch")
    if base is not None and old != mask:
        holds["base_kept"] = listed(base.kept)
    version = exchange.decode(sections, round=header.round, mask_digest=header.mask_digest, base=base, layers=layers)
    start = exchange.starts(version)
    names = {"kept": version.kept, "floats": version.floats, "kept_start": start[0], "floats_start": start[1]}
    if any(counts):
        scores = exchange.representation.drop_scores(start[0])
        names["marked"] = np.flatnonzero(marked(scores, layers=layers, counts=counts))
    return holds | {name: listed(values) for name, values in names.items()}


def _base(knows: Knows, old: Mask | None, mask: Mask, exchange: Exchange) -> Version | None:
    """The version that the reader has, carried over to the mask of the request."""
    if old is None or knows["version"] is None:
        return None
    version = version_in(knows["version"], old, exchange)
    assert version is not None
    return version if old == mask else exchange.carried(version, Moves.between(old, mask), mask_digest=mask.digest)


def _growth(told: Knows) -> tuple[Growth, ...]:
    return tuple(Growth(*said) for said in told.get("growth", []))


def _own_masks(knows: Knows) -> bool:
    settings = knows["settings"].get("adjustment", {})
    return bool(settings.get("by") == "devices" and _growth(knows))


def _by_gradient(knows: Knows) -> bool:
    return bool(knows["settings"].get("adjustment", {}).get("criterion") == "gradient")


def _write_reply(knows: Knows, trained: Knows) -> dict[str, Json]:
    exchange = exchange_in(knows)
    sent = mask = mask_in(knows["mask"], exchange)
    version = version_in(knows["version"], mask, exchange)
    assert version is not None
    if _own_masks(knows):
        mask = mask_in(trained["own_mask"], exchange)
        version = exchange.carried(version, Moves.between(sent, mask), mask_digest=mask.digest)
    start = exchange.starts(version)
    generator = np.random.Generator(np.random.PCG64(1))
    said = exchange.reply(
        start[0] + trained["kept"],
        np.where(np.arange(FLOATS) < FLOATS - VARIANCES, start[1] + trained["floats"], start[1] * np.float32(1.25)),
        version=version,
        layers=layers_of(mask),
        memory=(None, None),
        generator=generator,
        draw=seeded_words(generator),
    )
    sections = [*(one.section for one in said), Measures(**trained["counts"]).section()]
    if _own_masks(knows):
        sections.append(own_mask_section(mask, sent=sent, exchange=exchange))
    elif any(asked.count for asked in _growth(knows)):
        found = {
            name: (np.array(positions, dtype=np.int64), np.array(values, dtype=np.float32))
            for name, (positions, values) in trained["gradients"].items()
        }
        sections.append(growth_section(found, mask=mask, growth=_growth(knows), wire=exchange.floats.wire))
        if _by_gradient(knows):
            own = np.array(trained["kept_gradients"], dtype=np.float32)
            sections.append(kept_gradients_section(own, wire=exchange.floats.wire))
    header = Header(EXPERIMENT, version.round, bytes.fromhex(trained["mask_digest"]))
    return {"data": encode_payload(header, sections).hex()}


def _read_reply(knows: Knows, sent: Knows) -> Json:
    exchange = exchange_in(knows)
    mask = mask_in(knows["mask"], exchange)
    header, sections = decode_payload(bytes.fromhex(sent["data"]), limit=LIMIT)
    version = version_in(knows["version"], mask, exchange)
    assert version is not None
    if _own_masks(knows):
        sent_mask, mask = mask, read_own_mask(sections, sent=mask, growth=_growth(knows), exchange=exchange)
        version = exchange.carried(version, Moves.between(sent_mask, mask), mask_digest=mask.digest)
    kept, floats = exchange.read_reply(sections, version=version, layers=layers_of(mask))
    counts = Measures.read(sections)
    assert isinstance(floats.values, np.ndarray)
    votes = isinstance(kept.values, Votes)
    holds = {
        "header": in_words(header),
        "votes" if votes else "kept": listed(
            kept.values.to_floats() if isinstance(kept.values, Votes) else kept.values
        ),
        "floats": listed(floats.values),
        "counts": {name: getattr(counts, name) for name in counts.__dataclass_fields__},
    }
    if _own_masks(knows):
        holds["mask"] = packed(mask.flat())
    elif any(asked.count for asked in _growth(knows)):
        found = read_growth(sections, mask=mask, growth=_growth(knows))
        holds["gradients"] = {
            name: {"positions": listed(positions), "values": listed(values)}
            for name, (positions, values) in found.items()
        }
        if _by_gradient(knows):
            holds["kept_gradients"] = listed(read_kept_gradients(sections, mask.kept))
    return holds


PAYLOAD_WAYS = {
    "request": Way(_write_request, _read_request),
    "reply": Way(_write_reply, _read_reply, inexact=True),
}
