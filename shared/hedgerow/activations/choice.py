"""The settings of activation storage, made into storages."""

from __future__ import annotations

from typing import Literal, TypeAlias

from hedgerow.activations.quantised import Quantised
from hedgerow.activations.storage import Activations, Layers
from hedgerow.activations.topk import TopK

__all__ = ["Kind", "activations"]

Kind: TypeAlias = Literal["exact", "int8", "int4", "topk"]


def activations(kind: Kind, *, keep_ratio: float, seed: int, layers: Layers = "all") -> Activations:
    """How a network stores activations; one value serves all its layers, and draws from `seed` on when it is made.

    Args:
        kind: "topk" stores what nothing but weight gradients reads by its largest values, and all else exactly.
        keep_ratio: share that "topk" keeps, in (0, 1]; the others do without.
        seed: of the rounding of "int8" and "int4".
        layers: which layers "topk" is for.

    Raises:
        ConfigError: a `keep_ratio` out of range.

    >>> activations("topk", keep_ratio=0.3, seed=0)
    Activations(inputs=TopK(keep_ratio=0.3), values=Exact(), layers='all')
    """
    if kind == "exact":
        return Activations()
    if kind == "topk":
        return Activations(inputs=TopK(keep_ratio=keep_ratio), layers=layers)
    bits: Literal[8, 4] = 8 if kind == "int8" else 4
    made = Activations(inputs=Quantised(bits=bits, seed=seed), values=Quantised(bits=bits, seed=seed))
    made.reseed(seed)
    return made
