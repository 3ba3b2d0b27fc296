"""Which channels a mask leaves dead, whatever the weights are: for training, where biases still move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.compaction.channels import Bits, Channelwise, Mixing, Rule, refs_in, shapes_of
from hedgerow.compaction.liveness import reads
from hedgerow.compaction.operators import rules_of
from hedgerow.compaction.program import Program
from hedgerow.compaction.tracing import trace
from hedgerow.errors import ModelError
from hedgerow.pruning import Mask

__all__ = ["LayerChannels", "dead_channels"]


@dataclass(frozen=True, slots=True)
class LayerChannels:
    """The channels of one convolution or linear layer.

    Attributes:
        reached: (O,) bool, whether some path of kept weights leads from the network's input to this output channel.
            One that is not has the same value for all images; its bias and the shift of its norm still matter.
        read: (O,) bool, whether some path of kept weights leads from it to the network's output. One that is not has
            no influence at all: its gradients are exactly 0, and its weights need neither compute nor memory.
        reached_inputs: (I,) bool, of the channels that the layer reads.
    """

    reached: Tensor
    read: Tensor
    reached_inputs: Tensor

    @property
    def dead(self) -> Tensor:
        """(O,) bool: no path from the input to the output of the network goes through the channel."""
        return ~(self.reached & self.read)


def dead_channels(model: nn.Module, mask: Mask, *, input_shape: tuple[int, int, int]) -> dict[str, LayerChannels]:
    """Follows the mask through the network, for each convolution and linear layer that is in it.

    Args:
        model: on the CPU; it is not changed, and the values of its weights do not matter.
        mask: weights outside it are never there; those of layers that it leaves out always are.
        input_shape: (C, H, W).

    Returns:
        By the weight's name, as in the mask. A layer that is read twice or by no known operator is not there.

    Raises:
        ModelError: `torch.export` cannot trace the network, or the mask is not of this network.
    """
    program = trace(model, input_shape)
    for name, shape in mask.shapes.items():
        if name in program.tensors and tuple(program.tensors[name].shape) != shape:
            raise ModelError(f"the mask's {name!r} of shape {shape} is no weight of this model")
    rules = rules_of(program)
    weights = {rule.weight for rule in rules.values() if isinstance(rule, Mixing)}
    pattern = {name: mask[name].float() if name in mask else torch.ones_like(program.tensors[name]) for name in weights}
    program = replace(program, tensors={**program.tensors, **pattern})
    reached, read = _reached(program, rules), _read(program, rules)
    return {
        rule.weight: LayerChannels(
            reached=torch.from_numpy(reached[name]),
            read=torch.from_numpy(read[name]),
            reached_inputs=torch.from_numpy(reached[rule.operand]),
        )
        for name, rule in rules.items()
        if isinstance(rule, Mixing) and rule.weight in mask
    }


def _reached(program: Program, rules: Mapping[str, Rule]) -> dict[str, Bits]:
    found = {name: np.ones(int(shape[1]), np.bool_) for name, shape in shapes_of(program).items()}
    for step in program.steps:
        rule = rules[step.name]
        if isinstance(rule, Mixing):
            used, _ = reads(program, rule)
            found[step.name] = np.logical_or.reduce(used & found[rule.operand], axis=1)
        elif isinstance(rule, Channelwise):
            sides = [np.where(positions >= 0, found[name][positions], False) for name, positions in rule.operands]
            found[step.name] = np.logical_or.reduce(sides)
    return found


def _read(program: Program, rules: Mapping[str, Rule]) -> dict[str, Bits]:
    found = {name: np.zeros(int(shape[1]), np.bool_) for name, shape in shapes_of(program).items()}
    found[program.output][:] = True
    for step in reversed(program.steps):
        rule = rules[step.name]
        if isinstance(rule, Mixing):
            used, _ = reads(program, rule)
            found[rule.operand] |= used[found[step.name]].any(0)
        elif isinstance(rule, Channelwise):
            for name, positions in rule.operands:
                inside = positions >= 0
                np.logical_or.at(found[name], positions[inside], found[step.name][inside])
        else:
            for name in refs_in(step):
                if name in found:
                    found[name][:] = True
    return found
