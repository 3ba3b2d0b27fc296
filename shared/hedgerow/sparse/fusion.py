"""Containers that run their layers with activations batch last, and fuse what stands side by side in them."""

from __future__ import annotations

import itertools
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from hedgerow.activations import Activations, Recompute
from hedgerow.models.mobilenet import InvertedResidual
from hedgerow.models.resnet import BasicBlock, PadShortcut
from hedgerow.sparse.layers import KernelLayer, SparseConv2d, WholeConv2d
from hedgerow.sparse.layout import flat_channels
from hedgerow.sparse.norms import BatchLastNorm2d, KernelNorm
from hedgerow.sparse.pooling import BatchLastAveragePool, BatchLastMaxPool2d, StoredReLU
from hedgerow.sparse.signals import Signal

__all__ = ["Chain", "FusedBasicBlock", "FusedInvertedResidual", "advance", "stages"]


class Chain(nn.Sequential):
    """`nn.Sequential` with the same children that fuses norms and ReLUs into the convolutions after them.

    Attributes:
        native: whether it does; else it is the plain container.
        recomputed: first children of the stages that keep their input only, and run again in the backward; each ends
            where the next begins. The last stage does not gain by it, and has none.
    """

    native: bool = False
    recomputed: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """As the plain container's."""
        if self.native or self.recomputed:
            return self.advance(Signal.of(x) if self.native else Signal(outer=x)).logical()
        return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]  # torch does not type it

    def advance(self, signal: Signal) -> Signal:
        """The signal after the last child; that one's norm or ReLU may be put off still."""
        children = list(self)
        for start, end in itertools.pairwise(self.recomputed):
            stage = Stage(children[start:end], native=self.native)
            signal = Signal.of(Recompute(stage)(signal.logical()))
        for child in children[self.recomputed[-1] if self.recomputed else 0 :]:
            signal = advance(child, signal)
        return signal


class Stage(nn.Module):
    """Some children of a chain, as a module of their own for as long as they are called."""

    def __init__(self, children: list[nn.Module], *, native: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(children)
        self.native = native

    def forward(self, x: Tensor) -> Tensor:
        """As the children one after the other."""
        signal = Signal.of(x) if self.native else Signal(outer=x)
        for layer in self.layers:
            signal = advance(layer, signal)
        return signal.logical()


def stages(chain: nn.Sequential) -> tuple[int, ...]:
    """Where the stages of a chain begin: at blocks, and behind pooling; the last one is not to be recomputed."""
    starts = {0}
    for position, child in enumerate(chain):
        if isinstance(child, BasicBlock | InvertedResidual | nn.Sequential):
            starts |= {position, position + 1}
        elif isinstance(child, nn.MaxPool2d):
            starts.add(position + 1)
    convolves = [any(isinstance(m, nn.Conv2d | SparseConv2d) for m in child.modules()) for child in chain]
    # What is behind the last convolution holds little, so it goes with the stage before.
    bounds = sorted(start for start in starts if any(convolves[start:]))
    return tuple(bounds) if len(bounds) > 1 else ()


class FusedBasicBlock(BasicBlock):
    """`BasicBlock` that adds, normalises and rectifies in one pass."""

    native: bool = False
    activations: Activations = Activations()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C', ⌈H / stride⌉, ⌈W / stride⌉)."""
        return self.advance(Signal.of(x)).logical() if self.native else super().forward(x)

    def advance(self, signal: Signal) -> Signal:
        """The signal after the block."""
        start = signal.settled()
        return advance(self.main, start).plus(
            advance(self.shortcut, start), relu=True, in_bits=self.activations != Activations()
        )


class FusedInvertedResidual(InvertedResidual):
    """`InvertedResidual` that normalises and adds in one pass."""

    native: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        return self.advance(Signal.of(x)).logical() if self.native else super().forward(x)

    def advance(self, signal: Signal) -> Signal:
        """The signal after the block."""
        start = signal.settled()
        return advance(self.main, start).plus(start, relu=False)


def advance(module: nn.Module, signal: Signal) -> Signal:
    """A signal through any module; a module that cannot be fused is called with an ordinary tensor."""
    # Whoever hooked a module wants to see it called.
    alone = _hooked(module)
    fused = None if alone else _fused(module, signal)
    if fused is None:
        signal = signal.settled()
        fused = None if alone else _rearranged(module, signal)
    return Signal.of(module(signal.logical())) if fused is None else fused


def _fused(module: nn.Module, signal: Signal) -> Signal | None:
    match module:
        case Chain() | FusedBasicBlock() | FusedInvertedResidual() if module.native:
            return module.advance(signal)
        case KernelLayer() if module.path == "native":
            wanted = 4 if isinstance(module, SparseConv2d | WholeConv2d) else 2
            return signal.through_layer(module) if signal.dim == wanted else None
        case KernelNorm() if module.native:
            wanted = 4 if isinstance(module, BatchLastNorm2d) else 2
            return signal.through_norm(module) if signal.dim == wanted else None
        case nn.ReLU() if type(module) in (nn.ReLU, StoredReLU):
            return signal.through_relu(in_bits=isinstance(module, StoredReLU) and module.activations != Activations())
        case nn.Identity() if type(module) is nn.Identity:
            return signal
    return None


def _rearranged(module: nn.Module, signal: Signal) -> Signal | None:
    x = signal.inner
    if x is None or signal.flat:
        return None
    match module:
        case BatchLastMaxPool2d() | BatchLastAveragePool() if module.native:
            return Signal(inner=module.pooled(x))
        case nn.Flatten(start_dim=1, end_dim=-1) if type(module) is nn.Flatten:
            return Signal(inner=flat_channels(x), flat=True)
        case PadShortcut() if type(module) is PadShortcut:
            step = module.stride
            return Signal(inner=F.pad(x[:, ::step, ::step], (0, 0, 0, 0, 0, 0, 0, module.new_channels)))
    return None


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
