"""The one call: a masked network in, the same network without its dead channels out."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from hedgerow.compaction.liveness import liveness
from hedgerow.compaction.program import Program, module_of
from hedgerow.compaction.rewrite import rewritten
from hedgerow.compaction.sizes import Size, size_of
from hedgerow.compaction.tracing import trace
from hedgerow.errors import ModelError
from hedgerow.pruning import Mask

__all__ = ["Compaction", "compact"]


@dataclass(frozen=True, slots=True)
class Compaction:
    """A network before and after its dead channels were removed.

    Attributes:
        whole: what the network computes, zeros and all.
        program: the same without dead channels.
        untouched: operators without a rule, whose inputs and outputs keep all their channels, such as
            ``aten.permute.default``.
    """

    whole: Program
    program: Program
    untouched: tuple[str, ...]

    @property
    def before(self) -> Size:
        """Of the whole network."""
        return size_of(self.whole)

    @property
    def after(self) -> Size:
        """Of the compact one."""
        return size_of(self.program)

    def module(self) -> nn.Module:
        """The compact network in eval mode: (N, C, H, W) float32 → the outputs of the whole one."""
        return module_of(self.program)


def compact(model: nn.Module, input_shape: tuple[int, int, int], *, mask: Mask | None = None) -> Compaction:
    """Removes the channels that no kept weight leads to, or away from, with their weights; nothing else changes.

    What a removed channel contributes although no weight leads to it (its bias, the shift of its norm) moves into the
    biases of those who read it. In exact arithmetic the outputs in eval mode are the same; in float32 they differ by
    rounding (about 1e-7 of the largest).

    Args:
        model: a network on the CPU that takes (N, C, H, W); it is not changed.
        input_shape: (C, H, W).
        mask: weights outside it count as 0; without a mask, the zeros among the weights say what is dead.

    Raises:
        ModelError: `torch.export` cannot trace the network, or a tensor of the mask is not one of its weights.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> _ = model[3].weight.data[:, 1].zero_()   # nobody reads unit 1
    >>> smaller = compact(model, (1, 2, 2))
    >>> smaller.before.parameters, smaller.after.parameters
    (23, 16)
    """
    masked = model if mask is None else _masked(model, mask)
    whole = trace(masked, input_shape)
    live = liveness(whole)
    untouched = {step.op for step in whole.steps if live.rules[step.name] is None and step.shape is not None}
    return Compaction(whole=whole, program=rewritten(whole, live), untouched=tuple(sorted(untouched)))


def _masked(model: nn.Module, mask: Mask) -> nn.Module:
    masked = copy.deepcopy(model)
    parameters = dict(masked.named_parameters())
    for name, bits in mask.items():
        if name not in parameters or parameters[name].shape != bits.shape:
            raise ModelError(f"the mask's {name!r} of shape {tuple(bits.shape)} is no weight of this model")
        with torch.no_grad():
            parameters[name].mul_(bits)
    return masked
