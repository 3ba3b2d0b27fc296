"""Both ends of messages about networks that are only looked at. A string is a payload, or the number of an experiment
and then one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.wire.decoder import Decoder
from benchmarks.wire.message_decoders import ARCHITECTURE, spoken
from hedgerow.client.pool import pool_in
from hedgerow.codec import Candidate, Header, decode_candidates, decode_payload, encode_payload
from hedgerow.config import PrivacySettings
from hedgerow.errors import PayloadError
from hedgerow.exchange import (
    LARGEST_LOSS,
    LARGEST_STATISTIC,
    Exchange,
    floats_of,
    losses_section,
    read_losses,
    read_samples,
    read_statistics,
    samples_section,
    statistics_section,
)
from hedgerow.files import sealed
from hedgerow.pruning import Mask
from hedgerow.recalibration import Moments, pooled
from hedgerow.v1 import payload_pb2 as pb

__all__ = ["look_decoders"]

_NETWORKS, _CHANNELS = 3, 12
_LIMIT = 16_384


@dataclass(frozen=True, slots=True)
class _Choice:
    """One experiment, and the request that a client keeps as its pool."""

    exchange: Exchange
    pool: bytes


def look_decoders(generator: np.random.Generator) -> Iterator[Decoder]:
    """Those of statistics, of losses and of networks to choose from, with seeds that the generator draws."""
    yield Decoder("statistics", _run_statistics, tuple(_statistics_seeds(generator)))
    yield Decoder("losses", _run_losses, tuple(_losses_seeds(generator)))
    exchanges = [Exchange(ARCHITECTURE, how, floats_of(wire, PrivacySettings())) for how, wire in spoken()]
    found = [_choice(exchange, generator) for exchange in exchanges]

    def networks(data: bytes) -> None:
        _run_networks(data[1:], found[(data[0] if data else 0) % len(found)][0])

    seeds = [bytes([number]) + payload for number, (_, payloads) in enumerate(found) for payload in payloads]
    yield Decoder("networks", networks, tuple(seeds))


def _header(task: pb.Task) -> Header:
    return Header(bytes(6), 0, b"", task=task)


def _statistics_seeds(generator: np.random.Generator) -> Iterator[bytes]:
    for scale in (0.0, 1.0, 1e9, 1e30):
        moments = [
            Moments(scale * generator.standard_normal(_CHANNELS), scale * generator.random(_CHANNELS), 1)
            for _ in range(_NETWORKS)
        ]
        yield encode_payload(_header(pb.TASK_RECALIBRATE), [statistics_section(moments), samples_section(64)])


def _run_statistics(data: bytes) -> None:
    _, sections = decode_payload(data, limit=_LIMIT)
    found = read_statistics(sections, networks=_NETWORKS, channels=_CHANNELS)
    assert len(found) == _NETWORKS
    for one in found:
        assert one.mean.shape == one.variance.shape == (_CHANNELS,)
        both = pooled([one, Moments(np.zeros(_CHANNELS), np.ones(_CHANNELS), 2**24)])
        assert np.isfinite(both.mean).all()
        assert (both.variance >= 0).all()
        assert (both.variance <= 2 * LARGEST_STATISTIC**2).all()


def _losses_seeds(generator: np.random.Generator) -> Iterator[bytes]:
    for losses in (generator.random(_NETWORKS), np.full(_NETWORKS, np.nan), np.zeros(_NETWORKS)):
        yield encode_payload(_header(pb.TASK_EVALUATE), [losses_section(losses.tolist()), samples_section(2**24)])


def _run_losses(data: bytes) -> None:
    _, sections = decode_payload(data, limit=_LIMIT)
    losses = read_losses(sections, networks=_NETWORKS)
    assert losses.shape == (_NETWORKS,)
    assert ((losses >= 0) & (losses <= LARGEST_LOSS)).all()
    assert 1 <= read_samples(sections) <= 2**24


def _choice(exchange: Exchange, generator: np.random.Generator) -> tuple[_Choice, list[bytes]]:
    whole, floats = [], []
    for density in (0.05, 0.3):
        bits = generator.random(ARCHITECTURE.weights) < density
        mask = Mask.unpack(np.packbits(bits).tobytes(), ARCHITECTURE.prunable)
        kept = np.clip(generator.standard_normal(mask.kept) / 3, -1, 1).astype(np.float32)
        others = np.abs(generator.standard_normal(ARCHITECTURE.float_count)).astype(np.float32)
        layers = list(mask.layer_kept().values())
        version = exchange.version(0, mask.digest, kept=kept, floats=others, layers=layers)
        sections = exchange.encode(version, base=None, layers=layers)
        both = [exchange.encode_mask(mask), *sections]
        whole.append(Candidate(mask.digest, {section.kind: section for section in both}))
        floats.append(Candidate(mask.digest, {pb.KIND_FLOATS: sections[1]}))
    pool = encode_payload(_header(pb.TASK_RECALIBRATE), [], candidates=whole)
    return _Choice(exchange, sealed(pool)), [
        pool,
        encode_payload(_header(pb.TASK_EVALUATE), [], candidates=floats),
    ]


def _run_networks(data: bytes, choice: _Choice) -> None:
    """What a client does with networks to choose from, up to their first layer."""
    header, _ = decode_payload(data, limit=_LIMIT)
    ARCHITECTURE.require(header.tensors)
    candidates = _read(data)
    if header.task == pb.TASK_EVALUATE:
        candidates = pool_in(choice.pool, header, candidates, read=_read)
    assert len(candidates) <= _NETWORKS
    exchange = choice.exchange
    for candidate in candidates:
        mask = exchange.decode_mask(candidate.sections)
        if mask.digest != candidate.mask_digest:
            raise PayloadError("the mask of a network to choose does not match its digest", kind="mismatch")
        layers = list(mask.layer_kept().values())
        version = exchange.decode(candidate.sections, round=0, mask_digest=mask.digest, base=None, layers=layers)
        kept, floats = exchange.starts(version)
        assert (kept.size, floats.size) == (mask.kept, ARCHITECTURE.float_count)
        assert np.isfinite(kept).all()
        assert np.isfinite(floats).all()


def _read(data: bytes) -> list[Candidate]:
    return decode_candidates(data, limit=_LIMIT, most=_NETWORKS)
