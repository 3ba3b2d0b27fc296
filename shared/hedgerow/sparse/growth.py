"""The largest gradients at pruned positions, without ever holding the gradient of a whole layer.

The gradient of a layer's weight is a product of its input and of the gradient of its output, so a few outputs' part of
it can be computed alone. Each part goes through a buffer of the largest so far, and is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from hedgerow.activations import Exact, Storage
from hedgerow.errors import TrainingError
from hedgerow.sparse.conversion import kernel_layers, set_paths
from hedgerow.sparse.gradient_pieces import gradient_pieces
from hedgerow.sparse.index import KeptIndex
from hedgerow.sparse.layers import SparseConv2d, SparseLayer, SparseLinear
from hedgerow.sparse.measuring import undisturbed
from hedgerow.telemetry.memory import phase

__all__ = ["TopK", "largest_gradients"]

_PIECE = 1 << 16
"""Values of a piece, where neither one output of a convolution nor two buffers have more."""

_PART = 1 << 13
"""Values of a piece that go into the buffer at once, if that does not have more."""


class TopK:
    """The k values of largest size among all that are added; of equal ones those at lower positions.

    It holds at most k of them, and while it takes a piece in, those of the piece that are large enough. However the
    values are divided into pieces, and in whatever order these come, the result is the same.

    >>> top = TopK(2)
    >>> top.add(torch.tensor([0, 1, 2]), torch.tensor([1.0, -3.0, 2.0]))
    >>> top.add(torch.tensor([3, 4]), torch.tensor([0.5, -2.0]))
    >>> top.result()
    (array([1, 2]), array([-3.,  2.], dtype=float32))
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._positions = torch.empty(0, dtype=torch.int64)
        self._values = torch.empty(0)
        self._least = 0.0

    def add(self, positions: Tensor, values: Tensor) -> None:
        """Takes a piece in.

        Args:
            positions: (n,) int64, none of which was added before.
            values: (n,) float32, none of which is NaN.
        """
        if self.k == 0:
            return
        if self._values.numel() == self.k:
            enough = values.abs() >= self._least
            positions, values = positions[enough], values[enough]
        positions, values = torch.cat((self._positions, positions)), torch.cat((self._values, values))
        if values.numel() > self.k:
            chosen = _largest(positions, values.abs(), self.k)
            positions, values = positions[chosen], values[chosen]
        self._positions, self._values = positions, values
        if values.numel() == self.k:
            self._least = values.abs().min().item()

    def result(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """(m,) positions, ascending, and (m,) values, where m is k, or less if not so many were added."""
        positions, order = self._positions.sort()
        return positions.numpy(), self._values[order].numpy()


def _largest(positions: Tensor, sizes: Tensor, k: int) -> Tensor:
    """Where the k largest of more than k sizes are."""
    # One partition finds the least of them; what is above it is taken whole, what is equal by position.
    least = sizes.kthvalue(sizes.numel() - k + 1).values
    above, equal = (sizes > least).nonzero().view(-1), (sizes == least).nonzero().view(-1)
    first = positions[equal].argsort()[: k - above.numel()]
    return torch.cat((above, equal[first]))


def largest_gradients(
    module: nn.Module, counts: Mapping[str, int], loss: Callable[[], Tensor], *, relative: bool = False
) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Of some layers, the largest gradients of the weight where it is pruned; 0 is none of them.

    One forward and one backward pass, in training mode, as local training has it: norms take the statistics of the
    batch. Only those parts of the backward pass are done that lead to these layers, and no gradient of a kept weight is
    made. All layers compute by the dense path meanwhile, and inputs of the layers that are asked are stored as these
    store them in training; others store none. `SparseOther`, of which only autograd knows the gradient, has the dense
    one of that one layer for a moment; it has its dense weight all the while. The search in a layer is the `phase`
    "growth." and the tensor's name.

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
        name: _Asked(name, layer, TopK(counts[name]))
        for name, layer in layers.items()
        if isinstance(layer, SparseLayer)
    }
    with undisturbed(module), _frozen(module):
        # There a layer's input and output are where hooks see them.
        set_paths(module, dict.fromkeys(kernel_layers(module), "dense"))
        module.train()
        handles = [one.layer.register_forward_hook(one.tap) for one in asked.values()]
        handles += _spread_hooks(module, asked.values()) if relative else []
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
                one.output = None
        for one in asked.values():
            one.finish()
    nothing = TopK(0)
    return {name: (asked[name].top if name in asked else nothing).result() for name in counts}


def _spread_hooks(module: nn.Module, asked: Iterable[_Asked]) -> list[RemovableHandle]:
    """Hooks by which batch norms tell the layers right before them how far each of their outputs spreads."""

    def tell(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        (x,) = arguments
        for one in waiting:
            if one.output is x:
                # Of the last run where there are several.
                spread = x.detach().float().var(dim=[d for d in range(x.dim()) if d != 1], correction=0)
                one.spread = (spread + cast(nn.modules.batchnorm._BatchNorm, norm).eps).sqrt_()
                one.output = None

    # Of others, what belongs to an output does not lie together.
    waiting = [one for one in asked if isinstance(one.layer, SparseConv2d | SparseLinear)]
    norms = [norm for norm in module.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    return [norm.register_forward_pre_hook(tell) for norm in norms]


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
    runs: int = 0
    again: int = 0
    found: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    spread: Tensor | None = None
    """(outputs,) what each output's gradients are multiplied by."""
    output: Tensor | None = None
    """Of the last run, until something takes it."""

    def tap(self, _: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook."""
        if not torch.is_grad_enabled():
            # In a block that runs again in the backward.
            self.runs, self.again = self.runs + 1, self.again + 1
            return output
        if self.again:
            self.again -= 1
        else:
            self.runs += 1
        # Something has to want a gradient, or autograd would not come by; of nothing, it costs nothing.
        anchor = torch.empty(0, requires_grad=True)
        # A view cannot be changed in place here and later once more.
        output = output.clone() if output._is_view() else output
        x = arguments[0]
        # What nobody wants the gradient of is the batch, which the caller holds anyway.
        storage = self.layer.activations.inputs if x.requires_grad and x.dim() >= 2 else Exact()
        self.output = cast(Tensor, _Tap.apply(output, x.detach(), anchor, storage, self.take))  # type: ignore[no-untyped-call]  # torch does not type it
        return self.output

    def take(self, x: Tensor, grad: Tensor) -> None:
        """One run's input and the gradient of its output."""
        self.found.append((x, grad))
        # A layer that runs twice has the sum of both gradients, so that nothing is known before the second.
        if len(self.found) == self.runs:
            self.finish()

    def finish(self) -> None:
        """Looks for the largest gradients in what came."""
        with phase(f"growth.{self.name}"):
            if self.found and self.top.k:
                for begin, piece in gradient_pieces(self.layer, self.found, most=max(_PIECE, 2 * self.top.k)):
                    _take_piece(self.layer, self.top, begin, self._scaled(begin, piece))
            self.found.clear()

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
    piece[_kept_between(layer, begin, begin + piece.numel())] = 0
    # What tells where a value is takes more than the value.
    for part in torch.split(piece, max(_PART, top.k)):
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
