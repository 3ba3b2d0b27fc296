"""Whole messages about training of experiments with a tiny network: first contact, replies, what changed since."""

from __future__ import annotations

import numpy as np

from hedgerow.pruning import Moves
from hedgerow.v1 import payload_pb2 as pb
from tests.vectors.form import Example, Json, normals, packed, picked, unpacked
from tests.vectors.network import (
    FLOATS,
    KEPT,
    MASK,
    TENSORS,
    VARIANCES,
    exchange_in,
    layers_of,
    mask_in,
    told_version,
)

__all__ = ["PAYLOAD_EXAMPLES"]

_COUNTS = {
    "examples": 120, "loss": 0.75, "seconds": 1.5,
    "forward_bytes": 1000000.0, "backward_bytes": 2000000.0, "update_bytes": 300000.0, "native_share": 1.0,
    "growth_bytes": 2500000.0, "held_bytes": 9000000.0,
}  # fmt: skip
_THETA = np.clip(normals("theta", KEPT, scale=0.4), -1, 1)
_FIRST = np.concatenate(
    [normals("floats", FLOATS - VARIANCES), np.abs(normals("variances", VARIANCES)) + np.float32(0.1)]
)
_SECOND = (_FIRST * 1.01).astype(np.float32)
_MOVED = np.clip(_THETA + normals("moved", KEPT, scale=0.04), -1, 1)
_TRAINED = {
    "kept": np.where(picked("still", KEPT, [0.2, 0.8]) > 0, normals("steps", KEPT, scale=0.3), np.float32(0)),
    "floats": normals("float steps", FLOATS, scale=0.05),
    "counts": _COUNTS,
    "mask_digest": "",
}

_BITS = unpacked(MASK, 150)
_PRUNED = [np.flatnonzero(~part) for part in np.split(_BITS, [54])]
_GROWTH = [[0, 3], [1, 6]]
_GRADIENTS: dict[str, tuple[list[int], list[float]]] = {
    "0.weight": (_PRUNED[0][[0, 4, -1]].tolist(), [0.5, -2.0, 0.125]),
    # One fewer than asked for: the other gradients are 0.
    "3.weight": (_PRUNED[1][[2, 3, 20, 31, -2]].tolist(), [-0.75, 1.5, 0.0625, -3.0, 1.0]),
}
"""Of each tensor places in it and gradients."""


def _exchanged() -> str:
    """The mask after it: what has gradients grows, and as many of the first kept weights go."""
    bits = _BITS.copy()
    for begin, end, (comes, _) in zip((0, 54), (54, 150), _GRADIENTS.values(), strict=True):
        bits[begin + np.flatnonzero(_BITS[begin:end])[: len(comes)]] = False
        bits[begin + np.array(comes)] = True
    return packed(bits)


_NEW_MASK = _exchanged()

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
    "weights, multiples of steps both ways": {
        "representation": "weights",
        "wire": {"down": "uniform", "down_step": 0.25, "up": "uniform"},
    },
}


_MOVING: dict[str, dict[str, Json]] = {
    "a mask that changes, drift, bfloat16 down": {
        "representation": "signs",
        "aggregation": {"signs": "drift", "levels": 16},
        "signs": {"abstain": 0.8, "voters": "largest"},
        "wire": {"down": "bf16", "up": "uniform"},
    },
    "a mask that changes, vote, binary32": {
        "representation": "signs",
        "aggregation": {"signs": "vote"},
    },
    "a mask that changes, weights, binary16 down": {
        "representation": "weights",
        "wire": {"down": "fp16", "up": "int8"},
    },
    "a mask that changes, weights, multiples of steps down": {
        "representation": "weights",
        "wire": {"down": "uniform", "up": "uniform"},
    },
    "a mask that changes, weights, binary32": {
        "representation": "weights",
    },
}


def _story(name: str, settings: dict[str, Json]) -> list[Example]:
    """First contact, the reply, and the next round for who remembers the first and for who does not."""
    both = {"settings": settings, "tensors": TENSORS}
    exchange = exchange_in(both)
    mask = mask_in(MASK, exchange)
    first, second = (
        told_version(exchange.version(round, mask.digest, kept=kept, floats=floats, layers=layers_of(mask)))
        for round, kept, floats in ((1, _THETA, _FIRST), (2, _MOVED, _SECOND))
    )
    known = {**both, "mask": MASK}
    found = [
        Example(f"{name}: first contact", "request", {**both, "mask": None, "version": None}, first),
        Example(f"{name}: the reply", "reply", {**known, "version": first}, _TRAINED),
        Example(f"{name}: the next round, whole", "request", {**known, "version": None}, second),
    ]
    if exchange.remembers:
        found.append(Example(f"{name}: the next round, changes", "request", {**known, "version": first}, second))
    return found


def _moving_story(name: str, settings: dict[str, Json]) -> list[Example]:
    """A round whose mask is adjusted after it: what it asks, a reply, and the next request, of the new mask."""
    both = {"settings": settings, "tensors": TENSORS}
    exchange = exchange_in(both)
    old, new = mask_in(MASK, exchange), mask_in(_NEW_MASK, exchange)
    first = told_version(exchange.version(1, old.digest, kept=_THETA, floats=_FIRST, layers=layers_of(old)))
    grown = exchange.representation.grown(
        np.concatenate([np.array(values, dtype=np.float32) for _, values in _GRADIENTS.values()])
    )
    kept = Moves.between(old, new).carried(_MOVED, grown=grown)
    second = told_version(exchange.version(2, new.digest, kept=kept, floats=_SECOND, layers=layers_of(new)))
    known = {**both, "mask": MASK}
    held = first if exchange.remembers else None
    trained = {**_TRAINED, "gradients": _GRADIENTS}
    return [
        Example(
            f"{name}: a round that asks for gradients",
            "request",
            {**known, "version": None},
            {**first, "growth": _GROWTH},
        ),
        Example(f"{name}: the reply with gradients", "reply", {**known, "version": first, "growth": _GROWTH}, trained),
        Example(
            f"{name}: the next round, of another mask",
            "request",
            {**known, "version": held},
            {**second, "mask": _NEW_MASK},
        ),
        Example(
            f"{name}: the same network to look at",
            "request",
            {**known, "version": held},
            {**second, "mask": _NEW_MASK, "task": pb.TASK_RECALIBRATE},
        ),
    ]


def _marked_story(name: str, settings: dict[str, Json]) -> list[Example]:
    """A round that presses weights: marks beside gradients, and marks alone."""
    both = {"settings": settings, "tensors": TENSORS}
    exchange = exchange_in(both)
    mask = mask_in(MASK, exchange)
    # Equal ones, of which those at lower positions are marked.
    kept = np.where(np.arange(KEPT) % 3, _THETA, np.float32(0.0625)).astype(np.float32)
    first = told_version(exchange.version(1, mask.digest, kept=kept, floats=_FIRST, layers=layers_of(mask)))
    known = {**both, "mask": MASK}
    some, alone = [[0, 3, 4], [1, 0, 9]], [[0, 0, 5], [1, 0, 2]]
    gradients = {"0.weight": _GRADIENTS["0.weight"]}
    return [
        Example(f"{name}: marks beside gradients", "request", {**known, "version": None}, {**first, "growth": some}),
        Example(
            f"{name}: the reply with gradients of one tensor",
            "reply",
            {**known, "version": first, "growth": some},
            {**_TRAINED, "gradients": gradients},
        ),
        Example(f"{name}: marks alone", "request", {**known, "version": None}, {**first, "growth": alone}),
        Example(
            f"{name}: the reply without gradients",
            "reply",
            {**known, "version": first, "growth": alone},
            _TRAINED,
        ),
    ]


def _own_story(name: str, settings: dict[str, Json]) -> list[Example]:
    """A round in which the device changes the mask itself, and the reply under its own mask."""
    both = {"settings": settings, "tensors": TENSORS}
    exchange = exchange_in(both)
    mask = mask_in(MASK, exchange)
    first = told_version(exchange.version(1, mask.digest, kept=_THETA, floats=_FIRST, layers=layers_of(mask)))
    known = {**both, "mask": MASK, "version": first, "growth": _GROWTH}
    return [Example(f"{name}: the reply", "reply", known, {**_TRAINED, "own_mask": _NEW_MASK})]


def _deciding_story(name: str, settings: dict[str, Json]) -> list[Example]:
    """The reply where the gradients of kept weights are asked for too."""
    both = {"settings": settings, "tensors": TENSORS}
    exchange = exchange_in(both)
    mask = mask_in(MASK, exchange)
    first = told_version(exchange.version(1, mask.digest, kept=_THETA, floats=_FIRST, layers=layers_of(mask)))
    known = {**both, "mask": MASK, "version": first, "growth": _GROWTH}
    own = normals("kept gradients", KEPT, scale=0.2).tolist()
    return [Example(f"{name}: the reply", "reply", known, {**_TRAINED, "gradients": _GRADIENTS, "kept_gradients": own})]


PAYLOAD_EXAMPLES = (
    *(example for name, settings in _SETTINGS.items() for example in _story(name, settings)),
    *(example for name, settings in _MOVING.items() for example in _moving_story(name, settings)),
    *_marked_story(
        "weights that are pressed, bfloat16 down",
        {"representation": "weights", "wire": {"down": "bf16"}},
    ),
    *_own_story(
        "a mask of one's own, bfloat16 down, multiples of steps up",
        {
            "representation": "weights",
            "adjustment": {"every": 1, "by": "devices"},
            "wire": {"down": "bf16", "up": "uniform"},
        },
    ),
    *_own_story(
        "a mask of one's own, plain",
        {"representation": "weights", "adjustment": {"every": 1, "by": "devices"}, "wire": {"coder": "plain"}},
    ),
    *_deciding_story(
        "gradients of kept weights too, bfloat16 both ways",
        {
            "representation": "weights",
            "adjustment": {"every": 1, "criterion": "gradient"},
            "wire": {"down": "bf16", "up": "bf16"},
        },
    ),
)
