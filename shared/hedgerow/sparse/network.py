"""A network as the two vectors that travel: its kept weights, and everything that is never pruned."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hedgerow.codec import Bits, Floats
from hedgerow.errors import ModelError
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.sparse.layers import SignEstimator, SparseConv2d, SparseLayer, SparseLinear, SparseOther

__all__ = [
    "KeptNetwork",
    "float_tensors",
    "gather_kept",
    "read_vector",
    "scatter_kept",
    "sparsify",
    "variance_positions",
    "write_vector",
]


def float_tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and floating-point buffers that are never pruned, in `named_*` order: biases, norms, statistics."""
    pruned = {id(tensor) for tensor in prunable_tensors(model).values()}
    return _floats_outside(model, pruned)


def _floats_outside(model: nn.Module, pruned: set[int]) -> list[Tensor]:
    parameters = [p for p in model.parameters() if id(p) not in pruned]
    persistent = model.state_dict(keep_vars=True)
    buffers = [b for name, b in model.named_buffers() if b.is_floating_point() and name in persistent]
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
    index = mask.kept_indices()
    return read_vector([weights[name].detach().flatten()[index[name].long()] for name in index])


@torch.no_grad()
def scatter_kept(model: nn.Module, mask: Mask, values: Floats) -> None:
    """Writes kept weights into a dense model, in place; every pruned weight becomes 0."""
    weights, start = prunable_tensors(model), 0
    for name, index in mask.kept_indices().items():
        flat = weights[name].view(-1)
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
    """

    module: nn.Module
    kept: list[Tensor]
    floats: list[Tensor]


def sparsify(
    model: nn.Module,
    mask: Mask,
    *,
    magnitudes: Mapping[str, Tensor] | None = None,
    estimator: SignEstimator = "identity",
) -> KeptNetwork:
    """A copy of `model` whose prunable layers hold kept positions only, with all `kept` values 0.

    The dense weights are not copied. Without `magnitudes`, layers that the mask keeps whole stay dense.

    Args:
        model: the dense network; it is not changed.
        mask: what to keep of it.
        magnitudes: makes every prunable layer one of signs (see `SparseLayer.signed`): () or (k,) for each name.
        estimator: straight-through estimator of the signs.

    Raises:
        ModelError: several layers share one prunable weight.
    """
    weights = prunable_tensors(model)
    result = copy.deepcopy(model, memo={id(w): w for w in weights.values()})
    kept: dict[str, Tensor] = {}
    for name, index in mask.kept_indices().items():
        path, _, _ = name.rpartition(".")
        layer = result.get_submodule(path)
        if magnitudes is None and index.numel() == weights[name].numel():
            layer.weight = nn.Parameter(weights[name].detach().clone())
            kept[name] = layer.weight
            continue
        sparse = _sparse_layer(layer, index)
        if magnitudes is not None:
            sparse.signed(magnitudes[name], estimator=estimator)
        result = _replaced(result, path, sparse)
        kept[name] = sparse.kept
    _refuse_shared(result, weights)
    tensors = list(kept.values())
    return KeptNetwork(module=result, kept=tensors, floats=_floats_outside(result, {id(t) for t in tensors}))


def _refuse_shared(result: nn.Module, weights: Mapping[str, Tensor]) -> None:
    # Each weight was replaced where it was found first; whoever still has one would train the caller's tensor.
    dense = {id(weight): name for name, weight in weights.items()}
    for name, parameter in result.named_parameters(remove_duplicate=False):
        if id(parameter) in dense:
            raise ModelError(
                f"{name} and {dense[id(parameter)]} are one weight, which cannot be pruned; give each layer its own"
            )


def _sparse_layer(layer: nn.Module, index: Tensor) -> SparseLayer:
    # A subclass may compute something else with its weight, so only the exact types have a form of their own.
    if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return SparseConv2d(dense=layer, index=index)
    if type(layer) is nn.Linear:
        return SparseLinear(dense=layer, index=index)
    return SparseOther(dense=layer, index=index)


def _replaced(model: nn.Module, path: str, layer: nn.Module) -> nn.Module:
    if not path:
        return layer
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
    return model
