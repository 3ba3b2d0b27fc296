"""The tiny network that whole messages are about, and what both ends know of an experiment with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hedgerow.codec import Header, TensorShape
from hedgerow.config import AggregationSettings, Experiment, SignSettings, WireSettings
from hedgerow.exchange import Architecture, Exchange, Version
from hedgerow.pruning import Mask
from hedgerow.representation import Representation, Signs, Weights
from tests.vectors.form import Json, bits_at, packed

__all__ = [
    "CHANNELS",
    "EXPERIMENT",
    "FLOATS",
    "KEPT",
    "LIMIT",
    "MASK",
    "TENSORS",
    "VARIANCES",
    "Knows",
    "exchange_in",
    "in_words",
    "layers_of",
    "mask_in",
    "tensors_in",
    "told_version",
    "version_in",
]

Knows = Mapping[str, Json]

LIMIT = 1 << 16
"""Bytes; the most that a payload here may have."""
EXPERIMENT = bytes.fromhex("0102030405ff")
TENSORS = [
    ["0.weight", [6, 1, 3, 3], True],
    ["3.weight", [4, 24], True],
    ["1.weight", [6], False],
    ["1.bias", [6], False],
    ["3.bias", [4], False],
    ["1.running_mean", [6], False],
    ["1.running_var", [6], False],
]
FLOATS, VARIANCES, CHANNELS = 28, 6, 6
MASK = packed(bits_at("mask", 150, np.repeat([0.7, 0.5], [54, 96])))
_SHAPES = {"0.weight": (6, 1, 3, 3), "3.weight": (4, 24)}
KEPT = Mask.unpack(bytes.fromhex(MASK), _SHAPES).kept


def tensors_in(knows: Knows) -> tuple[TensorShape, ...]:
    """The network's tensors."""
    return tuple(TensorShape(name, tuple(shape), prunable) for name, shape, prunable in knows["tensors"])


def exchange_in(knows: Knows) -> Exchange:
    """What an experiment with these settings says of this network."""
    settings, tensors = knows["settings"], tensors_in(knows)
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


def mask_in(text: str, exchange: Exchange) -> Mask:
    """A mask from its bits, eight a byte, in hexadecimal."""
    return Mask.unpack(bytes.fromhex(text), exchange.architecture.prunable)


def layers_of(mask: Mask) -> list[int]:
    """Numbers of kept weights of the prunable tensors."""
    return list(mask.layer_kept().values())


def version_in(told: Knows | None, mask: Mask, exchange: Exchange) -> Version | None:
    """A version as the files tell it."""
    if told is None:
        return None
    kept, floats = (np.array(told[name], dtype=_type(exchange, name)) for name in ("kept", "floats"))
    return Version(told["round"], mask.digest, kept, floats)


def told_version(version: Version) -> dict[str, Json]:
    """Inverse of `version_in`."""
    return {"round": version.round, "kept": version.kept.tolist(), "floats": version.floats.tolist()}


def in_words(header: Header) -> dict[str, Json]:
    """A header as the files tell it; a task that is not to train, and growth, only where they are there."""
    words: dict[str, Json] = {
        "experiment": header.experiment.hex(),
        "round": header.round,
        "mask_digest": header.mask_digest.hex(),
        "base": header.base,
        "tensors": [[tensor.name, list(tensor.shape), tensor.prunable] for tensor in header.tensors],
    }
    if header.task:
        words["task"] = header.task
    if header.growth:
        # Who marks nothing says nothing of marks.
        words["growth"] = [
            [asked.tensor, asked.count, *([asked.marked] if asked.marked else [])] for asked in header.growth
        ]
    return words


def _type(exchange: Exchange, name: str) -> Any:
    if name == "kept":
        return exchange.representation.filler().dtype
    return np.float32 if exchange.floats.wire.down == "fp32" else np.int16
