"""Whole messages about networks that are only looked at: to choose among, or to find the statistics of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hedgerow.client.pool import pool_in
from hedgerow.codec import Candidate, Header, decode_candidates, decode_payload, encode_payload
from hedgerow.errors import PayloadError
from hedgerow.exchange import (
    Exchange,
    losses_section,
    read_losses,
    read_samples,
    read_statistics,
    samples_section,
    statistics_section,
)
from hedgerow.files import sealed
from hedgerow.recalibration import Moments
from hedgerow.v1 import payload_pb2 as pb
from tests.vectors.form import Example, Json, Way, bits_at, listed, normals, packed
from tests.vectors.network import (
    CHANNELS,
    EXPERIMENT,
    FLOATS,
    LIMIT,
    MASK,
    TENSORS,
    VARIANCES,
    Knows,
    exchange_in,
    in_words,
    layers_of,
    mask_in,
    tensors_in,
)
from tests.vectors.sections import told_moments

__all__ = ["LOOK_EXAMPLES", "LOOK_WAYS"]


def _write_networks(knows: Knows, source: Sequence[Knows]) -> dict[str, Json]:
    return {"data": _networks(knows, source).hex()}


def _networks(knows: Knows, source: Sequence[Knows]) -> bytes:
    exchange, asks_losses = exchange_in(knows), knows["task"] == pb.TASK_EVALUATE
    candidates = []
    for told in source:
        mask = mask_in(told["mask"], exchange)
        kept, floats, layers = _floats(told["kept"]), _floats(told["floats"]), layers_of(mask)
        version = exchange.version(0, mask.digest, kept=kept, floats=floats, layers=layers)
        sections = exchange.encode(version, base=None, layers=layers)
        sections = sections[1:] if asks_losses else [exchange.encode_mask(mask), *sections]
        candidates.append(Candidate(mask.digest, {section.kind: section for section in sections}))
    tensors = () if asks_losses else tensors_in(knows)
    return encode_payload(Header(EXPERIMENT, 0, b"", tensors=tensors, task=knows["task"]), [], candidates=candidates)


def _read_networks(knows: Knows, sent: Knows) -> Json:
    exchange, read = exchange_in(knows), _reader(knows["most"])
    data = bytes.fromhex(sent["data"])
    header, _ = decode_payload(data, limit=LIMIT)
    exchange.architecture.require(header.tensors)
    candidates = read(data)
    if header.task == pb.TASK_EVALUATE:
        pool = b"" if knows["pool"] is None else sealed(bytes.fromhex(knows["pool"]))
        candidates = pool_in(pool, header, candidates, read=read)
    return {"header": in_words(header), "networks": [_network(candidate, exchange) for candidate in candidates]}


def _reader(most: int) -> Callable[[bytes], list[Candidate]]:
    def read(data: bytes) -> list[Candidate]:
        return decode_candidates(data, limit=LIMIT, most=most)

    return read


def _network(candidate: Candidate, exchange: Exchange) -> Json:
    mask, digest = exchange.decode_mask(candidate.sections), candidate.mask_digest
    if mask.digest != digest:
        raise PayloadError("the mask is another one", kind="mismatch")
    version = exchange.decode(candidate.sections, round=0, mask_digest=digest, base=None, layers=layers_of(mask))
    starts = exchange.starts(version)
    values = {"kept": version.kept, "floats": version.floats, "kept_start": starts[0], "floats_start": starts[1]}
    words = {name: listed(found) for name, found in values.items()}
    return {"mask_digest": digest.hex(), "mask": packed(mask.flat()), **words}


def _write_looked(knows: Knows, source: Knows) -> dict[str, Json]:
    if "losses" in source:
        said, task = losses_section(source["losses"]), pb.TASK_EVALUATE
    else:
        moments = [Moments(np.array(mean), np.array(variance), 1) for mean, variance in source["statistics"]]
        said, task = statistics_section(moments), pb.TASK_RECALIBRATE
    header = Header(EXPERIMENT, knows["round"], b"", task=task)
    return {"data": encode_payload(header, [said, samples_section(source["samples"])]).hex()}


def _read_looked(knows: Knows, sent: Knows) -> Json:
    header, sections = decode_payload(bytes.fromhex(sent["data"]), limit=LIMIT)
    if header != Header(EXPERIMENT, knows["round"], b"", task=knows["task"]):
        raise PayloadError("the reply is to another request", kind="mismatch")
    holds: dict[str, Json] = {"header": in_words(header), "samples": read_samples(sections)}
    if header.task == pb.TASK_EVALUATE:
        return holds | {"losses": listed(read_losses(sections, networks=knows["networks"]))}
    found = read_statistics(sections, networks=knows["networks"], channels=knows["channels"])
    return holds | {"statistics": told_moments(found)}


LOOK_WAYS = {"networks": Way(_write_networks, _read_networks), "looked": Way(_write_looked, _read_looked)}


def _floats(values: Json) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def _moments(name: str) -> tuple[Json, Json]:
    return normals(f"{name} mean", CHANNELS).tolist(), np.abs(normals(f"{name} variance", CHANNELS)).tolist()


def _candidate(name: str, mask: str) -> dict[str, Json]:
    kept = int(np.unpackbits(np.frombuffer(bytes.fromhex(mask), dtype=np.uint8)).sum())
    variances = np.abs(normals(f"{name} variances", VARIANCES)) + np.float32(0.1)
    floats = np.concatenate([normals(f"{name} floats", FLOATS - VARIANCES), variances])
    return {"mask": mask, "kept": np.clip(normals(f"{name} kept", kept, scale=0.4), -1, 1), "floats": floats}


def _pooled(candidate: Knows, name: str) -> dict[str, Json]:
    """The candidate with the statistics of all devices, which are its last floats here."""
    means, variances = map(_floats, _moments(name))
    return {**candidate, "floats": np.concatenate([candidate["floats"][: -2 * CHANNELS], means, variances])}


_POOL = [
    _candidate("one", MASK),
    _candidate("two", packed(bits_at("another mask", 150, np.repeat([0.3, 0.7], [54, 96])))),
]
_POOLED = [_pooled(candidate, name) for candidate, name in zip(_POOL, ("one", "two"), strict=True)]

_SETTINGS: dict[str, dict[str, Json]] = {
    "a choice, drift, bfloat16 down": {
        "representation": "signs",
        "aggregation": {"signs": "drift", "levels": 16},
        "wire": {"down": "bf16", "up": "uniform"},
    },
    "a choice, weights, binary32": {"representation": "weights"},
}


def _story(name: str, settings: dict[str, Json]) -> list[Example]:
    """Both steps of a choice: the pool, what is said of it, the pooled statistics, what is said then."""
    both = {"settings": settings, "tensors": TENSORS, "most": len(_POOL)}
    first = {**both, "task": pb.TASK_RECALIBRATE}
    second = {**both, "task": pb.TASK_EVALUATE, "pool": _networks(first, _POOL).hex()}
    asked = {"round": 0, "networks": len(_POOL), "channels": CHANNELS}
    return [
        Example(f"{name}: the pool", "networks", first, _POOL),
        Example(
            f"{name}: the statistics",
            "looked",
            {**asked, "task": pb.TASK_RECALIBRATE},
            {"statistics": [_moments(f"{name} one"), _moments(f"{name} two")], "samples": 64},
        ),
        Example(f"{name}: the pooled statistics", "networks", second, _POOLED),
        Example(
            f"{name}: the losses",
            "looked",
            {**asked, "task": pb.TASK_EVALUATE},
            {"losses": [2.25, 2.3125], "samples": 64},
        ),
    ]


LOOK_EXAMPLES = (
    *(example for name, settings in _SETTINGS.items() for example in _story(name, settings)),
    Example(
        "the statistics of the network between two rounds",
        "looked",
        {"round": 3, "networks": 1, "channels": CHANNELS, "task": pb.TASK_RECALIBRATE},
        {"statistics": [_moments("between")], "samples": 16},
    ),
)
