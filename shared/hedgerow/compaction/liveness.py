"""Which channels of a network can go without changing what it computes.

Forward, from input to output: which channels have one value everywhere, whatever the input is. Backward: which ones
somebody reads whose own value matters. A channel may go when nobody needs it, or when its constant can be folded into
the biases of all its readers. Channels that operators tie together (the two sides of a residual sum, a map and what
flattening makes of it, the groups of a convolution) go together or stay.

A constant that is not 0 cannot be folded into the bias of a convolution that pads with zeros, for it is no constant at
the border. All such channels of a map are proportional to each other there, so one of them can stand for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hedgerow.compaction.channels import Bits, Channelwise, Constants, Mixing, Rule, refs_in, shapes_of
from hedgerow.compaction.operators import rules_of
from hedgerow.compaction.program import Program

__all__ = ["Liveness", "liveness", "reads"]


@dataclass(frozen=True, slots=True)
class Liveness:
    """What the analysis found; each mapping goes from a value's name to (C,) of its channels.

    Attributes:
        rules: of each step.
        constants: of each value.
        needed: whether a channel's value matters and cannot be folded away.
        kept: whether a channel stays.
        stand_ins: for a value, the constant channel that stands for others of its kind.
    """

    rules: Mapping[str, Rule]
    constants: Mapping[str, Constants]
    needed: Mapping[str, Bits]
    kept: Mapping[str, Bits]
    stand_ins: Mapping[str, int]


def liveness(program: Program) -> Liveness:
    """Analyses a program."""
    rules, shapes = rules_of(program), shapes_of(program)
    counts = {name: int(shape[1]) for name, shape in shapes.items()}
    constants = _constants(program, rules=rules, counts=counts)
    needed, stand_ins = _needed(program, rules=rules, counts=counts, constants=constants)
    kept = _kept(program, rules=rules, counts=counts, needed=needed)
    return Liveness(rules=rules, constants=constants, needed=needed, kept=kept, stand_ins=stand_ins)


def reads(program: Program, rule: Mixing) -> tuple[Bits, npt.NDArray[np.float64]]:
    """What a mixing step does with its operand.

    Returns:
        (O, I) whether an output reads an input at all, and (O, I) float64, the sum of the weights by which it does.
    """
    weight = program.tensors[rule.weight].double().flatten(2) if program.tensors[rule.weight].ndim > 2 else None
    flat = program.tensors[rule.weight].double().unsqueeze(2) if weight is None else weight
    used, sums = (flat != 0).any(2).numpy(), flat.sum(2).numpy()
    if rule.groups == 1:
        return used, sums
    outputs, inside = used.shape
    columns = np.arange(inside) + inside * (np.arange(outputs) // (outputs // rule.groups))[:, None]
    wide_used = np.zeros((outputs, inside * rule.groups), np.bool_)
    wide_sums = np.zeros((outputs, inside * rule.groups))
    np.put_along_axis(wide_used, columns, used, axis=1)
    np.put_along_axis(wide_sums, columns, sums, axis=1)
    return wide_used, wide_sums


def unfoldable(rule: Mixing, constants: Constants) -> Bits:
    """Constant channels whose value a mixing step cannot fold into its bias."""
    stuck: Bits = constants.known & (constants.values != 0) & rule.padded
    return stuck


def _constants(program: Program, *, rules: Mapping[str, Rule], counts: Mapping[str, int]) -> dict[str, Constants]:
    found = {name: Constants(np.zeros(count, np.bool_), np.zeros(count)) for name, count in counts.items()}
    for step in program.steps:
        rule = rules[step.name]
        if isinstance(rule, Channelwise):
            found[step.name] = rule.constants(tuple(found[name] for name, _ in rule.operands))
        elif isinstance(rule, Mixing):
            used, sums = reads(program, rule)
            before = found[rule.operand]
            varies = ~before.known | unfoldable(rule, before)
            bias = 0.0 if rule.bias is None else program.tensors[rule.bias].double().numpy()
            known: Bits = np.logical_not((used & varies).any(axis=1))
            found[step.name] = Constants(known, np.where(known, sums @ before.values + bias, 0.0))
    return found


def _needed(
    program: Program, *, rules: Mapping[str, Rule], counts: Mapping[str, int], constants: Mapping[str, Constants]
) -> tuple[dict[str, Bits], dict[str, int]]:
    needed = {name: np.zeros(count, np.bool_) for name, count in counts.items()}
    stand_ins: dict[str, int] = {}
    if program.output in needed:
        needed[program.output][:] = True
    for step in reversed(program.steps):
        rule = rules[step.name]
        if isinstance(rule, Channelwise):
            for name, positions in rule.operands:
                inside = positions >= 0
                np.logical_or.at(needed[name], positions[inside], needed[step.name][inside])
        elif isinstance(rule, Mixing):
            used, _ = reads(program, rule)
            before = constants[rule.operand]
            # A constant output needs no input: its bias says it all.
            read = used[needed[step.name] & ~constants[step.name].known].any(0)
            hard = read & ~before.known
            stuck = read & unfoldable(rule, before)
            if rule.groups > 1:
                hard |= stuck
            elif stuck.any():
                choice = np.where(before.known, np.abs(before.values), 0.0).argmax()
                stand_ins[rule.operand] = int(choice)
                hard[choice] = True
            needed[rule.operand] |= hard
        else:
            for name in refs_in(step):
                if name in needed:
                    needed[name][:] = True
    return needed, stand_ins


def _kept(
    program: Program, *, rules: Mapping[str, Rule], counts: Mapping[str, int], needed: Mapping[str, Bits]
) -> dict[str, Bits]:
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
    total = sum(counts.values())
    groups = _joined(
        total, np.concatenate([np.zeros((2, 0), np.int64), *_ties(program, rules, counts, starts)], axis=1)
    )
    stays = np.zeros(total, np.bool_)
    for name in counts:
        np.logical_or.at(stays, groups[starts[name] : starts[name] + counts[name]], needed[name])
    for name in _fixed(program, rules=rules):
        if name in counts:
            stays[groups[starts[name] : starts[name] + counts[name]]] = True
    # No operator is sure to take a tensor of no channels at all; the first one stays, and computes nothing.
    empty = True
    while empty:
        empty = False
        for name, count in counts.items():
            mine = groups[starts[name] : starts[name] + count]
            if not stays[mine].any():
                stays[mine[0]], empty = True, True
    return {name: stays[groups[starts[name] : starts[name] + count]] for name, count in counts.items()}


def _fixed(program: Program, *, rules: Mapping[str, Rule]) -> set[str]:
    """Values that cannot lose a channel: the network's own ends, and all that a step without a rule touches."""
    fixed = {program.input, program.output}
    for step in program.steps:
        if rules[step.name] is None:
            fixed |= {step.name, *refs_in(step)}
    return fixed


def _ties(
    program: Program, rules: Mapping[str, Rule], counts: Mapping[str, int], starts: Mapping[str, int]
) -> Iterator[npt.NDArray[np.int64]]:
    """Pairs (2, n) of channels that go or stay together."""
    for step in program.steps:
        rule = rules[step.name]
        if isinstance(rule, Channelwise):
            for name, positions in rule.operands:
                (inside,) = np.nonzero(positions >= 0)
                yield np.stack([starts[name] + positions[inside], starts[step.name] + inside])
        elif isinstance(rule, Mixing) and rule.groups > 1:
            for name in (rule.operand, step.name):
                channels = np.arange(counts[name])
                group = channels // (counts[name] // rule.groups)
                yield np.stack(
                    [starts[name] + channels, starts[step.name] + group * (counts[step.name] // rule.groups)]
                )


def _joined(total: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each of `total` items the smallest one that pairs tie it to, over any number of steps."""
    label = np.arange(total)
    while True:
        smaller = np.minimum(label[pairs[0]], label[pairs[1]])
        after = label.copy()
        for side in pairs:
            np.minimum.at(after, side, smaller)
            np.minimum.at(after, label[side], smaller)
        after = after[after]
        if np.array_equal(after, label):
            return label
        label = after
