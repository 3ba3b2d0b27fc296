"""What a request says of tensors that are going to be adjusted, and the sections that answer with gradients.

Positions count the pruned weights only, of the tensors that were asked for one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
import numpy.typing as npt

from hedgerow.codec import (
    Floats,
    Growth,
    Section,
    Sections,
    binary_entropy_bytes,
    decode_values,
    encode_values,
    expected,
)
from hedgerow.codec.sections import read_top_k, top_k_section
from hedgerow.config import WireSettings
from hedgerow.errors import PayloadError
from hedgerow.pruning import Gradients, Mask
from hedgerow.v1 import payload_pb2 as pb

__all__ = [
    "asked_counts",
    "growth_entropy",
    "growth_of",
    "growth_section",
    "kept_gradients_section",
    "marked_counts",
    "read_growth",
    "read_kept_gradients",
]

Positions = npt.NDArray[np.int64]

_LARGEST = np.float32(4080)
"""The largest that is said: the one below 2¹², where a reply is refused, that bfloat16 has too."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One that was asked for: where its kept weights are, and where its pruned ones begin among all that travel."""

    name: str
    kept: Positions
    begin: int
    end: int
    most: int

    def ranks(self, positions: Positions) -> Positions:
        """From places in the tensor to places among all pruned weights."""
        return self.begin + positions - np.searchsorted(self.kept, positions)

    def positions(self, ranks: Positions) -> Positions:
        """Inverse of `ranks`."""
        own = ranks - self.begin
        # So many weights are pruned before each kept one.
        before = self.kept - np.arange(self.kept.size)
        return own + np.searchsorted(before, own, side="right")


def growth_section(found: Gradients, *, mask: Mask, growth: Sequence[Growth], wire: WireSettings) -> Section:
    """What a device says of its largest gradients, in bfloat16, or in float32 where `wire.up` is that.

    Those beyond 4080 are said as that: behind a channel that a mask left without an input a norm makes them that large.

    Args:
        found: of the tensors asked for, at most as many as were asked.
        mask: what is kept.
        growth: what was asked for; see `asked_counts`.
        wire: how it is coded.
    """
    ranks, largest, support = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)], 0
    # One tensor after the other: where all kept weights are takes more than a device may have.
    for tensor in _tensors(mask, growth):
        support = tensor.end
        if tensor.name in found:
            positions, gradients = found[tensor.name]
            ranks.append(tensor.ranks(positions))
            largest.append(gradients)
    values = np.clip(np.concatenate(largest), -_LARGEST, _LARGEST)
    codec = pb.CODEC_FLOAT32 if wire.up == "fp32" else pb.CODEC_BFLOAT16
    return top_k_section(np.concatenate(ranks), values, support=support, codec=codec)


def read_growth(sections: Sections, *, mask: Mask, growth: Sequence[Growth]) -> dict[str, tuple[Positions, Floats]]:
    """Inverse of `growth_section`: of each tensor positions in it, (k,), ascending and pruned, and gradients, (k,).

    Raises:
        PayloadError: the section is missing or damaged, a gradient is not finite, or there are more of a tensor than
            were asked for.
    """
    tensors = list(_tensors(mask, growth))
    ranks, values = read_top_k(sections, tensors[-1].end if tensors else 0, most=sum(tensor.most for tensor in tensors))
    result = {}
    for tensor in tensors:
        begin, end = np.searchsorted(ranks, (tensor.begin, tensor.end))
        if end - begin > tensor.most:
            raise PayloadError(
                f"{end - begin} gradients of {tensor.name!r}; {tensor.most} were asked for", kind="bounds"
            )
        result[tensor.name] = (tensor.positions(ranks[begin:end]), values[begin:end])
    return result


def kept_gradients_section(gradients: Floats, *, wire: WireSettings) -> Section:
    """What a device says of the gradients of its kept weights: all of them, in the precision of `growth_section`.

    Both ends know where these weights are, so that no position travels. Those beyond 4080 are said as that.

    Args:
        gradients: (k,) float32, finite, in the mask's order.
        wire: how they are coded.
    """
    values = np.clip(gradients, -_LARGEST, _LARGEST)
    encoded = encode_values(values, format="fp32" if wire.up == "fp32" else "bf16", groups=[values.size])
    return Section.of(pb.KIND_GRADIENTS, encoded.coded, count=values.size)


def read_kept_gradients(sections: Sections, count: int) -> Floats:
    """Inverse of `kept_gradients_section` for `count` kept weights: (count,) float32, finite.

    Raises:
        PayloadError: the section is missing or damaged, of another number of weights, or a gradient is not finite.
    """
    section = expected(sections, pb.KIND_GRADIENTS, count, codecs=(pb.CODEC_FLOAT32, pb.CODEC_BFLOAT16))
    return decode_values(section.coded, count, groups=[count])


def growth_entropy(section: Section) -> float:
    """Shannon's bound of what a section says, in bytes: which of the pruned weights, and a value each."""
    width = 4 if section.codec == pb.CODEC_FLOAT32 else 2
    return binary_entropy_bytes(section.parameter, section.count) + width * section.parameter


def growth_of(counts: Mapping[str, int], *, mask: Mask, marked: Mapping[str, int] | None = None) -> tuple[Growth, ...]:
    """What a request has to say to ask for so many gradients of each tensor, and to mark so many of its kept weights.

    Args:
        counts: see `Adjustment.comes`.
        mask: names the tensors.
        marked: see `Adjustment.goes`; none when None.
    """
    marks = marked or {}
    said = [Growth(place, counts.get(name, 0), marks.get(name, 0)) for place, name in enumerate(mask)]
    return tuple(growth for growth in said if growth.count or growth.marked)


def marked_counts(growth: Sequence[Growth], *, layers: Sequence[int]) -> list[int]:
    """How many kept weights of each tensor a request marks.

    Args:
        growth: as it came from the network.
        layers: numbers of kept weights of the prunable tensors.

    Raises:
        PayloadError: a tensor does not exist, comes twice or before an earlier one, or has not so many kept weights.
    """
    _require_places(growth, len(layers))
    counts = [0] * len(layers)
    for said in growth:
        if not 0 <= said.marked <= layers[said.tensor]:
            raise PayloadError(
                f"{said.marked} marks among the {layers[said.tensor]} kept weights of tensor {said.tensor}",
                kind="bounds",
            )
        counts[said.tensor] = said.marked
    return counts


def asked_counts(growth: Sequence[Growth], *, mask: Mask) -> dict[str, int]:
    """How many gradients a request asks of each tensor that it asks for some, by its name.

    Raises:
        PayloadError: a tensor does not exist, comes twice or before an earlier one, or has not so many pruned weights;
            nothing is asked of it; or the network is asked for more gradients than it has kept weights, for which a
            device need have no room.
    """
    names, kept, shapes = list(mask), mask.layer_kept(), mask.shapes
    _require_places(growth, len(names))
    counts = {}
    for asked in growth:
        name = names[asked.tensor]
        pruned = prod(shapes[name]) - kept[name]
        if not (0 if asked.marked else 1) <= asked.count <= pruned:
            raise PayloadError(f"{asked.count} gradients of the {pruned} pruned weights of {name!r}", kind="bounds")
        if asked.count:
            counts[name] = asked.count
    if sum(counts.values()) > sum(kept.values()):
        raise PayloadError(
            f"{sum(counts.values())} gradients of a network of {sum(kept.values())} kept weights; no more than these "
            "can be asked for",
            kind="bounds",
        )
    return counts


def _require_places(growth: Sequence[Growth], tensors: int) -> None:
    if any(b.tensor <= a.tensor for a, b in pairwise(growth)):
        raise PayloadError("tensors to adjust that do not ascend", kind="bounds")
    if growth and growth[-1].tensor >= tensors:
        raise PayloadError(f"tensor {growth[-1].tensor} is to be adjusted; there are {tensors}", kind="bounds")


def _tensors(mask: Mask, growth: Sequence[Growth]) -> Iterator[_Tensor]:
    names, end = list(mask), 0
    for asked in growth:
        if not asked.count:
            continue
        bits = mask[names[asked.tensor]].numpy().reshape(-1)
        kept = np.flatnonzero(bits)
        begin, end = end, end + bits.size - kept.size
        yield _Tensor(names[asked.tensor], kept, begin, end, asked.count)
