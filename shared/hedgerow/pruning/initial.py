"""From the settings of an experiment to the mask of its first round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from hedgerow.errors import PruningError
from hedgerow.pruning.density import LAYER_RULES, keep_top, keep_top_global, kept_count
from hedgerow.pruning.mask import Mask
from hedgerow.pruning.prunable import prunable_tensors
from hedgerow.pruning.saliency import Saliency, lamp, magnitude, random
from hedgerow.pruning.synflow import synflow

__all__ = ["DensityRuleName", "SaliencyName", "initial_mask", "ranked_mask"]

SaliencyName = Literal["synflow", "magnitude", "random", "lamp"]
DensityRuleName = Literal["global", "uniform", "erk", "igq"]

SALIENCIES: dict[str, Saliency] = {"magnitude": magnitude, "random": random, "lamp": lamp}
"""Those that look at the weights alone."""


def initial_mask(
    model: nn.Module,
    input_shape: tuple[int, ...],
    *,
    saliency: SaliencyName,
    rule: DensityRuleName,
    density: float,
    iterations: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Mask:
    """The mask of exactly ``round(density * N)`` weights before training, from the model alone.

    Only SynFlow uses `iterations`, `input_shape` and `progress`, only random uses `seed`. SynFlow goes with the
    global rule alone: the flow of the whole network decides how much each layer keeps, and its guarantee that no layer
    is cut off would not hold under counts that are fixed from outside. Density 1 keeps everything, whatever the rule.

    Raises:
        PruningError: the density is out of range or too low, nothing can be pruned, or SynFlow is asked for with
            another rule than global.
    """
    shapes = {name: tuple(weight.shape) for name, weight in prunable_tensors(model).items()}
    dense = Mask.dense(shapes)
    kept_count(density, size=dense.size, layers=len(shapes))
    if saliency == "synflow" and rule != "global":
        raise PruningError(
            f"SynFlow decides the density of each layer itself, so rule {rule!r} does not fit: use rule 'global', or "
            "saliency 'magnitude', 'random' or 'lamp'"
        )
    if density == 1:
        return dense
    if saliency == "synflow":
        return synflow(model, input_shape, density=density, iterations=iterations, progress=progress)
    return ranked_mask(SALIENCIES[saliency](model, seed=seed), rule=rule, density=density)


def ranked_mask(scores: dict[str, Tensor], *, rule: DensityRuleName, density: float) -> Mask:
    """The mask of the ``round(density * N)`` weights of the highest scores; of so many in each layer as the rule says.

    Args:
        scores: of all prunable weights, by the names and of the shapes of their tensors.
        rule: `global` compares the scores of all layers; the others those of one.
        density: kept fraction of all prunable weights.

    Raises:
        PruningError: the density is out of range or too low, or a score is not finite.
    """
    shapes = {name: tuple(own.shape) for name, own in scores.items()}
    if rule == "global":
        return keep_top_global(scores, kept_count(density, size=Mask.dense(shapes).size, layers=len(shapes)))
    return keep_top(scores, LAYER_RULES[rule](shapes, density=density))
