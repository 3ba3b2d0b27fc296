"""Cuts the channels that can go out of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from hedgerow.compaction.channels import Bits, Mixing
from hedgerow.compaction.liveness import Liveness, reads, unfoldable
from hedgerow.compaction.program import Argument, Program, Shape, Step, Weight

__all__ = ["rewritten"]


def rewritten(program: Program, live: Liveness) -> Program:
    """The program without the channels that `live` does not keep; in exact arithmetic its output is the same."""
    tensors = dict(program.tensors)
    steps: list[Step] = []
    for step in program.steps:
        rule = live.rules[step.name]
        changes: Mapping[str, Argument] = {}
        if isinstance(rule, Mixing):
            changes, cut = _mixing(step, rule, program=program, live=live)
            tensors |= cut
        elif rule is not None:
            changes = rule.arguments(live.kept)
            for name, axis in rule.sliced:
                tensors[name] = tensors[name].index_select(axis, _positions(live.kept[step.name]))
        steps.append(
            replace(
                step,
                arguments=MappingProxyType({**step.arguments, **changes}),
                shape=_shape(step.shape, live.kept.get(step.name)),
            )
        )
    return replace(program, steps=tuple(steps), tensors=tensors)


def _shape(shape: Shape | None, kept: Bits | None) -> Shape | None:
    return shape if shape is None or kept is None else (shape[0], int(kept.sum()), *shape[2:])


def _positions(kept: Bits) -> Tensor:
    return torch.from_numpy(np.flatnonzero(kept))


def _mixing(
    step: Step, rule: Mixing, *, program: Program, live: Liveness
) -> tuple[dict[str, Argument], dict[str, Tensor]]:
    original = program.tensors[rule.weight]
    weight = original.double()
    outputs, inputs = live.kept[step.name], live.kept[rule.operand]
    before, after = live.constants[rule.operand], live.constants[step.name]
    bias = torch.zeros(len(weight)).double() if rule.bias is None else program.tensors[rule.bias].double()
    gone = before.known & ~inputs
    if rule.groups == 1:
        stuck = gone & unfoldable(rule, before)
        if stuck.any() and rule.operand in live.stand_ins:
            choice = live.stand_ins[rule.operand]
            factors = torch.from_numpy(before.values[stuck] / before.values[choice])
            merged = torch.tensordot(weight[:, torch.from_numpy(stuck)], factors, dims=([1], [0]))
            weight = weight.clone()
            weight[:, choice] += merged
        _, sums = reads(program, rule)
        bias = bias + torch.from_numpy(sums @ np.where(gone & ~stuck, before.values, 0.0))
    # Outputs that are constant have it as their bias; those that only stay because others do compute nothing.
    idle = torch.from_numpy(after.known | ~live.needed[step.name])
    weight = torch.where(idle.view(-1, *([1] * (weight.ndim - 1))), 0.0, weight)
    bias = torch.where(torch.from_numpy(after.known), torch.from_numpy(after.values), bias)

    changes: dict[str, Argument] = {}
    rows = weight.index_select(0, _positions(outputs))
    if rule.groups == 1:
        rows = rows.index_select(1, _positions(inputs))
    else:
        changes["groups"] = int(inputs.reshape(rule.groups, -1)[:, 0].sum())
    cut = {rule.weight: rows.to(original.dtype).contiguous()}
    bias = bias.index_select(0, _positions(outputs)).to(original.dtype)
    if rule.bias is not None:
        cut[rule.bias] = bias
    elif bool(bias.any()):
        name = _free_name(rule.weight, program)
        cut[name] = bias
        changes["bias"] = Weight(name)
    return changes, cut


def _free_name(weight: str, program: Program) -> str:
    owner, dot, _ = weight.rpartition(".")
    name = f"{owner}{dot}bias"
    while name in program.tensors:
        name += "_"
    return name
