"""Both ends of messages about a mask that changes. A string is the number of an experiment, and then a payload."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.wire.decoder import Decoder
from benchmarks.wire.message_decoders import ARCHITECTURE, MEASURES, spoken
from hedgerow.client.memory import ClientState, Memories
from hedgerow.codec import Growth, Header, decode_payload, encode_payload, has_mask
from hedgerow.config import PrivacySettings
from hedgerow.errors import PayloadError
from hedgerow.exchange import (
    Exchange,
    Version,
    asked_counts,
    floats_of,
    growth_section,
    marked_counts,
    own_mask_section,
)
from hedgerow.files import sealed
from hedgerow.privacy import seeded_words
from hedgerow.pruning import Mask, Moves
from hedgerow.representation import Representation, Said, Signs
from hedgerow.server.aggregation import Aggregator, FloatMean, HeldMean, Nested, SignMean
from hedgerow.server.fleet import Reply
from hedgerow.server.fold import Fold
from hedgerow.server.growth import GradientSum
from hedgerow.server.reading import Reader
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["change_decoders"]

_LIMIT = 16_384
_GROWTH = (Growth(0, 10), Growth(1, 20))


@dataclass(frozen=True, slots=True)
class _Talk:
    """One experiment whose version 5 is of another mask than version 2, and a client that has that one."""

    exchange: Exchange
    old: Mask
    new: Mask
    version: Version
    base: Version
    state: ClientState

    @property
    def header(self) -> Header:
        return Header(bytes(6), 5, self.new.digest)

    @property
    def layers(self) -> list[int]:
        return list(self.new.layer_kept().values())


def change_decoders(generator: np.random.Generator) -> Iterator[Decoder]:
    """Those of requests with a new mask, of replies with gradients, and of replies under a device's own mask."""
    talks = [
        _talk(Exchange(ARCHITECTURE, how, floats_of(wire, PrivacySettings())), generator) for how, wire in spoken()
    ]
    yield Decoder.of_any("new_mask", talks, _run_request, _request_seeds)
    yield Decoder.of_any("growth", talks, _run_reply, functools.partial(_reply_seeds, generator=generator))
    own = [talk for talk in talks if not isinstance(talk.exchange.representation, Signs)]
    yield Decoder.of_any("own_mask", own, _run_own, functools.partial(_own_seeds, generator=generator))


def _talk(exchange: Exchange, generator: np.random.Generator) -> _Talk:
    bits = np.arange(ARCHITECTURE.weights) % 3 == 0
    goes = generator.choice(np.flatnonzero(bits), 12, replace=False)
    comes = generator.choice(np.flatnonzero(~bits), 12, replace=False)
    other = bits.copy()
    other[goes], other[comes] = False, True
    old, new = (Mask.unpack(np.packbits(one).tobytes(), ARCHITECTURE.prunable) for one in (bits, other))
    kept = np.clip(generator.standard_normal(old.kept) / 3, -1, 1).astype(np.float32)
    floats = np.abs(generator.standard_normal(ARCHITECTURE.float_count)).astype(np.float32)
    layers = list(old.layer_kept().values())
    base = exchange.version(2, old.digest, kept=kept, floats=floats, layers=layers)
    moved = Moves.between(old, new).carried(kept, grown=0.1)
    version = exchange.version(
        5, new.digest, kept=moved, floats=floats * np.float32(1.01), layers=list(new.layer_kept().values())
    )
    header = Header(bytes(6), 2, old.digest)
    held = encode_payload(header, exchange.encode(base, base=None, layers=layers))
    state = ClientState(
        rounds=1,
        mask=encode_payload(header, [exchange.encode_mask(old)]),
        version=sealed(held) if exchange.remembers else b"",
        residuals=(np.ones(old.kept, dtype="<f4").tobytes(), b""),
    )
    return _Talk(exchange, old, new, version, base, state)


def _request_seeds(talk: _Talk) -> Iterator[bytes]:
    exchange, header = talk.exchange, replace(talk.header, growth=_GROWTH)
    whole = exchange.encode(talk.version, base=None, layers=talk.layers)
    yield encode_payload(header, [exchange.encode_mask(talk.new), *whole])
    if exchange.plain:
        return
    delta = exchange.encode_mask(talk.new, base=talk.old)
    yield encode_payload(header, [delta, *whole])
    if exchange.remembers:
        moves = Moves.between(talk.old, talk.new)
        carried = exchange.carried(talk.base, moves, mask_digest=talk.new.digest)
        changed = exchange.encode(talk.version, base=carried, layers=talk.layers)
        yield encode_payload(replace(header, base=2), [delta, *changed])


def _run_request(data: bytes, talk: _Talk) -> None:
    """What a client does with a request, up to the training, and what it knows afterwards."""
    exchange, memories = talk.exchange, Memories(talk.exchange, talk.state, limit=_LIMIT)
    header, sections = decode_payload(data, limit=_LIMIT)
    ARCHITECTURE.require(header.tensors)
    if has_mask(sections) or pb.KIND_MASK_DELTA in sections:
        mask = memories.new_mask(header, sections)
    else:
        mask = exchange.decode_mask(memories.mask(header.mask_digest))
    assert mask.digest == header.mask_digest
    counts, layers = asked_counts(header.growth, mask=mask), tuple(mask.layer_kept().values())
    assert sum(counts.values()) <= mask.kept
    assert sum(marked_counts(header.growth, layers=layers)) <= mask.kept
    base = memories.version(header.base, header.mask_digest, layers=layers) if header.base else None
    version = exchange.decode(sections, round=header.round, mask_digest=header.mask_digest, base=base, layers=layers)
    kept, floats = exchange.starts(version)
    assert (kept.size, floats.size) == (mask.kept, ARCHITECTURE.float_count)
    assert np.isfinite(kept).all()
    left, _ = memories.residuals(mask.digest, layers=layers)
    assert left is None or left.shape == kept.shape
    silent = Said(next(iter(sections.values())))
    after = memories.after(header, version, layers=layers, said=(silent, silent), sections=sections)
    if exchange.remembers:
        again = Memories(exchange, after, limit=_LIMIT).version(header.round, mask.digest, layers=layers)
        assert again.kept.tobytes() == version.kept.tobytes()


def _reply_seeds(talk: _Talk, generator: np.random.Generator) -> Iterator[bytes]:
    exchange = talk.exchange
    kept, floats = exchange.starts(talk.version)
    said = exchange.reply(
        (kept + 0.1 * generator.standard_normal(kept.size)).astype(np.float32),
        floats,
        version=talk.version,
        layers=talk.layers,
        memory=(None, None),
        generator=generator,
        draw=seeded_words(generator),
    )
    for share in (0.0, 0.5, 1.0):
        found = {}
        for asked, (name, bits) in zip(_GROWTH, talk.new.items(), strict=True):
            pruned = np.flatnonzero(~bits.numpy().reshape(-1))
            places = np.sort(generator.choice(pruned, int(share * asked.count), replace=False))
            found[name] = (places, generator.standard_normal(places.size).astype(np.float32))
        top = growth_section(found, mask=talk.new, growth=_GROWTH, wire=exchange.floats.wire)
        yield encode_payload(talk.header.of_reply(), [*(one.section for one in said), MEASURES.section(), top])


def _run_reply(data: bytes, talk: _Talk) -> None:
    """What a coordinator does with a reply to a round that adjusts the mask."""
    count, others = talk.new.kept, ARCHITECTURE.float_count
    gradients = GradientSum(talk.new, _GROWTH)
    fold = Fold(
        {0: Reader(replace(talk.header, growth=_GROWTH), talk.version, talk.layers, talk.exchange)},
        kept=Nested([_aggregator(talk.exchange.representation, count)], places=[None], count=count),
        floats=Nested([FloatMean(others)], places=[None], count=others),
        gradients=gradients,
    )
    fold.take(Reply(1, data, None, {}, len(data), len(data)), name="client-1")
    if fold.failures:
        raise PayloadError(fold.failures[0].reason, kind=fold.failures[0].kind)
    assert fold.clients == {1}
    for (name, (positions, means)), asked in zip(gradients.mean().items(), _GROWTH, strict=True):
        assert positions.size == means.size <= asked.count
        assert not talk.new[name].numpy().reshape(-1)[positions].any()
        assert np.isfinite(means).all()


def _own_seeds(talk: _Talk, generator: np.random.Generator) -> Iterator[bytes]:
    exchange = talk.exchange
    for share in (0.0, 0.5, 1.0):
        tensors = dict(talk.new.items())
        for asked, (name, bits) in zip(_GROWTH, talk.new.items(), strict=True):
            flat = tensors[name].numpy().reshape(-1)
            count = int(share * asked.count)
            flat[generator.choice(np.flatnonzero(bits.numpy().reshape(-1)), count, replace=False)] = False
            flat[generator.choice(np.flatnonzero(~bits.numpy().reshape(-1)), count, replace=False)] = True
        own = Mask(tensors)
        version = exchange.carried(talk.version, Moves.between(talk.new, own), mask_digest=own.digest)
        kept, floats = exchange.starts(version)
        said = exchange.reply(
            (kept + 0.1 * generator.standard_normal(kept.size)).astype(np.float32),
            floats,
            version=version,
            layers=talk.layers,
            memory=(None, None),
            generator=generator,
            draw=seeded_words(generator),
        )
        mask = own_mask_section(own, sent=talk.new, exchange=exchange)
        yield encode_payload(talk.header.of_reply(), [*(one.section for one in said), MEASURES.section(), mask])


def _run_own(data: bytes, talk: _Talk) -> None:
    """What a coordinator does with a reply to a round in which devices change the mask."""
    others, held = ARCHITECTURE.float_count, HeldMean(talk.new.size)
    header = replace(talk.header, growth=_GROWTH)
    fold = Fold(
        {0: Reader(header, talk.version, talk.layers, talk.exchange, sent=talk.new)},
        kept=Nested([FloatMean(talk.new.kept)], places=[None], count=talk.new.kept),
        floats=Nested([FloatMean(others)], places=[None], count=others),
        held=held,
    )
    fold.take(Reply(1, data, None, {}, len(data), len(data)), name="client-1")
    if fold.failures:
        raise PayloadError(fold.failures[0].reason, kind=fold.failures[0].kind)
    own = Mask.unpack(np.packbits(held.held()).tobytes(), ARCHITECTURE.prunable)
    assert own.layer_kept() == talk.new.layer_kept()
    assert np.isfinite(held.mean()).all()


def _aggregator(representation: Representation, kept: int) -> Aggregator:
    return SignMean(kept) if isinstance(representation, Signs) else FloatMean(kept)
