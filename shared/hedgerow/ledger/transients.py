"""What a unit needs only while it runs: working memory of kernels, dense weights, and what packing takes.

All of it is beside what is kept, what is still to be read, the unit's result and the gradients that flow. How torch's
convolutions copy what they read was measured (oneDNN with AVX-512, tensors with channels first): other processors may
need less or more, which is what calibration is for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Container, Mapping

from hedgerow.activations.layout import PIECE
from hedgerow.ledger.plan import Plan
from hedgerow.ledger.units import Unit
from hedgerow.native.library import status
from hedgerow.sparse.growth import NATIVE_PIECE
from hedgerow.sparse.kernels import Geometry, scratch_bytes, scratch_held

__all__ = ["FOUND", "RESULT", "Transients"]

_TAP = 16
"""Bytes a kept weight that a native kernel needs while it runs, where there is no library to say it."""
_PACK = 10
"""Bytes an element of a piece while it is rounded: as float32, noise of 16 bits and as float32; see `Noise`."""
_UNPACK = 4
"""The same while it is read: as float32."""
FOUND = 8
"""Bytes a gradient of a pruned weight that was found: its place and its size."""
RESULT = 12
"""The same as an answer has it, with a place of 8 bytes."""
_TAKE = 20
"""The same while others are taken in: which ones stay, and these once more."""
_LOOK = 24
"""Bytes a value that is looked at: it, its code, where kept ones are and where it is not 0."""
_STANDARDISE = 8, 12
"""Bytes a kept weight while it is standardised, and while its gradient goes back through that."""
_DRAW = 4, 8
"""The same where it is made of a mask that is drawn."""
_BLOCK = 16
"""Channels that torch's convolutions work on at once, and fill up with zeros to."""


class Transients:
    """What each unit needs while it runs.

    Args:
        plan: how the network is trained.
        sizes: shape of each prunable weight.
        kept: kept weights of each.
        size_of: bytes of a tensor, by its number.
        standard: prunable weights that are standardised.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        sizes: Mapping[str, tuple[int, ...]],
        kept: Mapping[str, int],
        size_of: Callable[[int], int],
        standard: Container[str] = (),
    ) -> None:
        self._plan, self._sizes, self._kept, self._bytes = plan, sizes, kept, size_of
        self._standard = standard

    def forward(self, unit: Unit) -> int:
        """Bytes while it runs forward."""
        packing = self._packing(unit)
        if unit.call.kind != "weight":
            return packing
        if unit.standard or self._plan.sampled:
            # The weights are made before the layer's result is.
            packing = max(packing, self._making(unit)[0] * self._kept[unit.call.weight] - self._bytes(unit.makes))
        if not self._plan.native:
            return max(packing, self._dense_forward(unit))
        scratch = self._beyond(self._scratch(unit)[0]) + self._values(unit)
        if not unit.normed:
            # A ReLU before it works in place.
            return max(packing, scratch)
        # ReLU's signs are read off its input, which is made for that before the result is.
        seen = self._bytes(unit.reads[0]) if unit.in_bits(self._plan) else 0
        return max(packing, scratch, seen + packing - self._bytes(unit.makes))

    def backward(self, unit: Unit) -> int:
        """Bytes while it runs back, beside what it makes of what it keeps."""
        plan = self._plan
        unpacking = _UNPACK * self._piece(unit) if self._packs(unit) else 0
        if unit.in_bits(plan):
            # A gradient that went through ReLU is another tensor, but for a kernel that does norm and ReLU at once.
            if unit.call.kind == "norm":
                unpacking = max(unpacking, self._bytes(unit.makes))
            elif not unit.normed:
                unpacking = max(unpacking, self._bytes(unit.reads[0]) - self._bytes(unit.makes))
        if unit.call.kind != "weight":
            return unpacking
        if unit.standard or plan.sampled:
            unpacking = max(unpacking, self._making(unit)[1] * self._kept[unit.call.weight])
        again = 4 * self._kept[unit.call.weight] if plan.parts else 0  # added to what the parts before gave
        if not plan.native:
            return max(unpacking, self._dense_backward(unit)) + again
        _, back, grad = self._scratch(unit)
        signs = self._values(unit)
        onward = self._bytes(unit.reads[0]) if unit.reads[0] else 0
        if self._packs(unit) and not unit.normed:
            # What was unpacked has the room of the gradient of the input until there is one.
            onward = 0
        # The gradient of the weights is made before there is one of the input.
        weights = self._beyond(grad) + self._search(unit) - onward
        return max(unpacking, self._beyond(back) + signs, weights + signs) + again

    def wanted(self, unit: Unit) -> int:
        """Gradients of pruned weights that are looked for in a layer."""
        if self._plan.grows is None or not unit.call.weight:
            return 0
        kept = self._kept[unit.call.weight]
        pruned = math.prod(self._sizes[unit.call.weight]) - kept
        return min(pruned, math.ceil(self._plan.grows * kept))

    def _search(self, unit: Unit) -> int:
        """What is needed to look for them, with native kernels."""
        wanted = self.wanted(unit)
        return _TAKE * wanted + _LOOK * self._piece_kept(unit) if wanted else 0

    def _piece_kept(self, unit: Unit) -> int:
        """For how many weights a gradient is made at once, with native kernels."""
        if self._plan.grows is None:
            return self._kept[unit.call.weight]
        return min(NATIVE_PIECE, math.prod(self._sizes[unit.call.weight]))

    def held(self, units: tuple[Unit, ...]) -> int:
        """Working memory that native kernels keep from call to call."""
        if not self._plan.native or not status().available:
            return 0
        sizes = (size for unit in units if unit.call.kind == "weight" for size in self._scratch(unit))
        return scratch_held(sizes, threads=self._plan.threads)

    def whole(self, name: str) -> bool:
        """Whether a layer trains its weight as it is."""
        return not (self._plan.signs or name in self._standard) and self._kept[name] == math.prod(self._sizes[name])

    def _scratch(self, unit: Unit) -> tuple[int, int, int]:
        call = unit.call
        weight, kept = self._sizes[call.weight], self._kept[call.weight]
        shape = call.shape
        planes = (shape[0], shape[1], shape[2]) if len(shape) == 3 else (math.prod(shape), 1, 1)
        linear = len(weight) == 2
        geometry = Geometry() if linear else call.geometry
        if geometry is None or not status().available:
            # The input with zeros around it, and where each kept weight finds its own.
            guess = 4 * self._plan.samples * call.padded + _TAP * kept
            return guess, guess, guess
        asked = (*planes, self._plan.samples), weight, geometry
        forward, back, grad = _sizes_of(*asked, kept, self._plan.threads)
        if self._plan.grows is not None:
            _, _, grad = _sizes_of(*asked, self._piece_kept(unit), self._plan.threads)
        return forward, back, grad

    def _making(self, unit: Unit) -> tuple[int, int]:
        return _STANDARDISE if unit.standard else _DRAW

    def _beyond(self, size: int) -> int:
        return 0 if status().available and scratch_held([size], threads=self._plan.threads) else size

    def _values(self, unit: Unit) -> int:
        """Weights that are made of what is trained, for as long as the layer runs: those of signs."""
        return 4 * self._kept[unit.call.weight] if self._plan.signs and not self._plan.sampled else 0

    def _dense_forward(self, unit: Unit) -> int:
        name = unit.call.weight
        weight = 4 * math.prod(self._sizes[name])
        return (0 if self.whole(name) else weight) + self._copies(unit, weight)

    def _dense_backward(self, unit: Unit) -> int:
        name = unit.call.weight
        weight = 4 * math.prod(self._sizes[name])
        convolves = len(self._sizes[name]) > 2
        work = 0
        if convolves:
            onward, made = self._input(unit), self._bytes(unit.makes)
            strided = unit.call.geometry is not None and max(unit.call.geometry.stride) > 1
            further = 2 * onward - weight if strided and unit.call.geometry and unit.call.geometry.groups == 1 else 0
            work = max(onward + made, weight, further) if unit.reads[0] else made + onward
        if self.whole(name):
            return work
        # The weight and its gradient; of that the kept part is taken last.
        both = (2 if convolves else 1) * weight + work - 4 * self._kept[name]
        return max(both, weight)

    def _copies(self, unit: Unit, weight: int) -> int:
        """What torch's convolution makes of input, weight and result, in the order that is fastest for it."""
        if len(self._sizes[unit.call.weight]) == 2:
            return 0
        made = self._bytes(unit.makes)
        padded = made * _filled(unit.call.channels) // unit.call.channels - made
        return max(self._input(unit) + weight + padded, made)

    def _input(self, unit: Unit) -> int:
        """Bytes of a layer's input; a tensor's, or of the samples, which are read as they are."""
        return self._bytes(unit.reads[0]) if unit.reads[0] else 0

    def _packing(self, unit: Unit) -> int:
        return _PACK * self._piece(unit) if self._packs(unit) else 0

    def _packs(self, unit: Unit) -> bool:
        plan = self._plan
        return bool(
            unit.reads[0]
            and (
                (unit.inputs and plan.bits_of_input(standard=unit.standard) != 32)
                or (unit.values and plan.value_bits != 32)
            )
        )

    def _piece(self, unit: Unit) -> int:
        """Elements that are packed or unpacked at once."""
        total = self._bytes(unit.reads[0]) // 4
        shape = unit.call.shape
        if len(shape) < 3:
            return min(total, PIECE)
        # Of a channel all that is side by side in memory: of all samples where these are innermost.
        least = math.prod(shape[1:]) * self._plan.samples if self._plan.native else math.prod(shape)
        return min(total, max(PIECE, least))


@functools.lru_cache(maxsize=4096)
def _sizes_of(
    planes: tuple[int, int, int, int], weight: tuple[int, ...], geometry: Geometry, kept: int, threads: int
) -> tuple[int, int, int]:
    return scratch_bytes(planes, weight, geometry, kept=kept, threads=threads)


def _filled(channels: int) -> int:
    return -(-channels // _BLOCK) * _BLOCK
