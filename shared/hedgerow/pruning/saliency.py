"""Saliencies that look at the weights alone: a model goes in, one score a weight comes out; higher means keep.

SynFlow also needs the shape of the input and prunes step by step, so it has a module of its own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import nn

from hedgerow.codec.drawn_masks import SEEDS
from hedgerow.pruning.prunable import prunable_tensors

__all__ = ["Saliency", "draw_seed", "lamp", "magnitude", "random"]


class Saliency(Protocol):
    """Model → scores, by the names and of the shapes of its prunable tensors. The model is not changed."""

    def __call__(self, model: nn.Module, /, *, seed: int = 0) -> dict[str, torch.Tensor]:
        """Score every prunable weight; `seed` matters only where the rule draws random numbers."""
        ...


def magnitude(model: nn.Module, /, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """The absolute value of each weight, in the weight's dtype."""
    return {name: weight.detach().abs() for name, weight in prunable_tensors(model).items()}


def random(model: nn.Module, /, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Uniform numbers in [0, 1), float64, of the draw of `draw_seed(seed)`, which any device can repeat.

    So a mask of them travels as that seed, see `hedgerow.codec.drawn_masks`.
    """
    generator = np.random.Generator(np.random.PCG64(draw_seed(seed)))
    # float32 has 2^24 values only, so that millions of weights would often tie.
    return {
        name: torch.from_numpy(generator.random(tuple(weight.shape)))
        for name, weight in prunable_tensors(model).items()
    }


def draw_seed(seed: int) -> int:
    """Those bits of a seed that a draw is made from."""
    return seed % SEEDS


def lamp(model: nn.Module, /, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Layer-adaptive magnitude: w_u² over the sum of w_v² for all v of the layer with abs(w_v) ≥ abs(w_u), float64.

    Scores lie in [0, 1], so one global threshold suits all layers, and the largest weight of each layer scores 1
    (unless it ties). Source: Lee et al. 2021, arXiv 2010.07611. A layer of zeros scores 0.
    """
    return {name: _lamp(weight.detach()) for name, weight in prunable_tensors(model).items()}


def _lamp(weight: torch.Tensor) -> torch.Tensor:
    magnitudes = weight.double().abs().flatten()
    largest = magnitudes.max()
    if not 0 < largest < float("inf"):
        return magnitudes.view(weight.shape)  # all 0, or not finite, which the selection reports
    # The score does not depend on the scale; without it the squares of tiny weights would vanish.
    squares = (magnitudes / largest).square()
    ordered = squares.sort().values
    at_least = ordered.flip(0).cumsum(0).flip(0)
    # The first of equal weights: its sum holds all the others that tie with it.
    return (squares / at_least[torch.searchsorted(ordered, squares)]).view(weight.shape)
