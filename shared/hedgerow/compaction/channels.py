"""What each operator does to channels: the rules that the analysis and the rewriting share.

A channel is a position on axis 1 of a value (N, C, …). An operator either mixes channels by a weight (convolutions,
linear layers), or makes each channel of its value from one channel of each operand (norms, activations, pooling, sums,
flattening, …). Whatever has no rule is left alone, with all channels that it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.compaction.program import Argument, Program, Ref, Shape, Step, Weight

__all__ = [
    "Bits",
    "Channelwise",
    "Constants",
    "Mixing",
    "Positions",
    "Rule",
    "channel_count",
    "ints_in",
    "one_to_one",
    "refs_in",
    "shapes_of",
    "unchanged",
    "value_read",
    "weights_in",
]

Bits: TypeAlias = npt.NDArray[np.bool_]
Positions: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Constants:
    """What is known of a value's channels whatever the input is.

    Attributes:
        known: (C,), True where the channel has the same value everywhere.
        values: (C,) float64, that value; 0 where it is not known.
    """

    known: Bits
    values: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mixing:
    """A convolution or linear layer.

    Attributes:
        operand: name of the value that it reads.
        weight: name of the tensor (O, I / groups, …).
        bias: name of the tensor (O,), or None.
        groups: of the convolution.
        padded: whether zeros are put around the maps, so that a constant channel is no longer constant at borders.
    """

    operand: str
    weight: str
    bias: str | None
    groups: int
    padded: bool


@dataclass(frozen=True, slots=True)
class Channelwise:
    """Each channel of the value is made from one channel of each operand.

    Attributes:
        operands: name of an operand → (C,), the channel of it that is read, -1 where none is.
        constants: what is known of the operands, in order → what is known of the value.
        sliced: names of tensors and the axis that holds channels; `axis` of (C,) tensors is 0.
        arguments: (kept channels of a value by its name) → arguments that have to change.
    """

    operands: tuple[tuple[str, Positions], ...]
    constants: Callable[[tuple[Constants, ...]], Constants]
    sliced: tuple[tuple[str, int], ...] = ()
    arguments: Callable[[Mapping[str, Bits]], Mapping[str, Argument]] = field(default=lambda kept: {})


Rule: TypeAlias = "Mixing | Channelwise | None"


def shapes_of(program: Program) -> dict[str, Shape]:
    """Shapes of all values that have channels: tensors of floats with at least two axes."""
    shapes = {step.name: step.shape for step in program.steps} | {program.input: program.input_shape}
    return {name: s for name, s in shapes.items() if s is not None and len(s) >= 2 and isinstance(s[1], int) and s[1]}


def weights_in(step: Step) -> Iterator[str]:
    """Names of the tensors that a step reads."""
    return (value.name for value in _flat(tuple(step.arguments.values())) if isinstance(value, Weight))


def refs_in(step: Step) -> Iterator[str]:
    """Names of the values that a step reads."""
    return (value.name for value in _flat(tuple(step.arguments.values())) if isinstance(value, Ref))


def _flat(values: tuple[Argument, ...]) -> Iterator[Argument]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def channel_count(shape: Shape) -> int:
    """C of a shape that has channels."""
    assert isinstance(shape[1], int)
    return shape[1]


def one_to_one(step: Step, shapes: Mapping[str, Shape]) -> Positions:
    """The positions of a step that makes each channel of its value from the operand's channel of the same number."""
    return np.arange(channel_count(shapes[step.name]), dtype=np.int64)


def unchanged(constants: tuple[Constants, ...]) -> Constants:
    """What is known of the value of a step that leaves constants as they are."""
    return constants[0]


def value_read(step: Step, key: str = "self") -> str | None:
    """Name of the value that an argument is, if it is one."""
    value = step.arguments.get(key)
    return value.name if isinstance(value, Ref) else None


def ints_in(value: Argument) -> tuple[int, ...]:
    """An argument that is an integer or several of them; those of its items that are only known later are left out."""
    if isinstance(value, int):
        return (value,)
    return tuple(v for v in value if isinstance(v, int)) if isinstance(value, tuple) else ()
