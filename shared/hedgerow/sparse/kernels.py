"""Sparse convolutions on planes: (C, H, W, N) contiguous float32, the batch innermost.

All of them need `hedgerow.native.library.status().available`. Results are the same bits for any number of threads. A
linear layer is a 1x1 convolution of planes (I, 1, 1, N).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from hedgerow.errors import ModelError
from hedgerow.native.library import INTEGER, POINTER, THREADS, Kernel
from hedgerow.sparse.index import KeptIndex

__all__ = [
    "Geometry",
    "Prologue",
    "conv_backward_input",
    "conv_backward_weight",
    "conv_forward",
    "free_scratch",
    "gather",
    "output_size",
    "scatter",
    "scratch_bytes",
    "scratch_held",
]

_Pair = tuple[int, int]

_REUSED = 4 << 20
"""Bytes a thread: working memory up to this size is kept for the next call; more is freed at once."""

_held = threading.local()


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a convolution is, less its weight; each pair is (vertical, horizontal)."""

    kernel: _Pair = (1, 1)
    stride: _Pair = (1, 1)
    padding: _Pair = (0, 0)
    dilation: _Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Prologue:
    """The convolution sees relu?(scale · x + shift) in place of x; the zeros around it are added afterwards.

    Attributes:
        scale: (C,) float32.
        shift: (C,) float32.
        relu: whether negative values become 0.
    """

    scale: Tensor
    shift: Tensor
    relu: bool = True


class _Pass(IntEnum):
    FORWARD = 0
    INPUT = 1
    WEIGHT = 2


_KEPT = (POINTER, POINTER, INTEGER)
_PROLOGUE = (POINTER, POINTER, INTEGER)
_SCRATCH = Kernel("conv_scratch", POINTER, INTEGER, INTEGER, THREADS, POINTER)
_FORWARD = Kernel("conv_forward", POINTER, POINTER, POINTER, *_KEPT, POINTER, *_PROLOGUE, POINTER, POINTER, THREADS)
_INPUT = Kernel("conv_backward_input", POINTER, POINTER, POINTER, *_KEPT, POINTER, POINTER, THREADS)
_WEIGHT = Kernel("conv_backward_weight", POINTER, POINTER, POINTER, *_KEPT, *_PROLOGUE, POINTER, POINTER, THREADS)
_SCATTER = Kernel("scatter_kept", POINTER, *_KEPT, INTEGER, INTEGER, POINTER, THREADS)
_GATHER = Kernel("gather_kept", POINTER, *_KEPT, INTEGER, INTEGER, POINTER, THREADS)


def output_size(size: _Pair, geometry: Geometry) -> _Pair:
    """(H', W') of the output for an input of (H, W).

    Raises:
        ModelError: the kernel is larger than the padded input.
    """
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = geometry.kernel, geometry.stride, geometry.padding, geometry.dilation
    height = (size[0] + 2 * ph - dh * (kh - 1) - 1) // sh + 1
    width = (size[1] + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    if height < 1 or width < 1:
        raise ModelError(f"an input of {size[0]}x{size[1]} is smaller than {geometry}; use a larger input")
    return height, width


def scratch_bytes(
    x: tuple[int, int, int, int], weight: tuple[int, ...], geometry: Geometry, *, kept: int, threads: int
) -> tuple[int, int, int]:
    """Working memory in bytes of `conv_forward`, `conv_backward_input` and `conv_backward_weight`.

    Args:
        x: (C, H, W, N), the shape of the input planes.
        weight: shape of the dense weight.
        geometry: of the convolution.
        kept: number of kept weights.
        threads: that compute.

    Raises:
        ModelError: the kernel is larger than the padded input.
    """
    shape, _ = _conv_shape(x, weight, geometry)
    forward, back, grad = (_scratch_size(shape, phase, kept, threads) for phase in _Pass)
    return forward, back, grad


def scratch_held(sizes: Iterable[int], *, threads: int) -> int:
    """How many bytes of working memory stay from call to call, where calls need `sizes`: the largest that may stay.

    >>> scratch_held([1000, 3000, 1 << 30], threads=1)
    3000
    """
    return max((size for size in sizes if size <= _REUSED * threads), default=0)


def free_scratch() -> int:
    """Frees the working memory that this thread's calls have left for the next one, and says how many bytes it had."""
    held: Tensor | None = getattr(_held, "scratch", None)
    _held.scratch = None
    return 0 if held is None else held.numel()


def conv_forward(
    x: Tensor,
    values: Tensor,
    index: KeptIndex,
    geometry: Geometry,
    *,
    bias: Tensor | None = None,
    prologue: Prologue | None = None,
) -> Tensor:
    """The convolution of x, (C, H, W, N) → (O, H', W', N).

    Args:
        x: input planes.
        values: (k,) float32, the kept weights in the index's order.
        index: where they are.
        geometry: of the convolution.
        bias: (O,) float32.
        prologue: applied to x on the way in.
    """
    shape, size = _shape(x.shape, index, geometry)
    y = x.new_empty((index.shape[0], *size, x.shape[3]))
    _check(x, values, bias, *_tensors(prologue))
    assert values.numel() == index.kept, "one value for each kept weight"
    if y.numel():
        scratch, threads = _scratch(shape, _Pass.FORWARD, index.kept)
        _FORWARD(
            ctypes.addressof(shape),
            x.data_ptr(),
            values.data_ptr(),
            *_kept(index),
            None if bias is None else bias.data_ptr(),
            *_prologue(prologue),
            y.data_ptr(),
            scratch.data_ptr(),
            threads,
        )
    return y


def conv_backward_input(
    gy: Tensor, values: Tensor, index: KeptIndex, geometry: Geometry, size: tuple[int, int]
) -> Tensor:
    """The gradient of the input, (O, H', W', N) → (C, H, W, N); with a prologue, of what the convolution sees.

    Args:
        gy: gradient of the output.
        values: (k,) float32, the kept weights.
        index: where they are.
        geometry: of the convolution.
        size: (H, W) of the input.
    """
    gx = gy.new_empty((index.shape[1] * geometry.groups, *size, gy.shape[3]))
    shape, out = _shape(gx.shape, index, geometry)
    _check(gy, values)
    assert gy.shape == (index.shape[0], *out, gx.shape[3]), "the gradient belongs to another output"
    assert values.numel() == index.kept, "one value for each kept weight"
    if gx.numel():
        scratch, threads = _scratch(shape, _Pass.INPUT, index.kept)
        _INPUT(
            ctypes.addressof(shape),
            gy.data_ptr(),
            values.data_ptr(),
            *_kept(index),
            gx.data_ptr(),
            scratch.data_ptr(),
            threads,
        )
    return gx


def conv_backward_weight(
    x: Tensor, gy: Tensor, index: KeptIndex, geometry: Geometry, *, prologue: Prologue | None = None
) -> Tensor:
    """The gradient of the kept weights, (k,).

    Args:
        x: (C, H, W, N), the input of the forward.
        gy: (O, H', W', N), the gradient of its output.
        index: where the kept weights are.
        geometry: of the convolution.
        prologue: that of the forward.
    """
    shape, out = _shape(x.shape, index, geometry)
    _check(x, gy, *_tensors(prologue))
    assert gy.shape == (index.shape[0], *out, x.shape[3]), "the gradient belongs to another output"
    if not gy.numel():
        return x.new_zeros(index.kept)
    grad = x.new_empty(index.kept)
    scratch, threads = _scratch(shape, _Pass.WEIGHT, index.kept)
    _WEIGHT(
        ctypes.addressof(shape),
        x.data_ptr(),
        gy.data_ptr(),
        *_kept(index),
        *_prologue(prologue),
        grad.data_ptr(),
        scratch.data_ptr(),
        threads,
    )
    return grad


def scatter(values: Tensor, index: KeptIndex) -> Tensor:
    """The dense weight of `index.shape`: (k,) float32 values at the kept positions, 0 elsewhere."""
    _check(values)
    assert values.numel() == index.kept, "one value for each kept weight"
    dense = values.new_empty(index.shape)
    if dense.numel():
        _SCATTER(
            values.data_ptr(),
            *_kept(index),
            index.shape[0],
            index.row_size,
            dense.data_ptr(),
            torch.get_num_threads(),
        )
    return dense


def gather(dense: Tensor, index: KeptIndex) -> Tensor:
    """(k,) the kept positions of a dense contiguous float32 weight of `index.shape`."""
    _check(dense)
    assert tuple(dense.shape) == index.shape, "the weight belongs to another index"
    values = dense.new_empty(index.kept)
    if dense.numel():
        _GATHER(
            dense.data_ptr(),
            *_kept(index),
            index.shape[0],
            index.row_size,
            values.data_ptr(),
            torch.get_num_threads(),
        )
    return values


def _shape(x: tuple[int, ...], index: KeptIndex, geometry: Geometry) -> tuple[ctypes.Array[ctypes.c_int64], _Pair]:
    """The library's ConvShape, and (H', W')."""
    assert index.row_size == index.shape[1] * geometry.kernel[0] * geometry.kernel[1], "the index is of another kernel"
    return _conv_shape(x, index.shape, geometry)


def _conv_shape(
    x: tuple[int, ...], weight: tuple[int, ...], geometry: Geometry
) -> tuple[ctypes.Array[ctypes.c_int64], _Pair]:
    channels, height, width, batch = x
    outputs, inputs = weight[:2]
    assert channels == inputs * geometry.groups, f"{channels} channels for a weight of {weight}"
    assert outputs % geometry.groups == 0, "groups divide the outputs"
    out = output_size((height, width), geometry)
    pairs = (*geometry.kernel, *geometry.stride, *geometry.padding, *geometry.dilation)
    numbers = (batch, channels, height, width, outputs, *out, *pairs, geometry.groups)
    return (ctypes.c_int64 * len(numbers))(*numbers), out


def _scratch(shape: ctypes.Array[ctypes.c_int64], phase: _Pass, kept: int) -> tuple[Tensor, int]:
    """Working memory, and the number of threads that it is for."""
    threads = torch.get_num_threads()
    size = _scratch_size(shape, phase, kept, threads)
    if size > _REUSED * threads:
        return torch.empty(size, dtype=torch.uint8), threads
    # A fresh block costs a page fault every 4 KB, which is as much as the copy of the input into it.
    held: Tensor | None = getattr(_held, "scratch", None)
    if held is None or held.numel() < size:
        _held.scratch = held = None  # frees the smaller one first
        _held.scratch = held = torch.empty(size, dtype=torch.uint8)
    return held, threads


def _scratch_size(shape: ctypes.Array[ctypes.c_int64], phase: _Pass, kept: int, threads: int) -> int:
    size = ctypes.c_int64()
    _SCRATCH(ctypes.addressof(shape), int(phase), kept, threads, ctypes.addressof(size))
    return size.value


def _kept(index: KeptIndex) -> tuple[int, int, int]:
    return index.rows.data_ptr(), index.codes.data_ptr(), index.codes.element_size()


def _prologue(prologue: Prologue | None) -> tuple[int | None, int | None, int]:
    if prologue is None:
        return None, None, 0
    return prologue.scale.data_ptr(), prologue.shift.data_ptr(), int(prologue.relu)


def _tensors(prologue: Prologue | None) -> tuple[Tensor, ...]:
    return () if prologue is None else (prologue.scale, prologue.shift)


def _check(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        assert tensor is None or (tensor.dtype is torch.float32 and tensor.is_contiguous() and tensor.is_cpu), (
            f"the kernels read contiguous float32 in the host's memory, not {tensor.dtype} of {tensor.stride()}"
        )
