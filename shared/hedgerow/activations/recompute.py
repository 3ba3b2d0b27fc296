"""Blocks that keep their inputs only, and run again in the backward.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174. `torch.utils.checkpoint` does
much the same, and takes 71 MB of memory to import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hedgerow.errors import ModelError

__all__ = ["Recompute"]


class Recompute(nn.Module):
    """Runs `block` as it is, keeps only its inputs for the backward, and runs it again there.

    Outputs, gradients, running statistics and what is drawn from torch's generator are bit for bit those of `block`
    alone; a forward hook of the block is called twice. The block takes tensors and returns one, reads its parameters
    and buffers as attributes of its modules, and draws at random from torch's global generator only. Without gradients
    (`torch.no_grad`) it runs once, with nothing kept.

    Attributes:
        block: the block; its parameters are named "block.…" here.

    >>> block = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> x = torch.ones(3, 2)
    >>> torch.equal(Recompute(block)(x), block(x))
    True
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *inputs: Tensor) -> Tensor:
        """The block's output.

        Raises:
            ModelError: the block changes an input in place, or returns something other than one tensor; in the
                backward, it was switched between training and evaluation since.
        """
        named = _slots(self.block, "parameters")
        parameters = list({id(parameter): parameter for parameter in named.values()}.values())
        tensors = (*inputs, *parameters)
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
            return cast(Tensor, self.block(*inputs))
        position = {id(parameter): at for at, parameter in enumerate(parameters)}
        names = tuple((name, position[id(parameter)]) for name, parameter in named.items())
        call = _Call(self.block, len(inputs), names, _Autocast.current(), _modes(self.block))
        return cast(Tensor, _Recompute.apply(call, *tensors))  # type: ignore[no-untyped-call]  # torch does not type it


@dataclass(frozen=True, slots=True)
class _Autocast:
    """The autocast that a block is called under."""

    enabled: bool
    dtype: torch.dtype
    cache: bool

    @classmethod
    def current(cls) -> _Autocast:
        enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        return cls(enabled, dtype, torch.is_autocast_cache_enabled())

    def again(self) -> torch.autocast:
        return torch.autocast("cpu", dtype=self.dtype, enabled=self.enabled, cache_enabled=self.cache)


@dataclass(frozen=True, slots=True)
class _Call:
    """How a block was called: all that its second pass needs besides tensors.

    Attributes:
        block: what was called.
        inputs: how many it got.
        names: of its parameters, each with its place among the different ones.
        autocast: what it was called under.
        training: flags of all its modules.
    """

    block: nn.Module
    inputs: int
    names: tuple[tuple[str, int], ...]
    autocast: _Autocast
    training: tuple[bool, ...]

    def first(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The block's output, without gradients."""
        output = self.block(*inputs)
        if not isinstance(output, Tensor):
            raise ModelError(
                f"{type(self.block).__name__} returns a {type(output).__name__} and cannot be recomputed: wrap blocks"
                " that return one tensor"
            )
        return output

    def second(self, tensors: tuple[Tensor, ...], *, buffers: dict[str, Tensor]) -> Tensor:
        """The output for these inputs and parameters, with these buffers instead of the block's own."""
        if _modes(self.block) != self.training:
            raise ModelError(
                f"{type(self.block).__name__} was switched between training and evaluation before its backward:"
                " call backward first"
            )
        inputs, parameters = tensors[: self.inputs], tensors[self.inputs :]
        state = {**{name: parameters[at] for name, at in self.names}, **buffers}
        with self.autocast.again():
            # Ties are in the names; torch's own handling leaves a module that has two names with these tensors.
            return cast(Tensor, torch.func.functional_call(self.block, state, inputs, tie_weights=False))


def _modes(block: nn.Module) -> tuple[bool, ...]:
    return tuple(module.training for module in block.modules())


def _slots(block: nn.Module, kind: Literal["parameters", "buffers"]) -> dict[str, Tensor]:
    """Every place of a module that holds a tensor, each once: two places may hold the same one."""
    found: dict[str, Tensor] = {}
    for path, module in block.named_modules():
        own = module.named_parameters if kind == "parameters" else module.named_buffers
        for name, tensor in own(recurse=False, remove_duplicate=False):
            if not tensor.is_meta:
                found[f"{path}.{name}" if path else name] = tensor
    return found


def _copies(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies, in which those that were one tensor still are."""
    copies = {id(tensor): tensor.clone() for tensor in {id(tensor): tensor for tensor in named.values()}.values()}
    return {name: copies[id(tensor)] for name, tensor in named.items()}


def _leaf(x: Tensor, *, wanted: bool) -> Tensor:
    """Another tensor with the same memory and no history; not a view, as autocast caches no casts of views."""
    leaf = torch.empty(0, dtype=x.dtype)
    return leaf.set_(x.untyped_storage(), x.storage_offset(), x.shape, x.stride()).requires_grad_(wanted)


class _Seed(torch.autograd.Function):
    """A scalar whose gradient is the one given; torch imports 34 MB of SymPy to be given one outright."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, grad: Tensor) -> Tensor:
        ctx.save_for_backward(grad)
        return output.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad, None


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> Tensor:
        inputs = tensors[: call.inputs]
        versions = [x._version for x in inputs]
        random = torch.get_rng_state()
        # All of them, as only afterwards it shows which ones change; native kernels do not count their writes.
        before = _copies(_slots(call.block, "buffers"))
        output = call.first(inputs)
        if [x._version for x in inputs] != versions:
            raise ModelError(
                f"{type(call.block).__name__} changes its input in place and cannot be recomputed: build it with"
                " inplace=False"
            )
        after = _slots(call.block, "buffers")
        changed = [name for name in before if name not in after or not torch.equal(after[name], before[name])]
        ctx.call, ctx.random, ctx.changed = call, random, changed
        ctx.save_for_backward(*tensors, *(before[name] for name in changed))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted: tuple[bool, ...] = ctx.needs_input_grad[1:]
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        leaves = tuple(_leaf(x, wanted=needed) for x, needed in zip(saved, wanted, strict=False))
        # Running statistics are found as the first pass found them, and changed in a copy.
        buffers = _copies(dict(zip(ctx.changed, saved[len(leaves) :], strict=True)))
        now = torch.get_rng_state()
        torch.set_rng_state(ctx.random)
        try:
            with torch.enable_grad():
                output = ctx.call.second(leaves, buffers=buffers)
        finally:
            torch.set_rng_state(now)
            if torch.is_autocast_enabled("cpu"):
                torch.clear_autocast_cache()  # an outer autocast would keep the leaves' casts for as long as it lasts
        if not output.requires_grad:
            return None, *(None for _ in leaves)
        sought = [leaf for leaf in leaves if leaf.requires_grad]
        with torch.enable_grad():
            seed: Tensor = _Seed.apply(output, grads[0])  # type: ignore[no-untyped-call]  # torch does not type it
        found = iter(torch.autograd.grad(seed, sought, allow_unused=True))
        return None, *(next(found) if leaf.requires_grad else None for leaf in leaves)
