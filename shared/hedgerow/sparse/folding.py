"""A trained network as plain layers: what standardised weights come to, written down."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hedgerow.codec import Floats
from hedgerow.models.standard import StandardModule, make_plain
from hedgerow.pruning import Mask
from hedgerow.sparse.layers import SparseLayer
from hedgerow.sparse.network import float_tensors, scatter_kept, sparsify, write_vector
from hedgerow.sparse.scattered import scatter

__all__ = ["folded"]


def folded(model: nn.Module, mask: Mask, *, kept: Floats, floats: Floats) -> nn.Module:
    """The dense network of these values, without standardised weights: such layers become `nn.Conv2d` and `nn.Linear`.

    A dense layer cannot know the mask, and so cannot standardise kept weights by itself. The names of a folded network
    are those of one that is built without norms; without such layers it is the network as it is.

    Args:
        model: the dense network; it is not changed.
        mask: the kept positions.
        kept: (mask.kept,) float32 values, in the mask's order; before they are standardised.
        floats: (f,) float32, all that is never pruned, as `float_tensors` orders it.
    """
    dense = copy.deepcopy(model)
    scatter_kept(dense, mask, kept)
    write_vector(float_tensors(dense), floats)
    standard = [name for name, module in dense.named_modules() if isinstance(module, StandardModule)]
    if not standard:
        return dense
    network = sparsify(model, mask, kernels="dense")
    write_vector(network.kept, kept)
    write_vector(network.floats, floats)
    for name in standard:
        module, sparse = dense.get_submodule(name), network.module.get_submodule(name)
        assert isinstance(module, StandardModule), name
        assert isinstance(sparse, SparseLayer), name
        _fold(module, sparse)
    return dense


@torch.no_grad()
def _fold(module: StandardModule, sparse: SparseLayer) -> None:
    """The same object as a plain layer, in place."""
    module.weight.copy_(scatter(sparse.values(), sparse.positions(), sparse.dense_shape))
    make_plain(module)
