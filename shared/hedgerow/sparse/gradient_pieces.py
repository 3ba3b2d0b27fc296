"""The gradient of a layer's dense weight, a few outputs at a time, from its input and the gradient of its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from hedgerow.sparse import kernels
from hedgerow.sparse.index import KeptIndex
from hedgerow.sparse.kernels import Prologue
from hedgerow.sparse.layers import SparseConv2d, SparseLayer, SparseLinear
from hedgerow.sparse.scattered import scatter

__all__ = ["Seen", "gradient_pieces", "native_pieces"]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the native kernels made of one run of a layer.

    Attributes:
        z: (C, H, W, N), what the layer's input is made of.
        grad: (O, H', W', N), the gradient of its output.
        prologue: what makes the input of `z`; None where it is that.
    """

    z: Tensor
    grad: Tensor
    prologue: Prologue | None


def gradient_pieces(
    layer: SparseLayer, found: list[tuple[Tensor, Tensor]], *, most: int
) -> Iterator[tuple[int, Tensor]]:
    """The gradient of a layer's dense weight, in pieces: the flat position where each begins, and (n,) float32.

    Of a standardised weight it is that of what it is made of, but for what all weights of an output share, which would
    move them together.

    Args:
        layer: the layer.
        found: of each time that it ran, its input and the gradient of its output; at least one.
        most: values of a piece. One output of a convolution may be more, and of a `SparseOther` it is everything.
    """
    yield from _of_trained(layer, _pieces(layer, found, most=most))


def native_pieces(layer: SparseLayer, found: Sequence[Seen], *, most: int) -> Iterator[tuple[int, Tensor]]:
    """The same of a layer on the native path: the kernel for the gradient of kept weights, as if a piece were kept.

    Args:
        layer: the layer, of any kind but `SparseOther`.
        found: of each time that it ran, what there was; at least one.
        most: values of a piece.
    """
    yield from _of_trained(layer, _kernel_pieces(layer, found, most=most))


def _of_trained(layer: SparseLayer, pieces: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
    """Pieces of the gradient of what a layer trains, from those of its weight."""
    factor, size = layer.row_factor(), layer.dense_shape[1:].numel()
    for begin, piece in pieces:
        if factor is not None:
            # Either whole outputs, or a part of one.
            outputs = factor[begin // size : -(-(begin + piece.numel()) // size)]
            piece.view(len(outputs), -1).mul_(outputs[:, None])
        yield begin, piece


def _kernel_pieces(layer: SparseLayer, found: Sequence[Seen], *, most: int) -> Iterator[tuple[int, Tensor]]:
    size, total = layer.dense_shape[1:].numel(), layer.dense_shape.numel()
    # Whole outputs where one is not too large, so that all of a piece reads the same inputs.
    step = most // size * size or min(most, size)
    begin = 0
    while begin < total:
        end = min(begin + step, total, begin + size - begin % size if step < size else total)
        index = _between(layer.dense_shape, begin, end)
        yield (
            begin,
            _summed(
                kernels.conv_backward_weight(one.z, one.grad, index, layer.geometry, prologue=one.prologue)
                for one in found
            ),
        )
        begin = end


def _between(shape: torch.Size, begin: int, end: int) -> KeptIndex:
    """All positions from `begin` to before `end`: whole outputs, or a part of one."""
    size = shape[1:].numel()
    rows = (torch.arange(shape[0] + 1) * size).clamp_(begin, end).sub_(begin).to(torch.int32)
    first = begin % size
    row = torch.arange(first, min(first + end - begin, size), dtype=torch.int32)
    codes = row.to(torch.uint16) if size <= 1 << 16 else row
    return KeptIndex(tuple(shape), rows, codes.repeat((end - begin) // row.numel()))


def _pieces(layer: SparseLayer, found: list[tuple[Tensor, Tensor]], *, most: int) -> Iterator[tuple[int, Tensor]]:
    match layer:
        case SparseLinear():
            yield from _linear_pieces(layer, found, most=most)
        case SparseConv2d():
            yield from _conv_pieces(layer, found, most=most)
        case _:
            yield 0, _summed(_dense_gradient(layer, x, grad) for x, grad in found)


def _linear_pieces(
    layer: SparseLayer, found: list[tuple[Tensor, Tensor]], *, most: int
) -> Iterator[tuple[int, Tensor]]:
    outputs, inputs = layer.dense_shape
    rows = [(x.reshape(-1, inputs), grad.reshape(-1, outputs)) for x, grad in found]
    width, height = min(inputs, most), max(1, most // inputs)
    for o in range(0, outputs, height):
        for i in range(0, inputs, width):
            # Either all inputs, or one output, so that a piece is without gaps.
            parts = ((grad[:, o : o + height].T.float(), x[:, i : i + width].float()) for x, grad in rows)
            yield o * inputs + i, _summed(grad @ x for grad, x in parts)


def _conv_pieces(layer: SparseConv2d, found: list[tuple[Tensor, Tensor]], *, most: int) -> Iterator[tuple[int, Tensor]]:
    outputs, inputs, *window = layer.shape
    size, within = inputs * prod(window), outputs // layer.groups
    height = max(1, most // size)
    # Several whole groups at once, or a part of one.
    groups = max(1, height // within)
    height = min(groups * within, height)
    for first in range(0, layer.groups, groups):
        count = min(groups, layer.groups - first)
        channels = slice(first * inputs, (first + count) * inputs)
        end = (first + count) * within
        for o in range(first * within, end, height):
            outs = slice(o, min(o + height, end))
            shape = torch.Size((outs.stop - o, inputs, *window))
            yield o * size, _summed(_conv_gradient(layer, x, grad, channels, outs, shape, count) for x, grad in found)


def _conv_gradient(
    layer: SparseConv2d, x: Tensor, grad: Tensor, channels: slice, outs: slice, shape: torch.Size, groups: int
) -> Tensor:
    x, grad = (t if t.dim() == 4 else t[None] for t in (x, grad))
    _, found, _ = torch.ops.aten.convolution_backward(
        grad[:, outs].float(),
        x[:, channels].float(),
        # Only its shape matters to the gradient of the weight.
        torch.empty(1).expand(shape),
        None,
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        [0, 0],
        groups,
        [False, True, False],
    )
    return cast(Tensor, found).reshape(-1)


def _dense_gradient(layer: SparseLayer, x: Tensor, grad: Tensor) -> Tensor:
    # Without hooks by now, and its parameters are frozen.
    inner = cast(nn.Module, layer.layer)
    weight = scatter(layer.values().detach(), layer.positions(), layer.dense_shape).requires_grad_()
    with torch.enable_grad():
        output = torch.func.functional_call(inner, {"weight": weight}, (x,))
    (found,) = torch.autograd.grad(output, weight, grad)
    return found.reshape(-1).float()


def _summed(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total.reshape(-1)
