"""The rule of each ATen operator that compaction knows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hedgerow.compaction.channels import (
    Channelwise,
    Constants,
    Mixing,
    Rule,
    channel_count,
    ints_in,
    one_to_one,
    refs_in,
    shapes_of,
    unchanged,
    value_read,
    weights_in,
)
from hedgerow.compaction.moves import cat_rule, pad_rule, reshape_rule, slice_rule
from hedgerow.compaction.program import Argument, Program, Ref, Shape, Step, Weight, callable_named

__all__ = ["rules_of"]

_MIXING = ("aten.conv1d.", "aten.conv2d.", "aten.conv3d.", "aten.linear.")
_ACTIVATIONS = frozenset(
    {
        "relu",
        "relu6",
        "hardtanh",
        "sigmoid",
        "tanh",
        "silu",
        "gelu",
        "leaky_relu",
        "elu",
        "selu",
        "softplus",
        "hardswish",
    }
    | {"hardsigmoid", "mish", "threshold", "clamp", "clamp_min", "clamp_max"}
)
_ARITHMETIC = frozenset(
    {"add", "sub", "mul", "div", "maximum", "minimum", "neg", "abs", "exp", "pow", "sqrt", "square"}
)
_COPIES = frozenset({"clone", "contiguous", "detach", "alias", "dropout", "feature_dropout"})
_POINTWISE = _ACTIVATIONS | _ARITHMETIC | _COPIES
_POOLS = frozenset({f"{kind}_pool{axes}d" for kind in ("max", "avg", "adaptive_avg") for axes in (1, 2)})
_RESHAPES = frozenset({"flatten", "view", "reshape", "squeeze", "unsqueeze"})


def rules_of(program: Program) -> dict[str, Rule]:
    """The rule of each step by its name; None where it has none and nothing that it touches may change."""
    shapes = shapes_of(program)
    read = [name for step in program.steps for name in weights_in(step)]
    shared = {name for name in read if read.count(name) > 1}
    rules: dict[str, Rule] = {}
    for step in program.steps:
        # A tensor that two steps read cannot be cut for one of them.
        rules[step.name] = None if shared & set(weights_in(step)) else _rule(step, program=program, shapes=shapes)
    return rules


def _rule(step: Step, *, program: Program, shapes: Mapping[str, Shape]) -> Rule:
    if step.name not in shapes or any(name not in shapes for name in refs_in(step) if _is_tensor(name, program)):
        return None
    kind = step.op.split(".")[1]
    if step.op.startswith(_MIXING):
        return _mixing(step, shapes=shapes)
    if kind == "batch_norm":
        return _norm(step, program=program)
    if kind in _POINTWISE:
        return _pointwise(step, program=program, shapes=shapes)
    if kind in _POOLS:
        return _pool(step, shapes=shapes)
    if kind == "mean":
        return _mean(step, shapes=shapes)
    if kind in _RESHAPES:
        return reshape_rule(step, shapes=shapes)
    if kind in ("pad", "constant_pad_nd"):
        return pad_rule(step, shapes=shapes)
    if kind == "slice":
        return slice_rule(step, shapes=shapes)
    if kind == "cat":
        return cat_rule(step, shapes=shapes)
    return None


def _is_tensor(name: str, program: Program) -> bool:
    return name == program.input or any(step.name == name and step.shape is not None for step in program.steps)


def _mixing(step: Step, *, shapes: Mapping[str, Shape]) -> Mixing | None:
    operand, weight, bias = value_read(step, "input"), step.arguments.get("weight"), step.arguments.get("bias")
    linear = step.op.startswith("aten.linear.")
    if operand is None or not isinstance(weight, Weight) or not (bias is None or isinstance(bias, Weight)):
        return None
    if linear and len(shapes[operand]) != 2:
        return None  # its channels are on the last axis
    groups, padding = step.arguments.get("groups", 1), step.arguments.get("padding", 0)
    assert isinstance(groups, int)
    padded = padding == "unchanged" if isinstance(padding, str) else any(ints_in(padding))
    return Mixing(
        operand=operand, weight=weight.name, bias=None if bias is None else bias.name, groups=groups, padded=padded
    )


def _norm(step: Step, *, program: Program) -> Channelwise | None:
    operand = value_read(step, "input")
    tensors = [step.arguments.get(key) for key in ("weight", "bias", "running_mean", "running_var")]
    if operand is None or step.arguments["training"] is not False or None in tensors[2:]:
        return None
    names = [tensor.name for tensor in tensors if isinstance(tensor, Weight)]

    def constants(found: tuple[Constants, ...]) -> Constants:
        return _evaluated(step, {operand: found[0]}, program=program, axes=2)

    channels = np.arange(program.tensors[names[0]].numel(), dtype=np.int64)
    return Channelwise(((operand, channels),), constants, sliced=tuple((name, 0) for name in names))


def _pointwise(step: Step, *, program: Program, shapes: Mapping[str, Shape]) -> Channelwise | None:
    shape = shapes[step.name]
    sliced: list[tuple[str, int]] = []
    varies = False
    if step.arguments.get("train") is True:
        return None  # random numbers, though the network does not train
    for name in refs_in(step):
        # A batch of one, or a single channel, would be repeated: that is no operand of the same channels.
        if name not in shapes or len(shapes[name]) != len(shape) or shapes[name][:2] != shape[:2]:
            return None
    for name in weights_in(step):
        tensor = program.tensors[name]
        axis = tensor.ndim - (len(shape) - 1)
        if axis > 1 or (axis == 1 and tensor.shape[0] != 1):
            return None
        varies = varies or any(size != 1 for size in tensor.shape[max(axis + 1, 0) :])
        if axis >= 0 and tensor.shape[axis] == shape[1] != 1:
            sliced.append((name, axis))
        elif axis >= 0 and tensor.shape[axis] != 1:
            return None
    names = tuple(dict.fromkeys(refs_in(step)))
    if not names:
        return None

    def constants(found: tuple[Constants, ...]) -> Constants:
        if varies:
            return _nothing_known(channel_count(shape))
        return _evaluated(step, dict(zip(names, found, strict=True)), program=program, axes=len(shape))

    identity = one_to_one(step, shapes)
    return Channelwise(tuple((name, identity) for name in names), constants, sliced=tuple(sliced))


def _evaluated(step: Step, found: Mapping[str, Constants], *, program: Program, axes: int) -> Constants:
    """Lets the operator itself say what it makes of constants, in float64."""

    def value(argument: Argument) -> object:
        if isinstance(argument, Ref):
            return torch.from_numpy(found[argument.name].values).view(1, -1, *([1] * (axes - 2)))
        if isinstance(argument, Weight):
            return program.tensors[argument.name].double()
        return [value(item) for item in argument] if isinstance(argument, tuple) else argument

    known = np.logical_and.reduce([constants.known for constants in found.values()])
    function = callable_named(step.op)
    result: Tensor = function(**{key: value(argument) for key, argument in step.arguments.items()})
    values = result.double().reshape(-1).numpy()
    assert values.shape == known.shape
    known = known & np.isfinite(values)
    return Constants(known, np.where(known, values, 0.0))


def _nothing_known(channels: int) -> Constants:
    return Constants(np.zeros(channels, np.bool_), np.zeros(channels))


def _only_zeros(constants: tuple[Constants, ...]) -> Constants:
    known = constants[0].known & (constants[0].values == 0)
    return Constants(known, np.zeros(known.size))


def _pool(step: Step, *, shapes: Mapping[str, Shape]) -> Channelwise | None:
    operand = value_read(step)
    if operand is None or len(shapes[operand]) != len(shapes[step.name]):
        return None
    # Zeros that an average counts in make a constant differ at borders; a maximum never sees its padding.
    averages = step.op.startswith("aten.avg_pool")
    exact = not averages or (
        not any(ints_in(step.arguments.get("padding", 0))) and step.arguments.get("divisor_override") is None
    )
    return Channelwise(((operand, one_to_one(step, shapes)),), unchanged if exact else _only_zeros)


def _mean(step: Step, *, shapes: Mapping[str, Shape]) -> Channelwise | None:
    operand = value_read(step)
    if operand is None or step.arguments.get("dtype") is not None:
        return None
    axes = len(shapes[operand])
    over = {axis % axes for axis in ints_in(step.arguments.get("dim"))}
    if not over or over & {0, 1}:
        return None
    return Channelwise(((operand, one_to_one(step, shapes)),), unchanged)
