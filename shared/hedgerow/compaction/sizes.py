"""How large a program is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hedgerow.compaction.program import Program, Weight

__all__ = ["Size", "size_of"]

_MULTIPLIES = ("aten.conv1d.", "aten.conv2d.", "aten.conv3d.", "aten.linear.")


@dataclass(frozen=True, slots=True)
class Size:
    """What a network takes.

    Attributes:
        parameters: numbers in its parameters (running statistics of norms are none).
        bytes: of all its tensors.
        macs: multiply-adds of its convolutions and linear layers for one image; zeros count, as dense kernels do them.
        channels: outputs of its convolutions and linear layers.
    """

    parameters: int
    bytes: int
    macs: int
    channels: int


def size_of(program: Program) -> Size:
    """Counts what a program takes for one image."""
    macs = channels = 0
    for step in program.steps:
        weight = step.arguments.get("weight")
        if step.op.startswith(_MULTIPLIES) and isinstance(weight, Weight) and step.shape is not None:
            each = math.prod(program.tensors[weight.name].shape[1:])
            macs += each * math.prod(size for size in step.shape[1:] if isinstance(size, int))
            channels += program.tensors[weight.name].shape[0]
    return Size(
        parameters=sum(t.numel() for name, t in program.tensors.items() if name not in program.buffers),
        bytes=sum(t.numel() * t.element_size() for t in program.tensors.values()),
        macs=macs,
        channels=channels,
    )
