"""Whole messages of experiments with a tiny network: first contact, what changed since, and replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hedgerow.codec import (
    Header,
    Section,
    TensorShape,
    Votes,
    decode_payload,
    encode_payload,
    has_mask,
    mask_section,
    plain_mask_section,
    read_mask,
)
from hedgerow.config import AggregationSettings, Experiment, SignSettings, WireSettings
from hedgerow.exchange import Architecture, Exchange, Measures, Version
from hedgerow.privacy import seeded_words
from hedgerow.pruning import Mask
from hedgerow.representation import Representation, Signs, Weights
from tests.vectors.form import Example, Json, Way, bits_at, listed, normals, packed, picked, unpacked

__all__ = ["PAYLOAD_EXAMPLES", "PAYLOAD_WAYS"]

Knows = Mapping[str, Json]

_LIMIT = 1 << 16
_EXPERIMENT = "0102030405ff"
_TENSORS = [
    ["0.weight", [6, 1, 3, 3], True],
    ["3.weight", [4, 24], True],
    ["1.weight", [6], False],
    ["1.bias", [6], False],
    ["3.bias", [4], False],
    ["1.running_mean", [6], False],
    ["1.running_var", [6], False],
]
_WEIGHTS, _FLOATS, _VARIANCES = 150, 28, 6
_MASK = bits_at("mask", _WEIGHTS, np.repeat([0.7, 0.5], [54, 96]))
_LAYERS = [int(np.count_nonzero(_MASK[:54])), int(np.count_nonzero(_MASK[54:]))]
_KEPT = sum(_LAYERS)
_SHAPES = {"0.weight": (6, 1, 3, 3), "3.weight": (4, 24)}
_DIGEST = Mask.unpack(np.packbits(_MASK).tobytes(), _SHAPES).digest


def _tensors(knows: Knows) -> tuple[TensorShape, ...]:
    return tuple(TensorShape(name, tuple(shape), prunable) for name, shape, prunable in knows["tensors"])


def _exchange(knows: Knows) -> Exchange:
    settings, tensors = knows["settings"], _tensors(knows)
    wire = WireSettings(**settings.get("wire", {}))
    aggregation = AggregationSettings(**settings.get("aggregation", {}))
    signs = SignSettings(**settings.get("signs", {}))
    experiment = Experiment(representation=settings["representation"], wire=wire, aggregation=aggregation, signs=signs)
    floats = {tensor.name: tensor.shape for tensor in tensors if not tensor.prunable}
    architecture = Architecture(
        {tensor.name: tensor.shape for tensor in tensors if tensor.prunable},
        floats,
        tuple(name.rpartition(".")[2] == "running_var" for name in floats),
    )
    representation: Representation = (
        Signs(signs, aggregation, wire) if settings["representation"] == "signs" else Weights(wire)
    )
    return Exchange.of(experiment, architecture=architecture, representation=representation)


def _mask(knows: Knows, exchange: Exchange) -> Any:
    return unpacked(knows["mask"], exchange.architecture.weights)


def _layers(mask: Any, exchange: Exchange) -> list[int]:
    ends = np.cumsum([int(np.prod(shape)) for shape in exchange.architecture.prunable.values()])
    return [int(np.count_nonzero(part)) for part in np.split(mask, ends[:-1])]


def _type(exchange: Exchange, name: str) -> Any:
    if name == "kept" and isinstance(exchange.representation, Signs):
        return np.uint8
    return np.float32 if exchange.floats.wire.down == "fp32" else np.int16


def _version(told: Knows | None, exchange: Exchange) -> Version | None:
    if told is None:
        return None
    kept, floats = (np.array(told[name], dtype=_type(exchange, name)) for name in ("kept", "floats"))
    return Version(told["round"], _DIGEST, kept, floats)


def _in_words(header: Header) -> Json:
    return {
        "experiment": header.experiment.hex(),
        "round": header.round,
        "mask_digest": header.mask_digest.hex(),
        "base": header.base,
        "tensors": [[tensor.name, list(tensor.shape), tensor.prunable] for tensor in header.tensors],
    }


def _header(round: int, **others: Any) -> Header:
    return Header(bytes.fromhex(_EXPERIMENT), round, _DIGEST, **others)


def _write_request(knows: Knows, source: Knows) -> dict[str, Json]:
    exchange, base = _exchange(knows), _version(knows["version"], _exchange(knows))
    version = _version(source, exchange)
    assert version is not None
    header, first = _header(version.round, base=0 if base is None else base.round), list[Section]()
    if knows["mask"] is None:
        header = _header(version.round, tensors=_tensors(knows))
        shapes = list(exchange.architecture.prunable.values())
        first = [plain_mask_section(_MASK) if exchange.plain else mask_section(_MASK, shapes=shapes)]
    sections = exchange.encode(version, base=base, layers=_LAYERS)
    return {"data": encode_payload(header, [*first, *sections]).hex()}


def _read_request(knows: Knows, sent: Knows) -> Json:
    exchange = _exchange(knows)
    header, sections = decode_payload(bytes.fromhex(sent["data"]), limit=_LIMIT)
    exchange.architecture.require(header.tensors)
    holds: dict[str, Json] = {"header": _in_words(header)}
    if has_mask(sections):
        shapes = list(exchange.architecture.prunable.values())
        mask = read_mask(sections, exchange.architecture.weights, shapes=shapes)
        holds["mask"] = packed(mask)
        found = Mask.unpack(np.packbits(mask).tobytes(), exchange.architecture.prunable)
        assert found.digest == header.mask_digest
    else:
        mask = _mask(knows, exchange)
    version = exchange.decode(
        sections,
        round=header.round,
        mask_digest=header.mask_digest,
        base=_version(knows["version"], exchange) if header.base else None,
        layers=_layers(mask, exchange),
    )
    start = exchange.starts(version)
    names = {"kept": version.kept, "floats": version.floats, "kept_start": start[0], "floats_start": start[1]}
    return holds | {name: listed(values) for name, values in names.items()}


def _write_reply(knows: Knows, trained: Knows) -> dict[str, Json]:
    exchange = _exchange(knows)
    version = _version(knows["version"], exchange)
    assert version is not None
    start = exchange.starts(version)
    generator = np.random.Generator(np.random.PCG64(1))
    said = exchange.reply(
        start[0] + trained["kept"],
        np.where(np.arange(_FLOATS) < _FLOATS - _VARIANCES, start[1] + trained["floats"], start[1] * np.float32(1.25)),
        version=version,
        layers=_LAYERS,
        memory=(None, None),
        generator=generator,
        draw=seeded_words(generator),
    )
    sections = [*(one.section for one in said), Measures(**trained["counts"]).section()]
    return {"data": encode_payload(_header(version.round), sections).hex()}


def _read_reply(knows: Knows, sent: Knows) -> Json:
    exchange = _exchange(knows)
    header, sections = decode_payload(bytes.fromhex(sent["data"]), limit=_LIMIT)
    version, layers = _version(knows["version"], exchange), _layers(_mask(knows, exchange), exchange)
    assert version is not None
    kept, floats = exchange.read_reply(sections, version=version, layers=layers)
    counts = Measures.read(sections)
    assert isinstance(floats.values, np.ndarray)
    votes = isinstance(kept.values, Votes)
    return {
        "header": _in_words(header),
        "votes" if votes else "kept": listed(
            kept.values.to_floats() if isinstance(kept.values, Votes) else kept.values
        ),
        "floats": listed(floats.values),
        "counts": {name: getattr(counts, name) for name in counts.__dataclass_fields__},
    }


PAYLOAD_WAYS = {
    "request": Way(_write_request, _read_request),
    "reply": Way(_write_reply, _read_reply, inexact=True),
}

_COUNTS = {
    "examples": 120, "loss": 0.75, "seconds": 1.5,
    "forward_bytes": 1000000.0, "backward_bytes": 2000000.0, "update_bytes": 300000.0, "native_share": 1.0,
}  # fmt: skip
_THETA = np.clip(normals("theta", _KEPT, scale=0.4), -1, 1)
_FIRST = np.concatenate(
    [normals("floats", _FLOATS - _VARIANCES), np.abs(normals("variances", _VARIANCES)) + np.float32(0.1)]
)
_SECOND = (_FIRST * 1.01).astype(np.float32)
_MOVED = np.clip(_THETA + normals("moved", _KEPT, scale=0.04), -1, 1)
_TRAINED = {
    "kept": np.where(picked("still", _KEPT, [0.2, 0.8]) > 0, normals("steps", _KEPT, scale=0.3), np.float32(0)),
    "floats": normals("float steps", _FLOATS, scale=0.05),
    "counts": _COUNTS,
}

_SETTINGS: dict[str, dict[str, Json]] = {
    "drift that abstains, bfloat16 down, multiples of steps up": {
        "representation": "signs",
        "aggregation": {"signs": "drift", "levels": 16},
        "signs": {"abstain": 0.8, "voters": "largest"},
        "wire": {"down": "bf16", "up": "uniform"},
    },
    "drift of voters that are drawn": {
        "representation": "signs",
        "aggregation": {"signs": "drift", "levels": 16},
        "signs": {"abstain": 0.55, "voters": "random"},
        "wire": {"down": "bf16", "up": "uniform"},
    },
    "drift without abstaining, binary16": {
        "representation": "signs",
        "aggregation": {"signs": "drift", "levels": 3},
        "wire": {"down": "fp16", "up": "fp16"},
    },
    "vote, plain": {
        "representation": "signs",
        "aggregation": {"signs": "vote"},
        "wire": {"coder": "plain"},
    },
    "innovation, binary32": {
        "representation": "signs",
        "aggregation": {"signs": "innovation", "levels": 8},
    },
    "vote, binary16 down, blocks up": {
        "representation": "signs",
        "aggregation": {"signs": "vote"},
        "signs": {"initial_vote": 0.25},
        "wire": {"down": "fp16", "up": "int8"},
    },
    "weights, binary16 down, blocks up": {
        "representation": "weights",
        "wire": {"down": "fp16", "up": "int8"},
    },
    "weights, bfloat16 down, half of the multiples of steps up": {
        "representation": "weights",
        "wire": {"down": "bf16", "up": "uniform", "step": 0.5, "drop": 0.5},
    },
}


def _story(name: str, settings: dict[str, Json]) -> list[Example]:
    """First contact, the reply, and the next round for who remembers the first and for who does not."""
    both = {"settings": settings, "tensors": _TENSORS}
    exchange = _exchange(both)
    first, second = (
        {"round": round, "kept": version.kept.tolist(), "floats": version.floats.tolist()}
        for round, kept, floats in ((1, _THETA, _FIRST), (2, _MOVED, _SECOND))
        for version in (exchange.version(round, _DIGEST, kept=kept, floats=floats),)
    )
    known = {**both, "mask": packed(_MASK)}
    found = [
        Example(f"{name}: first contact", "request", {**both, "mask": None, "version": None}, first),
        Example(f"{name}: the reply", "reply", {**known, "version": first}, _TRAINED),
        Example(f"{name}: the next round, whole", "request", {**known, "version": None}, second),
    ]
    if exchange.remembers:
        found.append(Example(f"{name}: the next round, changes", "request", {**known, "version": first}, second))
    return found


PAYLOAD_EXAMPLES = tuple(example for name, settings in _SETTINGS.items() for example in _story(name, settings))
