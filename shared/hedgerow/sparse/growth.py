"""The largest gradients at pruned positions, without ever holding the gradient of a whole layer.

The gradient of a layer's weight is a product of its input and of the gradient of its output, so a few outputs' part of
it can be computed alone. Each part goes through a buffer of the largest so far, and is forgotten. Where native kernels
compute a layer they do so here too, and no dense weight exists.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import isfinite, prod
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hedgerow.activations import Exact, Storage
from hedgerow.errors import TrainingError
from hedgerow.sparse.gradient_pieces import Seen, gradient_pieces, native_pieces
from hedgerow.sparse.index import KeptIndex
from hedgerow.sparse.kernels import Prologue
from hedgerow.sparse.layers import SparseConv2d, SparseLayer, SparseLinear
from hedgerow.sparse.measuring import undisturbed
from hedgerow.sparse.norms import KernelNorm
from hedgerow.sparse.top_k import TopK
from hedgerow.telemetry.memory import phase

__all__ = ["NATIVE_PIECE", "largest_gradients"]

_PIECE = 1 << 16
"""Values of a piece, where neither one output of a convolution nor a buffer has more."""

NATIVE_PIECE = 1 << 14
"""The same of a layer on the native path, whose kernel has working memory of some 16 bytes for each value."""

_PART = 1 << 13
"""Values of a piece that go into the buffer at once, if a part of that is not more."""

_SHARE = 8
"""The part of a buffer that goes into it at once: what is taken in needs room beside it."""


def largest_gradients(
    module: nn.Module, counts: Mapping[str, int], loss: Callable[[], Tensor], *, relative: bool = False
) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Of some layers, the largest gradients of the weight where it is pruned; 0 is none of them.

    One forward and one backward pass, in training mode, as local training has it: norms take the statistics of the
    batch. Only those parts of the backward pass are done that lead to these layers, and no gradient of a kept weight is
    made. All layers compute by the path that they take in training, and inputs of the layers that are asked are stored
    as these store them there; others store none. On the native path no dense weight ever exists. `SparseOther`, of
    which only autograd knows the gradient, has the dense one of that one layer for a moment; it has its dense weight
    all the while. The search in a layer is the `phase` "growth." and the tensor's name.

    Of standardised weights it is the gradient of what they are made of, but for what all weights of an output share.

    Args:
        module: a network of `sparsify`. It comes out as it went in: parameters, gradients (which are none), buffers,
            modes, paths.
        counts: how many to find of each prunable tensor, by its name in the dense network; at least 0.
        loss: runs `module` on a batch; (), its mean loss.
        relative: multiply the gradients of a layer that goes right into a batch norm by the standard deviations that
            this divides its channels by, so that they are those of weights in units of their channel's deviation.

    Returns:
        For each of `counts` flat row-major positions in the dense weight, (k,), ascending, and gradients, (k,). Fewer
        than asked where fewer are not 0; none in a layer that keeps its whole weight or was not run.

    Raises:
        TrainingError: the loss or a gradient is not finite.
    """
    layers = {name: module.get_submodule(name.rpartition(".")[0]) for name in counts}
    asked = {
        name: _Asked(name, layer, TopK(counts[name], size=layer.dense_shape.numel()), relative)
        for name, layer in layers.items()
        if isinstance(layer, SparseLayer)
    }
    with undisturbed(module), _frozen(module):
        module.train()
        handles = [one.layer.register_forward_hook(one.tap) for one in asked.values() if one.layer.path == "dense"]
        handles += _spread_hooks(module, asked.values()) if relative else []
        handles.append(module.register_forward_pre_hook(partial(_tell_batch, list(asked.values()))))
        for one in asked.values():
            # A hooked layer would be kept apart from the norm and ReLU before it.
            one.layer.watch = one if one.layer.path == "native" else None
        try:
            value = loss()
            if not isfinite(value.item()):
                raise TrainingError(
                    f"the loss became {value.item()} where gradients were asked for; lower the step sizes"
                )
            if value.requires_grad:
                # What is recomputed runs here, and is looked at then.
                value.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        finally:
            for handle in handles:
                handle.remove()
            for one in asked.values():
                one.layer.watch = None
            for norm in _norms(module):
                if isinstance(norm, KernelNorm):
                    norm.watch = None
        for one in asked.values():
            one.finish()
    nothing = TopK(0)
    # Each buffer goes when its result is there.
    return {name: (asked.pop(name).top if name in asked else nothing).result() for name in counts}


def _tell_batch(asked: Iterable[_Asked], _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    for one in asked:
        one.batch = arguments[0].numel()


def _spread_hooks(module: nn.Module, asked: Iterable[_Asked]) -> list[RemovableHandle]:
    """Hooks by which batch norms tell the layers right before them how far each of their outputs spreads."""

    def tell(norm: nn.modules.batchnorm._BatchNorm, x: Tensor) -> None:
        for one in waiting:
            if one.gave(x):
                # Of the last run where there are several.
                spread = x.detach().float().var(dim=[d for d in range(x.dim()) if d != 1], correction=0)
                one.spread = (spread + norm.eps).sqrt_()

    # Of others, what belongs to an output does not lie together.
    waiting = [one for one in asked if isinstance(one.layer, SparseConv2d | SparseLinear)]
    handles = []
    for norm in _norms(module):
        if isinstance(norm, KernelNorm):
            # A hooked one would be kept apart from what it is computed with.
            norm.watch = partial(tell, norm)
        else:
            handles.append(norm.register_forward_pre_hook(lambda norm, arguments: tell(norm, arguments[0])))
    return handles


def _norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@dataclass(slots=True)
class _Asked:
    """One layer whose gradients are asked for: what it was run on, until all its outputs' gradients are there."""

    name: str
    layer: SparseLayer
    top: TopK
    relative: bool
    runs: int = 0
    again: int = 0
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    """The same on the native path."""
    spread: Tensor | None = None
    """(outputs,) what each output's gradients are multiplied by."""
    output: weakref.ref[Tensor] | None = None
    """Of the last run."""
    batch: int = 0
    """Elements of what the network was run on."""

    def tap(self, _: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook."""
        if not torch.is_grad_enabled():
            self._counted(again=True)
            return output
        self._counted(again=False)
        # Something has to want a gradient, or autograd would not come by; of nothing, it costs nothing.
        anchor = torch.empty(0, requires_grad=True)
        # A view cannot be changed in place here and later once more.
        output = output.clone() if output._is_view() else output
        x = arguments[0]
        storage = self.layer.activations.inputs if self.stores(x) and x.dim() >= 2 else Exact()
        output = cast(Tensor, _Tap.apply(output, x.detach(), anchor, storage, self.take))  # type: ignore[no-untyped-call]  # torch does not type it
        self.output = weakref.ref(output) if self.relative else None
        return output

    def stores(self, z: Tensor) -> bool:
        """See `hedgerow.sparse.functions.Watch`."""
        # Nobody wants the gradient of the batch, nor here of what layers make of it that were not asked.
        return z.requires_grad or z.numel() != self.batch

    def ran(self, output: Tensor, *, again: bool) -> None:
        """See `hedgerow.sparse.functions.Watch`."""
        self._counted(again=again)
        self.output = weakref.ref(output) if self.relative and not again else None

    def saw(self, z: Tensor, grad: Tensor, prologue: Prologue | None) -> None:
        """See `hedgerow.sparse.functions.Watch`."""
        self.seen.append(Seen(z, grad, prologue))
        if len(self.seen) == self.runs:
            self.finish()

    def gave(self, x: Tensor) -> bool:
        """Whether `x` is the output of the last run, or a view of all of it, as it is still alive."""
        output = None if self.output is None else self.output()
        return output is not None and output.data_ptr() == x.data_ptr() and output.numel() == x.numel()

    def _counted(self, *, again: bool) -> None:
        """Counts a run; one in a block that runs `again` in the backward is counted before that."""
        if again:
            self.runs, self.again = self.runs + 1, self.again + 1
        elif self.again:
            self.again -= 1
        else:
            self.runs += 1

    def take(self, x: Tensor, grad: Tensor) -> None:
        """One run's input and the gradient of its output."""
        self.found.append((x, grad))
        # A layer that runs twice has the sum of both gradients, so that nothing is known before the second.
        if len(self.found) == self.runs:
            self.finish()

    def finish(self) -> None:
        """Looks for the largest gradients in what came."""
        with phase(f"growth.{self.name}"):
            if self.top.k:
                for begin, piece in self._pieces():
                    _take_piece(self.layer, self.top, begin, self._scaled(begin, piece))
            self.found.clear()
            self.seen.clear()

    def _pieces(self) -> Iterator[tuple[int, Tensor]]:
        if self.seen:
            yield from native_pieces(self.layer, self.seen, most=NATIVE_PIECE)
        elif self.found:
            yield from gradient_pieces(self.layer, self.found, most=max(_PIECE, self.top.k))

    def _scaled(self, begin: int, piece: Tensor) -> Tensor:
        if self.spread is None:
            return piece
        # A piece is of some whole outputs, or of a part of one.
        size = prod(self.layer.dense_shape[1:])
        first, last = begin // size, -(-(begin + piece.numel()) // size)
        return piece.view(last - first, -1).mul_(self.spread[first:last, None]).view(-1)


class _Tap(torch.autograd.Function):
    """The identity, which shows who asks the input of a layer and the gradient of its output."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        x: Tensor,
        anchor: Tensor,
        storage: Storage,
        take: Callable[[Tensor, Tensor], None],
    ) -> Tensor:
        # In place, as it is no view then, which a ReLU in place would not take.
        ctx.mark_dirty(output)
        packed = storage.pack(x)
        # Saved by autograd, which notices if it is changed before the backward.
        ctx.save_for_backward(*packed.tensors)
        ctx.restore, ctx.take = packed.restore, take
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.take(ctx.restore(ctx.saved_tensors), grads[0])
        return (grads[0] if ctx.needs_input_grad[0] else None), None, None, None, None


def _take_piece(layer: SparseLayer, top: TopK, begin: int, piece: Tensor) -> None:
    if not bool(piece.isfinite().all()):
        raise TrainingError("a gradient that was asked for is not finite though the loss is; lower the step sizes")
    # What tells where a value is takes more than the value.
    for part in torch.split(piece, max(_PART, top.k // _SHARE)):
        part[_kept_between(layer, begin, begin + part.numel())] = 0
        places = part.nonzero().view(-1)
        top.add(places + begin, part[places])
        begin += part.numel()


def _kept_between(layer: SparseLayer, begin: int, end: int) -> Tensor:
    """The kept positions from `begin` to before `end`, less `begin`: int64."""
    index = layer.positions()
    if not isinstance(index, KeptIndex):
        assert isinstance(index, Tensor)
        bounds = torch.searchsorted(index, torch.tensor([begin, end], dtype=index.dtype)).tolist()
        return index[bounds[0] : bounds[1]].long() - begin
    size = index.row_size
    first, last = begin // size, -(-end // size)
    rows = index.rows[first : last + 1].long()
    codes = torch.from_numpy(index.codes[int(rows[0]) : int(rows[-1])].numpy().astype(np.int64))
    positions = torch.repeat_interleave(torch.arange(first, last) * size - begin, rows.diff()) + codes
    return positions[(positions >= 0) & (positions < end - begin)]
