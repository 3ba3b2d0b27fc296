"""The kept pattern of every prunable tensor, as a value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np
import torch

from hedgerow.codec.packed_bits import PackedBits, Packer
from hedgerow.codec.symbols import Bits
from hedgerow.errors import PayloadError, PruningError

__all__ = ["Mask"]

Shapes = Mapping[str, Sequence[int]]

_BLOCK = 1 << 17
"""So many weights at once, where positions take 8 bytes each for a moment."""


class _Place(NamedTuple):
    """The bits of a tensor: its shape, and from where to before where they are."""

    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Mask:
    """Ordered names to ``torch.bool`` tensors on the CPU, True = kept.

    It takes a bit for each weight; a tensor is made when it is asked for. Whatever is handed out is the caller's own,
    so a mask never changes. Two masks are equal when names, their order, shapes and bits are equal.

    Raises:
        PruningError: there is no weight at all, or a tensor is not ``torch.bool``.

    >>> mask = Mask({"0.weight": torch.tensor([[True, False], [True, True]])})
    >>> mask.kept, mask.density, mask.packed().hex()
    (3, 0.75, 'b0')
    """

    tensors: InitVar[Mapping[str, torch.Tensor]]
    _places: dict[str, _Place] = field(init=False)
    _packed: bytes = field(init=False)
    _digest: bytes | None = field(init=False, default=None)

    def __post_init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.dtype != torch.bool:
                raise PruningError(f"the mask of {name!r} is {tensor.dtype}: pass a torch.bool tensor, True = kept")
        places, size = _placed({name: tensor.shape for name, tensor in tensors.items()})
        packer = Packer(size)
        for name, tensor in tensors.items():
            packer.put(places[name].begin, tensor.detach().cpu().numpy().reshape(-1))
        self._hold(places, packer.packed().data.tobytes())

    def _hold(self, places: dict[str, _Place], packed: bytes) -> None:
        if not packed:
            raise PruningError("a mask needs at least one weight: pass the tensors of a model that has some")
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_packed", packed)

    @classmethod
    def dense(cls, shapes: Shapes) -> Mask:
        """The mask that keeps every weight of tensors of these shapes."""
        size = _placed(shapes)[1]
        return cls.unpack(PackedBits(np.zeros((size + 7) // 8, dtype=np.uint8), size).inverted().data.tobytes(), shapes)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, shapes: Shapes) -> Mask:
        """Read back what `packed` wrote, for tensors of these shapes.

        Raises:
            PayloadError: the length is not exact, or a padding bit is set.
        """
        places, size = _placed(shapes)
        if len(data) != (size + 7) // 8:
            raise PayloadError(
                f"a mask of {size} weights takes {(size + 7) // 8} bytes, but {len(data)} arrived: "
                "check that both ends use the same model"
            )
        packed = bytes(data)
        if size % 8 and packed[-1] & 0xFF >> size % 8:
            raise PayloadError(
                f"the {-size % 8} padding bits of a packed mask must be 0, but some are set: "
                "the bytes are corrupt, send them again"
            )
        mask = object.__new__(cls)
        object.__setattr__(mask, "_digest", None)
        mask._hold(places, packed)
        return mask

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, in order."""
        return {name: place.shape for name, place in self._places.items()}

    @property
    def size(self) -> int:
        """Number of weights, kept or not."""
        return max(place.end for place in self._places.values())

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return self.bits().ones()

    @property
    def density(self) -> float:
        """Kept fraction of all weights."""
        return self.kept / self.size

    def layer_kept(self) -> dict[str, int]:
        """Number of kept weights of each tensor."""
        bits = self.bits()
        return {name: bits.ones_between(place.begin, place.end) for name, place in self._places.items()}

    def layer_density(self) -> dict[str, float]:
        """Kept fraction of each tensor; 1 for a tensor without elements."""
        sizes = {name: place.end - place.begin for name, place in self._places.items()}
        return {name: kept / sizes[name] if sizes[name] else 1.0 for name, kept in self.layer_kept().items()}

    def kept_indices(self) -> dict[str, torch.Tensor]:
        """Flat row-major positions of the kept weights of each tensor: int32, shape (kept,), ascending.

        All of them at once take 4 bytes for each kept weight; see `kept_index`.
        """
        return {name: self.kept_index(name) for name in self._places}

    def kept_index(self, name: str) -> torch.Tensor:
        """Those of one tensor."""
        bits, place, start = self.bits(), self._places[name], 0
        positions = np.empty(bits.ones_between(place.begin, place.end), dtype=np.int32)
        for begin in range(place.begin, place.end, _BLOCK):
            found = np.flatnonzero(bits.between(begin, min(begin + _BLOCK, place.end)))
            positions[start : start + found.size] = found + (begin - place.begin)
            start += found.size
        return torch.from_numpy(positions)

    def packed(self) -> bytes:
        """The bits of all tensors one after the other, row-major, most significant bit first.

        Padded with zero bits at the very end only: ``ceil(size / 8)`` bytes.
        """
        return self._packed

    def bits(self) -> PackedBits:
        """The same, to be read and not to be changed."""
        return PackedBits(np.frombuffer(self._packed, dtype=np.uint8), self.size)

    def flat(self) -> Bits:
        """The bits of all tensors one after the other, row-major: shape (size,), a byte each."""
        return self.bits().to_bools()

    @property
    def digest(self) -> bytes:
        """16 bytes that name this mask: the first half of SHA-256 over names, shapes and packed bits."""
        if self._digest is None:
            # JSON keeps names and shapes apart, so that no two different masks feed the hash the same bytes.
            header = json.dumps([[name, *shape] for name, shape in self.shapes.items()]).encode()
            value = hashlib.sha256(len(header).to_bytes(8, "big") + header)
            value.update(self._packed)
            object.__setattr__(self, "_digest", value.digest()[:16])
        assert self._digest is not None
        return self._digest

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and their tensors, in order; each is made when its turn comes."""
        return ((name, self[name]) for name in self._places)

    def __getitem__(self, name: str) -> torch.Tensor:
        place = self._places[name]
        return torch.from_numpy(self.bits().between(place.begin, place.end).reshape(place.shape))

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        same = list(self._places.items()) == list(other._places.items())
        return same and self._packed == other._packed

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Mask({len(self)} tensors, {self.kept} of {self.size} kept, {self.digest.hex()[:8]})"


def _placed(shapes: Shapes) -> tuple[dict[str, _Place], int]:
    """Where the bits of each tensor are, and how many they are together."""
    places, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + prod(shape)
        places[name] = _Place(tuple(shape), begin, end)
    return places, end
