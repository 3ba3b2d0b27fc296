"""A copy of a model in which the output counts paths: what SynFlow scores weights on.

With every weight at its absolute value, no bias, normalisation and activations as identities and an all-ones input, the
sum of the outputs R is the sum over all paths from input to output of the product of the weights on the path.
|w · ∂R/∂w| is then the part of R that passes through w, and in a chain the scores of each layer sum to R.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from hedgerow.errors import PruningError
from hedgerow.models.standard import StandardModule, make_plain
from hedgerow.pruning.prunable import prunable_tensors

__all__ = ["PathNetwork"]

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)

# All flow is ≥ 0, where a ReLU is the identity anyway; the others would saturate (ReLU6, Tanh) or bend the flow.
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU),
    *(nn.SiLU, nn.Mish, nn.Hardswish, nn.Softplus, nn.Hardtanh, nn.Tanh),
)


class PathNetwork:
    """The path-counting copy of one model; the model itself is only read.

    All prunable weights are views into the one flat array `weights`, and `evaluate` writes their scores at the same
    positions of `scores` (both of shape (N,)), so that a global threshold is one pass over one array.

    If the outermost module is an `nn.Sequential`, each of its children's outputs is divided by its mean. Every path
    passes there, so this multiplies all scores by the same number; it keeps them inside the range of float32.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...], *, dtype: torch.dtype) -> None:
        self._source = prunable_tensors(model)
        self._network = _linear(model, dtype=dtype)
        self._chain = chain(self._network)
        self._input = torch.ones(1, *input_shape, dtype=dtype)
        self.names = list(self._source)
        self.shapes = {name: tuple(weight.shape) for name, weight in self._source.items()}
        sizes = [weight.numel() for weight in self._source.values()]
        self._stops = np.cumsum(sizes).tolist()
        self._slices = [slice(stop - size, stop) for size, stop in zip(sizes, self._stops, strict=True)]
        weights = torch.empty(sum(sizes), dtype=dtype)
        scores = torch.zeros(sum(sizes), dtype=dtype)
        self.weights: npt.NDArray[np.floating[Any]] = weights.numpy()
        self.scores: npt.NDArray[np.floating[Any]] = scores.numpy()
        self._scored: set[int] = set()
        for place, parameter in enumerate(prunable_tensors(self._network).values()):
            view = weights[self._slices[place]].view(parameter.shape)
            parameter.data = view.copy_(parameter.data)
            parameter.requires_grad_(True)
            hook = _score_into(scores[self._slices[place]].view(parameter.shape), place, self._scored)
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]  # torch's lack

    def evaluate(self) -> npt.NDArray[np.int64]:
        """Fill `scores` for the current weights.

        Returns:
            The position in `scores` of the best weight of each layer (the first of equal ones), shape (layers,).

        Raises:
            PruningError: the model cannot run on this input, or the flow is not finite.
        """
        self._scored.clear()
        with torch.enable_grad():
            total = self._forward().sum()
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]  # torch's lack
        for place, where in enumerate(self._slices):
            if place not in self._scored:
                self.scores[where] = 0
        best = np.array([where.start + int(self.scores[where].argmax()) for where in self._slices])
        # argmax returns the position of a NaN if there is one.
        if not (np.isfinite(total.item()) and np.isfinite(self.scores[best]).all()):
            raise PruningError(
                f"the synaptic flow overflows {self.scores.dtype} (the sum of outputs is {total.item():g}): "
                "check that all weights are finite, and build the model as one nn.Sequential of blocks"
            )
        return best

    def restore(self, alive: npt.NDArray[np.bool_]) -> None:
        """Set the weights to those of the model where `alive`, shape (N,), and to 0 elsewhere."""
        weights = torch.from_numpy(self.weights)
        for where, parameter in zip(self._slices, self._source.values(), strict=True):
            weights[where].copy_(parameter.detach().flatten()).abs_()
        self.keep(alive)

    def keep(self, alive: npt.NDArray[np.bool_]) -> None:
        """Set the weights to 0 where `alive` is False."""
        np.multiply(self.weights, alive, out=self.weights, casting="unsafe")

    def layers(self, flat: npt.NDArray[Any]) -> dict[str, torch.Tensor]:
        """The parts of a flat array, shape (N,), by name and in the shapes of the prunable tensors (views)."""
        return {
            name: torch.from_numpy(flat[where]).view(self.shapes[name])
            for name, where in zip(self.names, self._slices, strict=True)
        }

    def layer_of(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The number of the layer that each flat position lies in."""
        return np.searchsorted(self._stops, positions, side="right")

    def _forward(self) -> torch.Tensor:
        flow = self._input
        try:
            for module in self._chain:
                flow = module(flow)
                mean = float(flow.detach().mean()) if len(self._chain) > 1 and _has_weights(module) else 1.0
                if mean > 0:
                    flow = flow / mean
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise PruningError(
                f"the model cannot run on one input of shape {tuple(self._input.shape[1:])} ({reason}): "
                "pass the shape of one sample"
            ) from error
        return flow


def chain(model: nn.Module) -> list[nn.Module]:
    """The modules that all data passes one after the other: nested `nn.Sequential`s taken apart."""
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        return [module for child in model for module in chain(child)]
    return [model]


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _linear(model: nn.Module, *, dtype: torch.dtype) -> nn.Module:
    """A copy with non-negative weights, no biases, and identities for normalisation and activations."""
    network = copy.deepcopy(model).to("cpu", dtype).eval()
    for module in list(network.modules()):
        if isinstance(module, StandardModule):
            # Standardised weights are of both signs, and would take what an output's paths count apart.
            make_plain(module)
        for name, child in list(module._modules.items()):
            if isinstance(child, (*_NORMS, *_ACTIVATIONS)):
                module._modules[name] = nn.Identity()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(False).abs_()
            if name.rpartition(".")[2] == "bias":
                parameter.zero_()
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.abs_()
    return network


def _score_into(scores: torch.Tensor, place: int, scored: set[int]) -> Callable[[torch.Tensor], None]:
    def hook(weight: torch.Tensor) -> None:
        # Runs as soon as this weight's gradient is there and frees it, so that only one exists at a time.
        assert weight.grad is not None
        torch.mul(weight.grad, weight.detach(), out=scores).abs_()
        weight.grad = None
        scored.add(place)

    return hook
