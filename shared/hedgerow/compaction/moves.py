"""Rules of the operators that only move channels: flattening, padding, slices, concatenation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hedgerow.compaction.channels import (
    Bits,
    Channelwise,
    Constants,
    Positions,
    channel_count,
    ints_in,
    one_to_one,
    unchanged,
    value_read,
)
from hedgerow.compaction.program import Argument, Ref, Shape, Step

__all__ = ["cat_rule", "pad_rule", "reshape_rule", "slice_rule"]


def reshape_rule(step: Step, *, shapes: Mapping[str, Shape]) -> Channelwise | None:
    """Of flattening, and of joining or parting the axes after the channels; None where channels are parted."""
    operand = value_read(step)
    if operand is None:
        return None
    before, after = shapes[operand], shapes[step.name]
    inside, outside = [s for s in before[2:] if isinstance(s, int)], [s for s in after[2:] if isinstance(s, int)]
    if before[0] != after[0] or len(inside) != len(before) - 2 or len(outside) != len(after) - 2:
        return None
    repeats, rest = math.prod(inside), math.prod(outside)
    if channel_count(after) * rest != channel_count(before) * repeats or repeats % rest:
        return None
    # (N, C, H, W) → (N, C·H·W), or axes after the channels are joined or parted; never channels parted.
    factor = repeats // rest
    if factor > 1 and rest > 1:
        return None
    positions = np.repeat(np.arange(channel_count(before), dtype=np.int64), factor)

    def constants(found: tuple[Constants, ...]) -> Constants:
        return Constants(found[0].known[positions], found[0].values[positions])

    def arguments(kept: Mapping[str, Bits]) -> Mapping[str, Argument]:
        for key in ("size", "shape"):
            sizes = step.arguments.get(key)
            if isinstance(sizes, tuple) and sizes[1] != -1:
                return {key: (sizes[0], int(kept[step.name].sum()), *sizes[2:])}
        return {}

    return Channelwise(((operand, positions),), constants, arguments=arguments)


def pad_rule(step: Step, *, shapes: Mapping[str, Shape]) -> Channelwise | None:
    """Of padding around maps, and with channels before and after those that are there."""
    operand, pads = value_read(step), ints_in(step.arguments.get("pad"))
    mode, value = step.arguments.get("mode", "constant"), step.arguments.get("value") or 0.0
    if operand is None or not isinstance(value, int | float):
        return None
    axes = len(shapes[operand])
    spatial, rest = pads[: 2 * (axes - 2)], pads[2 * (axes - 2) :]
    before, after = (*rest, 0, 0)[:2]
    if any(rest[2:]) or min((before, after)) < 0 or (mode != "constant" and (before or after)):
        return None
    inner = np.arange(channel_count(shapes[operand]), dtype=np.int64)
    positions = np.concatenate([np.full(before, -1), inner, np.full(after, -1)]).astype(np.int64)
    fill = float(value)

    def constants(found: tuple[Constants, ...]) -> Constants:
        known = np.where(positions < 0, True, found[0].known[positions])
        values = np.where(positions < 0, fill, found[0].values[positions])
        if mode == "constant" and any(spatial):
            known = known & (values == fill)
        return Constants(known, np.where(known, values, 0.0))

    def arguments(kept: Mapping[str, Bits]) -> Mapping[str, Argument]:
        bits = kept[step.name]
        first, last = int(bits[:before].sum()), int(bits[bits.size - after :].sum()) if after else 0
        return {"pad": (*spatial, first, last)} if before or after else {}

    return Channelwise(((operand, positions),), constants, arguments=arguments)


def slice_rule(step: Step, *, shapes: Mapping[str, Shape]) -> Channelwise | None:
    """Of a part of the maps, of the batch, or of the channels one after the other."""
    operand, axis = value_read(step), step.arguments.get("dim", 0)
    if operand is None or not isinstance(axis, int):
        return None
    if axis % len(shapes[operand]) != 1:
        return Channelwise(((operand, one_to_one(step, shapes)),), unchanged)
    given = [step.arguments.get(key) for key in ("start", "end", "step")]
    if not all(value is None or isinstance(value, int) for value in given) or given[2] not in (None, 1):
        return None
    start, end, _ = slice(given[0], given[1]).indices(channel_count(shapes[operand]))
    positions = np.arange(start, end, dtype=np.int64)

    def constants(found: tuple[Constants, ...]) -> Constants:
        return Constants(found[0].known[positions], found[0].values[positions])

    def arguments(kept: Mapping[str, Bits]) -> Mapping[str, Argument]:
        bits = kept[operand]
        first = int(bits[:start].sum())
        return {"start": first, "end": first + int(bits[start:end].sum())}

    return Channelwise(((operand, positions),), constants, arguments=arguments)


def cat_rule(step: Step, *, shapes: Mapping[str, Shape]) -> Channelwise | None:
    """Of the channels of several values one after the other."""
    tensors, axis = step.arguments.get("tensors"), step.arguments.get("dim", 0)
    if not isinstance(tensors, tuple) or not isinstance(axis, int) or axis % len(shapes[step.name]) != 1:
        return None
    names = [value.name for value in tensors if isinstance(value, Ref)]
    if len(names) != len(tensors):
        return None
    sizes = [channel_count(shapes[name]) for name in names]
    starts = np.cumsum([0, *sizes])
    operands: list[tuple[str, Positions]] = []
    for name, start, size in zip(names, starts, sizes, strict=False):
        positions = np.full(starts[-1], -1, dtype=np.int64)
        positions[start : start + size] = np.arange(size)
        operands.append((name, positions))

    def constants(found: tuple[Constants, ...]) -> Constants:
        return Constants(np.concatenate([c.known for c in found]), np.concatenate([c.values for c in found]))

    return Channelwise(tuple(operands), constants)
