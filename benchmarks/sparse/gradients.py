"""Gradients against float64, where rounding turns no ReLU over and moves no maximum of a pool."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sparse.networks import Case, batch_of, dense_copy, kept_network, mask_of, model_of
from hedgerow.errors import RunError
from hedgerow.pruning import Mask, prunable_tensors

__all__ = ["Errors", "gradient_errors"]

SHAPE = (3, 8, 8)
BATCH = 16
_MARGIN = 3.0
"""How far from turning over an activation has to be, in times the largest rounding error of its channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Relative errors of the gradient of all kept weights, |g - g64| / |g64|.

    Attributes:
        ours: of the sparse network, in float32.
        dense: of the masked dense one, in float32.
        tried: batches that were looked at until one had the margin.
    """

    ours: float
    dense: float
    tried: int


def gradient_errors(case: Case, *, signs: bool = False) -> Errors:
    """Compares the gradients of one batch of 16 images, 3x8x8: few enough that a batch without a flip is soon found.

    Raises:
        RunError: there was none.
    """
    model = model_of(case, shape=SHAPE)
    mask = mask_of(case, model)
    if signs:
        for weight in prunable_tensors(model).values():
            weight.data = torch.where(weight >= 0, weight.abs().mean(), -weight.abs().mean())
    single = dense_copy(copy.deepcopy(model), mask)
    double = copy.deepcopy(single).double()
    for tried in range(1, 201):
        images, labels = batch_of(BATCH, shape=SHAPE, seed=tried)
        if _has_margin(single, double, images):
            break
    else:
        raise RunError(f"no batch of {case.name} is far enough from a flip; take smaller ones")
    network = kept_network(model, mask, signs=signs)
    network.module.train()
    _backward(network.module, images, labels)
    # A score's gradient is its weight's, times the layer's constant.
    factors = [weight.detach().abs().max().item() if signs else 1.0 for weight in prunable_tensors(model).values()]
    ours = [_flat(t).double() / f for t, f in zip(network.kept, factors, strict=True)]
    _backward(single, images, labels)
    _backward(double, images.double(), labels)
    dense, exact = _kept_gradients(single, mask), _kept_gradients(double, mask)
    return Errors(ours=_distance(ours, exact), dense=_distance(dense, exact), tried=tried)


def _flat(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad.flatten()


def _kept_gradients(module: nn.Module, mask: Mask) -> list[Tensor]:
    found = []
    for name, kept in mask.items():
        path, _, attribute = name.rpartition(".")
        weight = module.get_parameter(f"{path}.parametrizations.{attribute}.original")
        found.append(_flat(weight)[kept.flatten()].double())
    return found


def _backward(module: nn.Module, images: Tensor, labels: Tensor) -> None:
    module.zero_grad(set_to_none=True)
    F.cross_entropy(module(images), labels).backward()  # type: ignore[no-untyped-call]  # torch does not type it


def _distance(found: list[Tensor], exact: list[Tensor]) -> float:
    difference = torch.cat(found) - torch.cat(exact)
    return float(difference.norm() / torch.cat(exact).norm())


@torch.no_grad()
def _has_margin(single: nn.Module, double: nn.Module, images: Tensor) -> bool:
    rounded, exact = _decisions(single, images), _decisions(double, images.double())
    for (near, _), (true, distances) in zip(rounded, exact, strict=True):
        error = _by_channel(near - true).abs().amax(dim=1)
        # Rows without a kept weight are exactly 0 everywhere.
        if bool((_by_channel(distances.where(distances > 0, math.inf)).amin(dim=1) < _MARGIN * error).any()):
            return False
    return True


def _by_channel(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def _decisions(module: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each input of a ReLU or pool, and how far its elements are from being treated in another way."""
    found: list[tuple[Tensor, Tensor]] = []

    def look(distance: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: found.append((inputs[0].clone(), distance(inputs[0])))

    hooks = [
        part.register_forward_pre_hook(look(torch.abs if isinstance(part, nn.ReLU) else _pool_distances))
        for part in module.modules()
        if isinstance(part, nn.ReLU | nn.MaxPool2d)
    ]
    module(images)
    for hook in hooks:
        hook.remove()
    return found


def _pool_distances(x: Tensor) -> Tensor:
    # Of windows that are all 0 after a ReLU, whichever wins has no gradient.
    windows = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    first, second = windows.topk(2).values.unbind(-1)
    return (first - second).where(first > 0, math.inf)
