"""What runs from layer to layer inside fused containers: a tensor, and the norm and ReLU that it still has to pass.

They are put off because the convolution after them takes them in: then nothing but the norm's input is ever stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hedgerow.activations import Exact, bit_relu, bit_relu_
from hedgerow.sparse import layout
from hedgerow.sparse.layers import KernelLayer
from hedgerow.sparse.norms import KernelNorm

__all__ = ["Signal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """An activation on its way.

    Attributes:
        outer: it as modules of torch see it, any shape and layout, where the last layer was one; else None.
        inner: it as planes, else None. One of the two is there.
        flat: its logical shape is (N, C), not (N, C, H, W).
        norm: to be applied still.
        relu: to be applied still, after the norm.
        in_bits: whether that stores a bit an element; else what it gives, which the next layer may hold as well.
        own: nothing else reads `inner`, which may be changed.
    """

    outer: Tensor | None = None
    inner: Tensor | None = None
    flat: bool = False
    norm: KernelNorm | None = None
    relu: bool = False
    in_bits: bool = False
    own: bool = False

    @classmethod
    def of(cls, x: Tensor) -> Signal:
        """What a module of torch gave, or a caller."""
        if x.dim() in (2, 4) and x.dtype == torch.float32 and layout.is_batch_last(x):
            return cls(inner=layout.planes(x), flat=x.dim() == 2)
        return cls(outer=x)

    @property
    def dim(self) -> int:
        """Number of logical dimensions."""
        if self.outer is not None:
            return self.outer.dim()
        return 2 if self.flat else 4

    def planes(self) -> Tensor:
        """As the kernels take it; what is put off is not applied."""
        if self.inner is not None:
            return self.inner
        assert self.outer is not None
        return layout.planes(self.outer)

    def settled(self) -> Signal:
        """With nothing put off."""
        if self.outer is not None:
            x = self.outer if self.norm is None else self.norm(self.outer)
            return Signal.of(self._rectified(x) if self.relu else x)
        if self.norm is not None:
            return Signal(inner=self.norm.normalised(self.planes(), relu=self.relu), flat=self.flat)
        # Several may read what is settled.
        inner = self._rectified(self.planes()) if self.relu else self.inner
        return replace(self, inner=inner, relu=False, own=False)

    def logical(self) -> Tensor:
        """As modules of torch take it, with nothing put off."""
        done = self.settled()
        if done.inner is not None:
            return layout.logical(done.inner, flat=done.flat)
        assert done.outer is not None
        return done.outer

    def through_norm(self, norm: KernelNorm) -> Signal:
        """Puts off a norm."""
        before = self.settled() if self.norm is not None or self.relu else self
        return replace(before, norm=norm)

    def through_relu(self, *, in_bits: bool) -> Signal:
        """Puts off a ReLU; two are one."""
        return replace(self, relu=True, in_bits=in_bits)

    def through_layer(self, layer: KernelLayer) -> Signal:
        """Through a layer on the native path, which takes in what was put off."""
        flat, z = self.dim == 2, self.planes()
        if self.norm is not None:
            parameters = (self.norm.weight, self.norm.bias)
            y = layer.convolved(z, norm=parameters, statistics=self.norm.statistics(z), relu=self.relu)
        elif self.relu and not isinstance(layer.activations.inputs, Exact):
            # A bit an element says what ReLU's backward has to know, however coarsely the layer stores its input.
            y = layer.convolved(bit_relu_(z) if self.own else bit_relu(z))
        else:
            y = layer.convolved(z, relu=self.relu)
        return Signal(inner=y, flat=flat, own=True)

    def plus(self, other: Signal, *, relu: bool, in_bits: bool = False) -> Signal:
        """The sum with another signal, then ReLU if `relu`; this one's norm is fused with it.

        With `in_bits` a ReLU stores a bit an element; else what it gives, which the next layer may hold as well.
        """
        residual = other.settled().planes()
        if self.norm is not None and not self.relu:
            return Signal(inner=self.norm.normalised(self.planes(), residual=residual, relu=relu), flat=self.flat)
        total = self.settled().planes() + residual
        if relu:
            total = bit_relu_(total) if in_bits else total.relu_()
        return Signal(inner=total, flat=self.flat)

    def _rectified(self, x: Tensor) -> Tensor:
        if not self.in_bits:
            return torch.relu(x)
        return bit_relu_(x) if self.own else bit_relu(x)
