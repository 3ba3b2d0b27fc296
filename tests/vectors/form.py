"""The form of the files, and inputs that are the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.codec import Bits, Floats, Levels, PackedBits

__all__ = [
    "FOLDER",
    "Example",
    "Json",
    "Way",
    "bits_at",
    "holds_of",
    "listed",
    "normals",
    "packed",
    "picked",
    "sent_of",
    "text_of",
    "unpacked",
]

FOLDER = Path(__file__).parents[2] / "protos" / "vectors"

Json: TypeAlias = Any
"""What a JSON file may hold."""

_LISTED = 700
"""Longer arrays are told by their digest."""


@dataclass(frozen=True, slots=True)
class Way:
    """How contents of one sort travel.

    Attributes:
        encode: what both ends know and the contents, to what travels.
        decode: what both ends know and what travels, to the contents as the files tell them.
        inexact: whether the last bits of floats may differ between machines.
    """

    encode: Callable[[Mapping[str, Json], Any], dict[str, Json]]
    decode: Callable[[Mapping[str, Json], Mapping[str, Json]], Json]
    inexact: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One vector before it is written.

    Attributes:
        name: what it is about, in a few words.
        what: the name of its way.
        knows: what both ends know.
        source: what its encoder is given.
    """

    name: str
    what: str
    knows: Mapping[str, Json]
    source: Any


def sent_of(example: Example, ways: Mapping[str, Way]) -> dict[str, Json]:
    """What travels."""
    return ways[example.what].encode(example.knows, example.source)


def holds_of(vector: Mapping[str, Json], ways: Mapping[str, Way]) -> Json:
    """What the vector's bytes hold, as its file should say it."""
    return ways[vector["what"]].decode(vector["knows"], vector["sent"])


def text_of(vectors: Sequence[Mapping[str, Json]]) -> str:
    """A file: a JSON list with one line for each field."""
    blocks = [
        ",\n".join(f'  "{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in vector.items())
        for vector in vectors
    ]
    return "[\n" + ",\n".join(f" {{\n{block}\n }}" for block in blocks) + "\n]\n"


def listed(values: npt.NDArray[Any]) -> Json:
    """An array as a list; if it is long, its count, its type and the SHA-256 of its little-endian bytes."""
    if values.size <= _LISTED:
        return values.tolist()
    little = values.astype(values.dtype.newbyteorder("<"))
    digest = hashlib.sha256(little.tobytes()).hexdigest()
    return {"count": int(values.size), "type": str(values.dtype), "sha256": digest}


def packed(bits: Bits) -> str:
    """Bits eight a byte, most significant first, as hexadecimal digits."""
    return PackedBits.from_bools(bits).data.tobytes().hex()


def unpacked(text: str, count: int) -> Bits:
    """Inverse of `packed`."""
    return PackedBits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count).to_bools()


def picked(name: str, count: int, shares: Sequence[float]) -> Levels:
    """(count,) symbols, each with its share; another name gives other symbols."""
    bounds = np.cumsum(shares)[:-1]
    return np.searchsorted(bounds, _unit(name, count), side="right").astype(np.uint8)


def bits_at(name: str, count: int, share: float | npt.NDArray[np.float64]) -> Bits:
    """(count,) bits, each 1 with that share."""
    bits: Bits = _unit(name, count) < share
    return bits


def normals(name: str, count: int, *, scale: float = 1.0) -> Floats:
    """(count,) float32, about normally distributed."""
    sums = _unit(name, 4 * count).reshape(count, 4).sum(axis=1) - 2
    values: Floats = (scale * 1.7 * sums).astype(np.float32)
    return values


def _unit(name: str, count: int) -> npt.NDArray[np.float64]:
    data = hashlib.shake_256(name.encode()).digest(4 * count)
    return np.frombuffer(data, dtype="<u4") / 2.0**32
