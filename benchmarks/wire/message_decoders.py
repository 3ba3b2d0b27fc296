"""Both ends of whole messages. A string is the number of an experiment, and then a payload."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.wire.decoder import Decoder
from hedgerow.codec import (
    Header,
    PackedBits,
    decode_payload,
    encode_payload,
    has_mask,
    mask_section,
    plain_bits_section,
    plain_mask_section,
    read_mask,
)
from hedgerow.config import AggregationSettings, PrivacySettings, SignSettings, WireSettings
from hedgerow.errors import PayloadError
from hedgerow.exchange import Architecture, Exchange, Measures, Version, floats_of
from hedgerow.privacy import seeded_words
from hedgerow.representation import Representation, Signs, Weights
from hedgerow.server.aggregation import Aggregator, FloatMean, Nested, SignMean
from hedgerow.server.fleet import Reply
from hedgerow.server.fold import Fold
from hedgerow.server.reading import Reader
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["ARCHITECTURE", "MEASURES", "message_decoders", "spoken"]

_PRUNABLE: dict[str, tuple[int, ...]] = {"first.weight": (12, 3, 3, 3), "last.weight": (10, 30)}
ARCHITECTURE = Architecture(
    _PRUNABLE,
    {"first.bias": (12,), "norm.weight": (12,), "norm.running_var": (12,), "last.bias": (10,)},
    (False, False, True, False),
)
_MASK = np.arange(ARCHITECTURE.weights) % 3 == 0
_PACKED = PackedBits.from_bools(_MASK)
_LAYER_KEPT = [int(np.count_nonzero(part)) for part in np.split(_MASK, [12 * 27])]
_HEADER = Header(experiment=bytes(6), round=5, mask_digest=bytes(16))
_LIMIT = 16_384


@dataclass(frozen=True, slots=True)
class _Talk:
    """One experiment, the version that its round 5 says, and the one of round 2."""

    exchange: Exchange
    version: Version
    base: Version

    @property
    def layers(self) -> list[int]:
        return _LAYER_KEPT


def message_decoders(generator: np.random.Generator) -> Iterator[Decoder]:
    """That of requests and that of replies, with seeds that the generator draws."""
    talks = [_talk(representation, wire, generator) for representation, wire in spoken()]
    yield Decoder.of_any("request", talks, _run_request, _request_seeds)
    yield Decoder.of_any("reply", talks, _run_reply, functools.partial(_reply_seeds, generator=generator))


def spoken() -> Iterator[tuple[Representation, WireSettings]]:
    """How the kept weights travel in each of some experiments, and how floats do."""
    ours = WireSettings(down="bf16", up="uniform")
    yield Signs(SignSettings(abstain=0.9, voters="largest"), AggregationSettings(), ours), ours
    yield Signs(SignSettings(abstain=0.5), AggregationSettings(), ours), ours
    half = WireSettings(down="fp16", up="fp16")
    yield Signs(SignSettings(), AggregationSettings(signs="vote"), half), half
    plain = WireSettings(coder="plain")
    yield Signs(SignSettings(), AggregationSettings(signs="mean"), plain), plain
    yield Signs(SignSettings(abstain=0.5, voters="largest"), AggregationSettings(), plain), plain
    yield Signs(SignSettings(), AggregationSettings(), WireSettings()), WireSettings()
    blocks = WireSettings(down="fp16", up="int8", drop=0.5)
    yield Weights(blocks), blocks
    yield Weights(ours), ours
    steps = WireSettings(down="uniform", up="uniform")
    yield Weights(steps), steps


def _talk(representation: Representation, wire: WireSettings, generator: np.random.Generator) -> _Talk:
    exchange = Exchange(ARCHITECTURE, representation, floats_of(wire, PrivacySettings()))
    kept = np.clip(generator.standard_normal(int(_MASK.sum())) / 3, -1, 1).astype(np.float32)
    moved = np.clip(kept + generator.standard_normal(kept.size) / 20, -1, 1).astype(np.float32)
    floats = np.abs(generator.standard_normal(ARCHITECTURE.float_count)).astype(np.float32)
    base = exchange.version(2, _HEADER.mask_digest, kept=kept, floats=floats, layers=_LAYER_KEPT)
    version = exchange.version(5, _HEADER.mask_digest, kept=moved, floats=floats * np.float32(1.01), layers=_LAYER_KEPT)
    return _Talk(exchange, version, base)


def _request_seeds(talk: _Talk) -> Iterator[bytes]:
    whole = talk.exchange.encode(talk.version, base=None, layers=talk.layers)
    yield encode_payload(_HEADER, whole)
    shapes = list(_PRUNABLE.values())
    for mask in (mask_section(_PACKED, shapes=shapes), plain_mask_section(_PACKED)):
        yield encode_payload(replace(_HEADER, tensors=ARCHITECTURE.tensors()), [mask, *whole])
    if talk.exchange.remembers:
        changed = talk.exchange.encode(talk.version, base=talk.base, layers=talk.layers)
        yield encode_payload(replace(_HEADER, base=2), changed)


def _run_request(data: bytes, talk: _Talk) -> None:
    """What a client does with a request, up to the training."""
    header, sections = decode_payload(data, limit=_LIMIT)
    ARCHITECTURE.require(header.tensors)
    if has_mask(sections):
        assert read_mask(sections, _MASK.size, shapes=list(_PRUNABLE.values())).count == _MASK.size
    base = talk.base if header.base == talk.base.round else None
    version = talk.exchange.decode(
        sections, round=header.round, mask_digest=header.mask_digest, base=base, layers=talk.layers
    )
    kept, floats = talk.exchange.starts(version)
    assert (kept.size, floats.size) == (sum(talk.layers), ARCHITECTURE.float_count)
    assert np.isfinite(kept).all()
    assert np.isfinite(floats).all()


def _reply_seeds(talk: _Talk, generator: np.random.Generator) -> Iterator[bytes]:
    kept, floats = talk.exchange.starts(talk.version)
    for scale in (0.0, 0.1):
        said = talk.exchange.reply(
            (kept + scale * generator.standard_normal(kept.size)).astype(np.float32),
            (floats * np.exp(scale * generator.standard_normal(floats.size))).astype(np.float32),
            version=talk.version,
            layers=talk.layers,
            memory=(None, None),
            generator=generator,
            draw=seeded_words(generator),
        )
        yield encode_payload(_HEADER.of_reply(), [*(one.section for one in said), MEASURES.section()])
    representation = talk.exchange.representation
    if isinstance(representation, Signs) and not representation.settings.abstain:
        bits = plain_bits_section(pb.KIND_SIGNS, PackedBits.from_bools(kept > 0))
        yield encode_payload(_HEADER.of_reply(), [bits, said[1].section, MEASURES.section()])


MEASURES = Measures(
    examples=600,
    loss=1.5,
    seconds=2.5,
    forward_bytes=3e7,
    backward_bytes=4e7,
    update_bytes=2e7,
    native_share=0.9,
)


def _run_reply(data: bytes, talk: _Talk) -> None:
    """What a coordinator does with a reply."""
    signs = isinstance(talk.exchange.representation, Signs)
    count, others = sum(talk.layers), ARCHITECTURE.float_count
    part: Aggregator = SignMean(count) if signs else FloatMean(count)
    kept = Nested([part], places=[None], count=count)
    floats = Nested([FloatMean(others)], places=[None], count=others)
    fold = Fold({0: Reader(_HEADER, talk.version, talk.layers, talk.exchange)}, kept=kept, floats=floats)
    fold.take(Reply(1, data, None, {}, len(data), len(data)), name="client-1")
    if fold.failures:
        raise PayloadError(fold.failures[0].reason, kind=fold.failures[0].kind)
    assert fold.clients == {1}
    assert np.isfinite(kept.mean()).all()
    assert np.isfinite(floats.mean()).all()
    assert np.isfinite(fold.train_loss())
