"""The kept pattern of every prunable tensor, as a value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt
import torch

from hedgerow.errors import PayloadError, PruningError

__all__ = ["Mask"]

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Mask:
    """Ordered names to ``torch.bool`` tensors on the CPU, True = kept.

    The constructor copies what it is given and every accessor hands out a copy, so a mask never changes. Two masks
    are equal when names, their order, shapes and bits are equal.

    Raises:
        PruningError: there is no weight at all, or a tensor is not ``torch.bool``.

    >>> mask = Mask({"0.weight": torch.tensor([[True, False], [True, True]])})
    >>> mask.kept, mask.density, mask.packed().hex()
    (3, 0.75, 'b0')
    """

    tensors: InitVar[Mapping[str, torch.Tensor]]
    _bits: dict[str, torch.Tensor] = field(init=False)
    _digest: bytes | None = field(init=False, default=None)

    def __post_init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.dtype != torch.bool:
                raise PruningError(f"the mask of {name!r} is {tensor.dtype}: pass a torch.bool tensor, True = kept")
        if not sum(tensor.numel() for tensor in tensors.values()):
            raise PruningError("a mask needs at least one weight: pass the tensors of a model that has some")
        copies = {
            name: torch.empty(tensor.shape, dtype=torch.bool).copy_(tensor.detach()) for name, tensor in tensors.items()
        }
        object.__setattr__(self, "_bits", copies)

    @classmethod
    def dense(cls, shapes: Shapes) -> Mask:
        """The mask that keeps every weight of tensors of these shapes."""
        return cls({name: torch.ones(tuple(shape), dtype=torch.bool) for name, shape in shapes.items()})

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview, shapes: Shapes) -> Mask:
        """Read back what `packed` wrote, for tensors of these shapes.

        Raises:
            PayloadError: the length is not exact, or a padding bit is set.
        """
        size = sum(prod(shape) for shape in shapes.values())
        if len(data) != (size + 7) // 8:
            raise PayloadError(
                f"a mask of {size} weights takes {(size + 7) // 8} bytes, but {len(data)} arrived: "
                "check that both ends use the same model"
            )
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8)).view(np.bool_)
        if bits[size:].any():
            raise PayloadError(
                f"the {len(bits) - size} padding bits of a packed mask must be 0, but some are set: "
                "the bytes are corrupt, send them again"
            )
        tensors, start = {}, 0
        for name, shape in shapes.items():
            stop = start + prod(shape)
            tensors[name] = torch.from_numpy(bits[start:stop].reshape(tuple(shape)))
            start = stop
        return cls(tensors)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, in order."""
        return {name: tuple(bits.shape) for name, bits in self._bits.items()}

    @property
    def size(self) -> int:
        """Number of weights, kept or not."""
        return sum(bits.numel() for bits in self._bits.values())

    @property
    def kept(self) -> int:
        """Number of kept weights."""
        return sum(self.layer_kept().values())

    @property
    def density(self) -> float:
        """Kept fraction of all weights."""
        return self.kept / self.size

    def layer_kept(self) -> dict[str, int]:
        """Number of kept weights of each tensor."""
        return {name: int(np.count_nonzero(bits.numpy())) for name, bits in self._bits.items()}

    def layer_density(self) -> dict[str, float]:
        """Kept fraction of each tensor; 1 for a tensor without elements."""
        kept = self.layer_kept()
        return {name: kept[name] / bits.numel() if bits.numel() else 1.0 for name, bits in self._bits.items()}

    def kept_indices(self) -> dict[str, torch.Tensor]:
        """Flat row-major positions of the kept weights of each tensor: int32, shape (kept,), ascending."""
        return {
            name: torch.from_numpy(np.flatnonzero(bits.numpy()).astype(np.int32)) for name, bits in self._bits.items()
        }

    def packed(self) -> bytes:
        """The bits of all tensors one after the other, row-major, most significant bit first.

        Padded with zero bits at the very end only: ``ceil(size / 8)`` bytes.
        """
        return np.packbits(self.flat()).tobytes()

    def flat(self) -> npt.NDArray[np.bool_]:
        """The bits of all tensors one after the other, row-major: shape (size,)."""
        return np.concatenate([bits.numpy().reshape(-1) for bits in self._bits.values()])

    @property
    def digest(self) -> bytes:
        """16 bytes that name this mask: the first half of SHA-256 over names, shapes and packed bits."""
        if self._digest is None:
            # JSON keeps names and shapes apart, so that no two different masks feed the hash the same bytes.
            header = json.dumps([[name, *shape] for name, shape in self.shapes.items()]).encode()
            value = hashlib.sha256(len(header).to_bytes(8, "big") + header + self.packed()).digest()[:16]
            object.__setattr__(self, "_digest", value)
        assert self._digest is not None
        return self._digest

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and copies of their tensors, in order."""
        return ((name, bits.clone()) for name, bits in self._bits.items())

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._bits[name].clone()

    def __contains__(self, name: object) -> bool:
        return name in self._bits

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        # torch.equal is False for different shapes.
        return list(self._bits) == list(other._bits) and all(
            torch.equal(bits, other._bits[name]) for name, bits in self._bits.items()
        )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Mask({len(self)} tensors, {self.kept} of {self.size} kept, {self.digest.hex()[:8]})"
