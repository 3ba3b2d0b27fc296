"""A network as the two vectors that travel: its kept weights, and everything that is never pruned."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.activations import Activations
from hedgerow.codec import Bits, Floats
from hedgerow.errors import ModelError
from hedgerow.models.standard import StandardConv2d, StandardLinear, StandardModule
from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.sparse.conversion import (
    convert,
    kernel_layers,
    plain_conv,
    recompute_stages,
    set_paths,
    store,
    unconverted,
)
from hedgerow.sparse.layers import SignEstimator, SparseConv2d, SparseLayer, SparseLinear, SparseOther

__all__ = [
    "NATIVE_BELOW",
    "KeptNetwork",
    "Kernels",
    "float_names",
    "float_tensors",
    "gather_kept",
    "read_vector",
    "scatter_kept",
    "sparsify",
    "variance_positions",
    "write_vector",
]

Kernels: TypeAlias = Literal["auto", "native", "dense"]
"""What computes a network's layers: the faster of both, the native kernels, or torch's own."""

NATIVE_BELOW = 0.25
"""Up to this density of all prunable weights, `auto` takes the native kernels where nothing was measured."""


def float_tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and floating-point buffers that are never pruned, in `named_*` order: biases, norms, statistics."""
    pruned = {id(tensor) for tensor in prunable_tensors(model).values()}
    return [tensor for _, tensor in _floats_outside(model, pruned)]


def float_names(model: nn.Module) -> list[str]:
    """Their names."""
    pruned = {id(tensor) for tensor in prunable_tensors(model).values()}
    return [name for name, _ in _floats_outside(model, pruned)]


def _floats_outside(model: nn.Module, pruned: set[int]) -> list[tuple[str, Tensor]]:
    parameters = [(name, p) for name, p in model.named_parameters() if id(p) not in pruned]
    persistent = model.state_dict(keep_vars=True)
    buffers = [(name, b) for name, b in model.named_buffers() if b.is_floating_point() and name in persistent]
    return [*parameters, *buffers]


def variance_positions(model: nn.Module) -> Bits:
    """Where in the vector of `float_tensors` the running variances of norms are: (f,) bool."""
    variances = {id(buffer) for name, buffer in model.named_buffers() if name.rpartition(".")[2] == "running_var"}
    parts = [np.full(tensor.numel(), id(tensor) in variances) for tensor in float_tensors(model)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.bool_)


def read_vector(tensors: list[Tensor]) -> Floats:
    """All values of `tensors`, one after the other: (sum of sizes,) float32."""
    if not tensors:
        return np.zeros(0, dtype=np.float32)
    return np.concatenate([t.detach().flatten().to(torch.float32).numpy() for t in tensors])


@torch.no_grad()
def write_vector(tensors: list[Tensor], vector: Floats) -> None:
    """Inverse of `read_vector`, in place."""
    assert sum(t.numel() for t in tensors) == vector.size, "the vector belongs to another network"
    start = 0
    for tensor in tensors:
        part = vector[start : start + tensor.numel()]
        tensor.copy_(torch.from_numpy(part.copy()).view_as(tensor))
        start += tensor.numel()


def gather_kept(weights: dict[str, Tensor], mask: Mask) -> Floats:
    """The kept weights of dense tensors, in the mask's order: (mask.kept,) float32."""
    return read_vector([weights[name].detach().flatten().index_select(0, mask.kept_index(name)) for name in mask])


@torch.no_grad()
def scatter_kept(model: nn.Module, mask: Mask, values: Floats) -> None:
    """Writes kept weights into a dense model, in place; every pruned weight becomes 0."""
    weights, start = prunable_tensors(model), 0
    for name in mask:
        index, flat = mask.kept_index(name), weights[name].view(-1)
        flat.zero_()
        flat[index.long()] = torch.from_numpy(values[start : start + index.numel()].copy())
        start += index.numel()
    assert start == values.size, "the values belong to another mask"


@dataclass(frozen=True, slots=True)
class KeptNetwork:
    """A trainable network and its two vectors.

    Attributes:
        module: the network; sparse layers where the mask prunes.
        kept: one trainable tensor a prunable layer, in the mask's order: (k,) in sparse layers, the whole weight in
            layers that stay dense.
        floats: all that is never pruned, parameters first.
        converted: names of the modules that the native kernels can compute.
        unconverted: names of those that stay torch's own, each with the reason.
    """

    module: nn.Module
    kept: list[Tensor]
    floats: list[Tensor]
    converted: tuple[str, ...] = ()
    unconverted: tuple[str, ...] = ()

    def native_share(self) -> float:
        """Fraction of the kept weights whose layers compute by the native kernels now."""
        layers = kernel_layers(self.module).values()
        native = sum(layer.trained.numel() for layer in layers if layer.path == "native")
        return native / max(1, sum(tensor.numel() for tensor in self.kept))


def sparsify(
    model: nn.Module,
    mask: Mask,
    *,
    magnitudes: Mapping[str, Tensor] | None = None,
    estimator: SignEstimator = "identity",
    kernels: Kernels = "auto",
    storage: Activations | None = None,
    recompute: bool = False,
) -> KeptNetwork:
    """A copy of `model` whose prunable layers hold kept positions only, with all `kept` values 0.

    The dense weights are not copied. Without `magnitudes`, layers that the mask keeps whole stay dense, but for those
    with standardised weights.

    Args:
        model: the dense network; it is not changed. It may be hollow, on torch's meta device; then everything is 0.
        mask: what to keep of it.
        magnitudes: makes every prunable layer one of signs (see `SparseLayer.signed`): () or (k,) for each name.
        estimator: straight-through estimator of the signs.
        kernels: `native`: every layer that can takes the native kernels; `dense`: none does; `auto`: all do where the
            mask keeps a quarter of the weights or less, until `choose_paths` has measured.
        storage: how layers store what they keep for the backward; exactly when None.
        recompute: residual blocks, and the stages of chains without any, keep their input only and run again in the
            backward.

    Raises:
        ModelError: several layers share one prunable weight, a layer with standardised weights is a subclass, or there
            are no native kernels and `kernels` is `native`.
    """
    if kernels == "native" and not status().available:
        raise ModelError(f"there are no native kernels: {status().reason}; `hedgerow doctor` says more")
    weights = prunable_tensors(model)
    result = copy.deepcopy(model, memo={id(w): w for w in weights.values()})
    kept: dict[str, Tensor] = {}
    for name in mask:
        index = mask.kept_index(name)
        path, _, _ = name.rpartition(".")
        layer = result.get_submodule(path)
        whole = index.numel() == weights[name].numel()
        if whole and magnitudes is None and not isinstance(layer, StandardModule):
            layer.weight = nn.Parameter(_filled(weights[name].detach().clone()))
            kept[name] = layer.weight
            continue
        sparse = _sparse_layer(layer, index)
        if magnitudes is not None:
            sparse.signed(magnitudes[name], estimator=estimator)
        result = _replaced(result, path, sparse)
        kept[name] = sparse.kept
    _refuse_shared(result, weights)
    _fill(result)
    tensors = list(kept.values())
    floats = [tensor for _, tensor in _floats_outside(result, {id(t) for t in tensors})]
    network = KeptNetwork(module=result, kept=tensors, floats=floats)
    return _with_kernels(network, mask, kernels=kernels, storage=storage, recompute=recompute)


@torch.no_grad()
def _fill(module: nn.Module) -> None:
    # What a hollow model has besides weights. Whoever trains it is sent the values.
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.is_meta:
                setattr(part, name, nn.Parameter(_filled(parameter), requires_grad=parameter.requires_grad))
        for name, buffer in part.named_buffers(recurse=False):
            # A wrapped layer's own weight stays without memory (see `SparseOther`).
            if buffer.is_meta and name in part.state_dict():
                setattr(part, name, _filled(buffer))


def _filled(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, device="cpu") if tensor.is_meta else tensor


def _refuse_shared(result: nn.Module, weights: Mapping[str, Tensor]) -> None:
    # Each weight was replaced where it was found first; whoever still has one would train the caller's tensor.
    dense = {id(weight): name for name, weight in weights.items()}
    for name, parameter in result.named_parameters(remove_duplicate=False):
        if id(parameter) in dense:
            raise ModelError(
                f"{name} and {dense[id(parameter)]} are one weight, which cannot be pruned; give each layer its own"
            )


def _sparse_layer(layer: nn.Module, index: Tensor) -> SparseLayer:
    if isinstance(layer, StandardModule):
        return _standard_layer(layer, index)
    # A subclass may compute something else with its weight, so only the exact types have a form of their own.
    if type(layer) is nn.Conv2d and plain_conv(layer):
        return SparseConv2d(dense=layer, index=index)
    if type(layer) is nn.Linear:
        return SparseLinear(dense=layer, index=index)
    return SparseOther(dense=layer, index=index)


def _standard_layer(layer: StandardModule, index: Tensor) -> SparseLayer:
    sparse: SparseLayer
    if type(layer) is StandardConv2d and plain_conv(layer):
        sparse = SparseConv2d(dense=layer, index=index)
    elif type(layer) is StandardLinear:
        sparse = SparseLinear(dense=layer, index=index)
    else:
        # Called with a scattered weight it would take the zeros for kept ones.
        raise ModelError(
            f"{type(layer).__name__} standardises its weights and cannot be pruned as it is: use StandardConv2d with "
            "zeros as padding, given by numbers, or StandardLinear"
        )
    sparse.standardise(layer)
    return sparse


def _replaced(model: nn.Module, path: str, layer: nn.Module) -> nn.Module:
    if not path:
        return layer
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
    return model


def _with_kernels(
    network: KeptNetwork, mask: Mask, *, kernels: Kernels, storage: Activations | None, recompute: bool
) -> KeptNetwork:
    module = network.module
    activations = Activations() if storage is None else storage
    sparse = any(isinstance(layer, SparseLayer) for layer in module.modules())
    native = kernels != "dense" and status().available and sparse
    if not native and activations == Activations() and not recompute:
        return network
    converted = convert(module)
    store(module, activations)
    if recompute:
        recompute_stages(module)
    if not native:
        return network
    if kernels == "native" or mask.density <= NATIVE_BELOW:
        set_paths(module, dict.fromkeys(kernel_layers(module), "native"))
    return replace(network, converted=converted, unconverted=unconverted(module))
