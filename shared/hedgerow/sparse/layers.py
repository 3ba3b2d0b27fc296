"""Layers that hold their kept positions only, each with two ways to compute: the native kernels, or torch's own.

`SparseConv2d` and `SparseLinear` train one float a kept position: the weight itself, or the score of a sign. On the
native path no dense weight ever exists. On the dense path one exists inside the layer's forward and again inside its
backward; nothing of full size outlives the layer.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from hedgerow.activations import Activations, Exact
from hedgerow.models.standard import StandardModule
from hedgerow.models.standard import Statistics as Counted
from hedgerow.native.library import status
from hedgerow.sparse.functions import Convolution, Statistics, Watch, convolve
from hedgerow.sparse.index import KeptIndex, kept_index
from hedgerow.sparse.kernels import Geometry
from hedgerow.sparse.layout import logical, planes
from hedgerow.sparse.scattered import Positions, scatter, scattered_conv, scattered_linear
from hedgerow.sparse.standardising import row_factor, standardised
from hedgerow.sparse.values import SignEstimator, SignThrough, sampled_values

__all__ = [
    "KernelLayer",
    "Path",
    "SignEstimator",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SparseOther",
    "WholeConv2d",
    "WholeLinear",
]

Path: TypeAlias = Literal["native", "dense"]


_ONE_BY_ONE = Geometry()


class KernelLayer(nn.Module):
    """What all layers share that the native kernels can compute.

    Attributes:
        path: how it computes; `take` changes it.
        activations: how it stores what it keeps for the backward.
        watch: on the native path, who looks at what its weight's gradient is made of; its own trained values get none.
    """

    path: Path = "dense"
    activations: Activations = Activations()
    watch: Watch | None = None
    estimator: SignEstimator = "identity"
    magnitude: Tensor | None
    bias: nn.Parameter | None
    gain: nn.Parameter | None
    rows: Tensor
    codes: Tensor

    @property
    def trained(self) -> nn.Parameter:
        """The values of the kept positions, or their scores: k elements in row-major order."""
        raise NotImplementedError

    @property
    def geometry(self) -> Geometry:
        """As the kernels take it."""
        raise NotImplementedError

    @property
    def dense_shape(self) -> torch.Size:
        """Shape of the dense weight."""
        raise NotImplementedError

    @property
    def standard(self) -> bool:
        """Whether it computes with standardised weights."""
        return self.gain is not None

    def take(self, path: Path) -> None:
        """Computes by `path` from now on."""
        self.path = path

    def kept_index(self) -> KeptIndex:
        """The kept positions; the tensors are the layer's own."""
        codes = self.codes.view(torch.uint16) if self.codes.dtype == torch.int16 else self.codes
        return KeptIndex(tuple(self.dense_shape), self.rows, codes)

    def convolved(
        self,
        z: Tensor,
        *,
        norm: tuple[Tensor | None, Tensor | None] = (None, None),
        statistics: Statistics | None = None,
        relu: bool = False,
    ) -> Tensor:
        """Planes to planes on the native path, after a norm and ReLU that may precede it (see `functions.convolve`)."""
        values, magnitude = self._operand()
        watch, saving = self.watch, torch.is_grad_enabled()
        # What nobody wants the gradient of is the batch in training, which the caller holds anyway.
        stores = z.requires_grad if watch is None else watch.stores(z)
        if watch is not None:
            # Something has to want a gradient, or autograd would not come by.
            values = values.detach().requires_grad_()
        task = Convolution(
            index=self.kept_index(),
            geometry=self.geometry,
            magnitude=magnitude,
            estimator=self.estimator,
            statistics=statistics,
            relu=relu,
            activations=self.activations if stores else Activations(),
            saving=saving,
            watch=watch,
        )
        y = convolve(z, values, self.bias, task, norm=norm)
        if watch is not None:
            watch.ran(y, again=not saving)
        return y

    def _operand(self) -> tuple[Tensor, Tensor | None]:
        """What the kernels take: values, or scores of signs and their magnitude."""
        return self.trained, self.magnitude

    def _hold(self, index: KeptIndex | None) -> None:
        self.register_buffer("rows", None if index is None else index.rows, persistent=False)
        # torch cannot pickle uint16.
        codes = None if index is None else index.codes
        if codes is not None and codes.dtype == torch.uint16:
            codes = codes.view(torch.int16)
        self.register_buffer("codes", codes, persistent=False)


class SparseLayer(KernelLayer):
    """A layer that trains the value at each kept position of one weight.

    Attributes:
        kept: (k,) float32 parameter; weights, or the scores of signs where there is a `magnitude`.
        rows, codes: the kept positions (see `KeptIndex`; uint16 viewed as int16) where there are native kernels to read
            them, else None.
        index: (k,) int32, flat row-major positions of the kept weights; None where there are `rows` and `codes`.
        magnitude: None, or the frozen size of the signed weights: () or (k,) float32.
        gain: None, or (outputs,) parameter: what `kept` stands for is standardised, and each output's has this size.
        statistics: which weights of an output that rests on.
    """

    index: Tensor | None
    statistics: Counted = "kept"

    def __init__(self, *, shape: torch.Size, index: Tensor, bias: Tensor | None, compact: bool = True) -> None:
        super().__init__()
        self.shape = shape
        compact = compact and status().available
        self.register_buffer("index", None if compact else index, persistent=False)
        self._hold(kept_index(index, shape) if compact else None)
        self.register_buffer("magnitude", None, persistent=False)
        self.kept = nn.Parameter(torch.zeros(index.numel()))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.gain = None

    @property
    def trained(self) -> nn.Parameter:
        """`kept`."""
        return self.kept

    def standardise(self, dense: StandardModule) -> None:
        """Makes it compute with standardised weights as `dense` does."""
        self.gain = nn.Parameter(dense.gain.detach().clone())
        self.statistics = dense.statistics
        if self.index is not None:
            self.rows = kept_index(self.index, self.shape).rows

    def signed(self, magnitude: Tensor, *, estimator: SignEstimator) -> None:
        """Makes `kept` the scores of signs: the weight is magnitude · sign(score), with sign(0) = +1.

        With the estimator `sampled` they are those of masks: the weight is `magnitude`, (k,) with signs of its own,
        where a mask that is drawn at each use keeps it, and else 0.
        """
        self.register_buffer("magnitude", magnitude, persistent=False)
        self.estimator = estimator

    def values(self) -> Tensor:
        """(k,) the kept weights, differentiable with respect to `kept`, and `gain` if there is one."""
        values = self._signed()
        if self.gain is None:
            return values
        return standardised(values, self.gain, rows=self.rows, fan_in=self._fan_in, statistics=self.statistics)

    def row_factor(self) -> Tensor | None:
        """(outputs,) what a gradient of standardised weights is multiplied by to be one of `kept`; None without.

        What all weights of an output share of such a gradient is left out.
        """
        if self.gain is None:
            return None
        values = self._signed()
        return row_factor(values, self.gain, rows=self.rows, fan_in=self._fan_in, statistics=self.statistics)

    @property
    def _fan_in(self) -> int:
        return self.shape[1:].numel()

    def _signed(self) -> Tensor:
        if self.magnitude is None:
            return self.kept
        if self.estimator == "sampled":
            return sampled_values(self.kept, self.magnitude)
        values = SignThrough.apply(self.kept, self.magnitude, self.estimator)  # type: ignore[no-untyped-call]  # torch does not type it
        return cast(Tensor, values)

    def _operand(self) -> tuple[Tensor, Tensor | None]:
        made = self.gain is not None or self.estimator == "sampled"
        return (self.values(), None) if made else super()._operand()

    def extra_repr(self) -> str:
        """Shape and density, for printing a model."""
        return f"{tuple(self.shape)}, kept={self.kept.numel()} of {self.shape.numel()}"

    @property
    def dense_shape(self) -> torch.Size:
        """Shape of the dense weight."""
        return self.shape

    def positions(self) -> Positions:
        """The kept positions, in the form that this layer holds."""
        return self.kept_index() if self.index is None else self.index


class SparseConv2d(SparseLayer):
    """A 2-D convolution of (N, C, H, W) inputs whose weight is zero outside `index`."""

    def __init__(self, *, dense: nn.Conv2d, index: Tensor) -> None:
        super().__init__(shape=dense.weight.shape, index=index, bias=dense.bias)
        self.stride, self.dilation, self.groups = dense.stride, dense.dilation, dense.groups
        self.padding = cast(tuple[int, ...], dense.padding)

    @property
    def geometry(self) -> Geometry:
        """As the kernels take it."""
        return _conv_geometry(self, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, out, H', W')."""
        if self.path == "native":
            return _native_conv(self, x)
        settings = (self.stride, self.padding, self.dilation, self.groups)
        storage = self.activations.inputs
        return scattered_conv(x, self.values(), self.bias, self.positions(), self.shape, settings, storage=storage)


class SparseLinear(SparseLayer):
    """An affine map of (…, in) inputs whose weight is zero outside `index`."""

    def __init__(self, *, dense: nn.Linear, index: Tensor) -> None:
        super().__init__(shape=dense.weight.shape, index=index, bias=dense.bias)

    @property
    def geometry(self) -> Geometry:
        """That of a 1x1 convolution."""
        return _ONE_BY_ONE

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        if self.path == "native":
            return _native_linear(self, x)
        storage = self.activations.inputs
        return scattered_linear(x, self.values(), self.bias, self.positions(), self.shape, storage=storage)


class SparseOther(SparseLayer):
    """Any other layer with a `weight`, called with the scattered weight, which autograd keeps until the backward."""

    def __init__(self, *, dense: nn.Module, index: Tensor) -> None:
        weight = cast(Tensor, dense.weight)
        super().__init__(shape=weight.shape, index=index, bias=None, compact=False)
        # The layer's own bias stays its parameter; its weight must not be a second one.
        del dense.weight
        dense.register_buffer("weight", torch.empty(weight.shape, device="meta"), persistent=False)
        self.layer = dense

    def forward(self, x: Tensor) -> Tensor:
        """As the wrapped layer's."""
        weight = scatter(self.values(), self.positions(), self.shape)
        return cast(Tensor, torch.func.functional_call(self.layer, {"weight": weight}, (x,)))


class _WholeLayer(KernelLayer):
    """A layer that keeps its whole weight, which it trains in the shape that it has."""

    weight: nn.Parameter
    magnitude = None
    gain = None

    @property
    def trained(self) -> nn.Parameter:
        """`weight`."""
        return self.weight

    @property
    def dense_shape(self) -> torch.Size:
        """Shape of the weight."""
        return self.weight.shape

    def take(self, path: Path) -> None:
        """Computes by `path` from now on; only the native one has to know the positions."""
        if path != self.path:
            everything = torch.arange(self.weight.numel(), dtype=torch.int32)
            self._hold(kept_index(everything, self.weight.shape) if path == "native" else None)
        super().take(path)


class WholeConv2d(_WholeLayer, nn.Conv2d):  # type: ignore[misc]  # torch declares its attributes more loosely
    """`nn.Conv2d` that can take the native path."""

    @property
    def geometry(self) -> Geometry:
        """As the kernels take it."""
        return _conv_geometry(self, self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, out, H', W')."""
        if self.path == "native":
            return _native_conv(self, x)
        storage = self.activations.inputs
        if isinstance(storage, Exact):
            return nn.Conv2d.forward(self, x)
        settings = (self.stride, cast(tuple[int, ...], self.padding), self.dilation, self.groups)
        return scattered_conv(x, self.weight, self.bias, None, self.weight.shape, settings, storage=storage)


class WholeLinear(_WholeLayer, nn.Linear):  # type: ignore[misc]  # torch declares its attributes more loosely
    """`nn.Linear` that can take the native path."""

    @property
    def geometry(self) -> Geometry:
        """That of a 1x1 convolution."""
        return _ONE_BY_ONE

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        if self.path == "native":
            return _native_linear(self, x)
        storage = self.activations.inputs
        if isinstance(storage, Exact):
            return nn.Linear.forward(self, x)
        return scattered_linear(x, self.weight, self.bias, None, self.weight.shape, storage=storage)


def _conv_geometry(layer: Any, shape: torch.Size) -> Geometry:
    return _geometry((shape[2], shape[3]), layer.stride, layer.padding, layer.dilation, layer.groups)


@functools.cache
def _geometry(*settings: Any) -> Geometry:
    return Geometry(*settings)


def _native_conv(layer: KernelLayer, x: Tensor) -> Tensor:
    y = logical(layer.convolved(planes(x if x.dim() == 4 else x[None])))
    return y if x.dim() == 4 else y[0]


def _native_linear(layer: KernelLayer, x: Tensor) -> Tensor:
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    y = logical(layer.convolved(planes(rows)), flat=True)
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], y.shape[-1])
