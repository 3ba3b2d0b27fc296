"""Which modules have a form that works on activations batch last, and how a network takes it.

A module that is converted stays the same object with the same parameters, buffers, children and hooks; only its class
becomes a subclass. So names, shared modules and whatever else refers to it stay right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from hedgerow.activations import Activations
from hedgerow.models.mobilenet import InvertedResidual
from hedgerow.models.resnet import BasicBlock, PadShortcut
from hedgerow.sparse.fusion import Chain, FusedBasicBlock, FusedInvertedResidual, stages
from hedgerow.sparse.layers import KernelLayer, Path, SparseOther, WholeConv2d, WholeLinear
from hedgerow.sparse.norms import BatchLastNorm1d, BatchLastNorm2d, KernelNorm
from hedgerow.sparse.pooling import BatchLastAveragePool, BatchLastMaxPool2d, StoredReLU, pools_everything, window_of

__all__ = ["convert", "kernel_layers", "plain_conv", "recompute_stages", "refused", "set_paths", "store", "unconverted"]

_SUCCESSORS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: WholeConv2d,
    nn.Linear: WholeLinear,
    nn.BatchNorm1d: BatchLastNorm1d,
    nn.BatchNorm2d: BatchLastNorm2d,
    nn.MaxPool2d: BatchLastMaxPool2d,
    nn.AdaptiveAvgPool2d: BatchLastAveragePool,
    nn.ReLU: StoredReLU,
    nn.Sequential: Chain,
    BasicBlock: FusedBasicBlock,
    InvertedResidual: FusedInvertedResidual,
}

_Arranged = (
    Chain
    | FusedBasicBlock
    | FusedInvertedResidual
    | BatchLastNorm1d
    | BatchLastNorm2d
    | BatchLastMaxPool2d
    | BatchLastAveragePool
)

# They work element by element, or not at all, so that any layout passes them.
_ANY_LAYOUT = (
    nn.Identity,
    nn.Flatten,
    PadShortcut,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Tanh,
    nn.Dropout,
)


def convert(network: nn.Module) -> tuple[str, ...]:
    """Gives every module that has one its form for activations batch last, in place.

    Returns:
        The names of what was converted, layers with kept positions included; containers are left out.
    """
    names = []
    for name, module in network.named_modules():
        if type(module) in _SUCCESSORS and refused(module) is None:
            module.__class__ = _SUCCESSORS[type(module)]
        kinds = KernelLayer | KernelNorm | BatchLastMaxPool2d | BatchLastAveragePool
        if isinstance(module, kinds) and not isinstance(module, SparseOther):
            names.append(name)
    return tuple(names)


def unconverted(network: nn.Module) -> tuple[str, ...]:
    """The modules of a converted network that stay torch's own, each as "name: why"."""
    modules = dict(network.named_modules())
    inner = {id(m.layer) for m in modules.values() if isinstance(m, SparseOther)}
    return tuple(
        f"{name}: {why}" for name, m in modules.items() if id(m) not in inner and (why := refused(m)) is not None
    )


def refused(module: nn.Module) -> str | None:
    """Why a module that does arithmetic has no form for activations batch last; None where it has one or needs none."""
    kind = type(module).__name__
    if isinstance(module, SparseOther):
        return f"{type(module.layer).__name__} with its settings has no kernel"
    if isinstance(module, KernelLayer) or type(module) in _ANY_LAYOUT:
        return None
    if any(t.is_floating_point() and t.dtype != torch.float32 for t in _own(module)):
        return f"{kind} is not in float32"
    match module:
        case nn.Conv2d() if type(module) is nn.Conv2d:
            return None if plain_conv(module) else "Conv2d with its padding has no kernel"
        case nn.MaxPool2d() if type(module) is nn.MaxPool2d:
            simple = window_of(module).fits and not module.return_indices
            return None if simple else "MaxPool2d with its settings has no kernel"
        case nn.AdaptiveAvgPool2d() if type(module) is nn.AdaptiveAvgPool2d:
            return None if pools_everything(module) else "AdaptiveAvgPool2d has a kernel for output size 1 only"
    if type(module) in _SUCCESSORS or isinstance(module, tuple(_SUCCESSORS.values())):
        return None
    # A container's own arithmetic is its children's, as far as can be seen.
    if next(module.children(), None) is not None and next(_own(module), None) is None:
        return None
    return f"{kind} has no kernel"


def kernel_layers(network: nn.Module) -> dict[str, KernelLayer]:
    """The layers that can take the native path, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, KernelLayer) and not isinstance(module, SparseOther)
    }


def set_paths(network: nn.Module, paths: Mapping[str, Path]) -> None:
    """Lets the layers of `paths` compute by these from now on; activations are batch last if any is native, in place.

    >>> set_paths(nn.Linear(2, 2), {})
    """
    for name, path in paths.items():
        layer = network.get_submodule(name)
        assert isinstance(layer, KernelLayer), f"{name} has no native path"
        layer.take(path)
    native = any(layer.path == "native" for layer in kernel_layers(network).values())
    for module in network.modules():
        if isinstance(module, _Arranged):
            module.native = native


def store(network: nn.Module, activations: Activations) -> None:
    """Lets every converted module store so what it keeps for the backward, in place."""
    for module in network.modules():
        if isinstance(module, KernelLayer):
            module.activations = activations.of(standard=module.standard)
        elif isinstance(module, KernelNorm | StoredReLU | FusedBasicBlock):
            module.activations = activations


def recompute_stages(network: nn.Module) -> None:
    """Lets the outermost chains of a converted network recompute their stages, in place."""
    if isinstance(network, Chain):
        network.recomputed = stages(network)
        return
    for child in network.children():
        recompute_stages(child)


def plain_conv(layer: nn.Module) -> bool:
    """Whether a convolution pads with zeros, by numbers."""
    return isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _own(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)
