"""A network as far as its memory depends on it, made once for any number of masks and plans."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from hedgerow.ledger.trace import Call, Trace, trace
from hedgerow.models.standard import StandardConv2d, StandardLinear
from hedgerow.pruning import prunable_tensors
from hedgerow.sparse.fusion import stages

__all__ = ["Traced", "traced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """The calls of a network, and the sizes of what it holds.

    Attributes:
        found: the calls.
        sizes: shape of each prunable weight.
        free: number of trained values that are never pruned.
        buffers: bytes of the dense network's buffers.
        bounds: first children of the stages that can run again in the backward pass, the last one's too; empty where
            there are none.
        children: place of each child of the outermost chain, by its name.
        standard: prunable weights that are standardised before they are computed with.
    """

    found: Trace
    sizes: Mapping[str, tuple[int, ...]]
    free: int
    buffers: int
    bounds: tuple[int, ...]
    children: Mapping[str, int]
    standard: frozenset[str] = frozenset()

    def stage_of(self, call: Call) -> int:
        """Which stage a call belongs to, from 0 on."""
        place = self.children.get(call.name.partition(".")[0], 0)
        return max(0, bisect.bisect_right(self.bounds, place) - 1)

    @property
    def weights(self) -> int:
        """Number of prunable weights in the dense network."""
        return sum(map(math.prod, self.sizes.values()))


def traced(model: nn.Module, input_shape: tuple[int, ...]) -> Traced:
    """Follows one sample of `input_shape`, (C, H, W), through the dense `model`, which stays as it is.

    >>> found = traced(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), (4,))
    >>> found.sizes, found.free, found.buffers
    ({'0.weight': (3, 4)}, 9, 32)
    """
    weights = prunable_tensors(model)
    pruned = {id(weight) for weight in weights.values()}
    return Traced(
        found=trace(model, input_shape),
        sizes={name: tuple(weight.shape) for name, weight in weights.items()},
        free=sum(p.numel() for p in model.parameters() if id(p) not in pruned),
        buffers=sum(b.numel() * b.element_size() for b in model.buffers()),
        bounds=stages(model) if isinstance(model, nn.Sequential) else (),
        children={name: place for place, (name, _) in enumerate(model.named_children())},
        standard=frozenset(
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, StandardConv2d | StandardLinear)
        ),
    )
