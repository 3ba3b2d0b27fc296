"""What looking for the largest gradients takes: the same number of them in a small and in a large layer."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from hedgerow.client.growth import growth_bytes
from hedgerow.pruning import initial_mask, prunable_tensors
from hedgerow.sparse import SparseLinear, TopK, gather_kept, sparsify, write_vector
from hedgerow.sparse.gradient_pieces import gradient_pieces
from hedgerow.telemetry.memory import allocation_peak

__all__ = ["growth"]

_LARGEST = 1000
_INPUTS, _CLASSES, _BATCH = 256, 10, 32
_SIZES = {"small": 1024, "large": 16384}
_PIECE = 1 << 16

Figures = dict[str, float]


def growth(*, quick: bool) -> Figures:
    """Peaks in bytes: of a pass with and without the search, of the search alone, and of a dense gradient."""
    figures: Figures = {"memory.growth.largest": _LARGEST}
    for name, outputs in _SIZES.items():
        found = _of_layer(outputs // 4 if quick else outputs)
        figures |= {f"memory.growth.{name}.{key}": value for key, value in found.items()}
    return figures


def _of_layer(outputs: int) -> Figures:
    model = _model(outputs)
    mask = initial_mask(model, (1, 1, _INPUTS), saliency="random", rule="uniform", density=0.05, iterations=1, seed=0)
    network = sparsify(model, mask, kernels="dense")
    write_vector(network.kept, gather_kept({**prunable_tensors(model)}, mask))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_BATCH, 1, 1, _INPUTS, generator=generator)
    labels = torch.randint(_CLASSES, (_BATCH,), generator=generator)
    found = growth_bytes(network, images, labels, counts={"wide.weight": _LARGEST})
    layer = network.module.get_submodule("wide")
    assert isinstance(layer, SparseLinear)
    grad = torch.randn(_BATCH, outputs, generator=generator)
    _, search = allocation_peak(lambda: _search(layer, images.flatten(1), grad))
    return {
        "weights": outputs * _INPUTS,
        "dense_bytes": 4 * outputs * _INPUTS,
        "plain_bytes": found.plain,
        "whole_bytes": found.whole,
        "search_bytes": search,
    }


def _search(layer: SparseLinear, x: Tensor, grad: Tensor) -> None:
    """What the product does between the backward pass of one layer and that of the next, but for kept positions."""
    top = TopK(_LARGEST)
    for begin, piece in gradient_pieces(layer, [(x, grad)], most=_PIECE):
        places = piece.nonzero().view(-1)
        top.add(places + begin, piece[places])


def _model(outputs: int) -> nn.Module:
    layers: list[tuple[str, nn.Module]] = [
        ("flatten", nn.Flatten()),
        ("wide", nn.Linear(_INPUTS, outputs)),
        ("relu", nn.ReLU()),
        ("output", nn.Linear(outputs, _CLASSES)),
    ]
    return nn.Sequential(OrderedDict(layers))
