"""Pruning at initialization: masks, saliencies, density rules, and SynFlow.

>>> from torch import nn
>>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
>>> mask = initial_mask(model, (1, 8, 8), saliency="synflow", rule="global", density=0.1, iterations=20, seed=0)
>>> mask.kept
237
"""

from hedgerow.pruning.adjustment import Adjustment, Gradients, adjusted, adjustment_of, blocks_of
from hedgerow.pruning.densities import lowest_together, scheduled_density
from hedgerow.pruning.density import erk, igq, jittered, keep_top, keep_top_global, kept_count, uniform
from hedgerow.pruning.importance import traded_together
from hedgerow.pruning.initial import DensityRuleName, SaliencyName, initial_mask, ranked_mask
from hedgerow.pruning.marks import marked
from hedgerow.pruning.mask import Mask
from hedgerow.pruning.moves import Moves
from hedgerow.pruning.pool import Origin, candidate_mask, origins
from hedgerow.pruning.prunable import prunable_tensors
from hedgerow.pruning.saliency import Saliency, draw_seed, lamp, magnitude, random
from hedgerow.pruning.snip import snip
from hedgerow.pruning.synflow import synflow, synflow_scores

__all__ = [
    "Adjustment",
    "DensityRuleName",
    "Gradients",
    "Mask",
    "Moves",
    "Origin",
    "Saliency",
    "SaliencyName",
    "adjusted",
    "adjustment_of",
    "blocks_of",
    "candidate_mask",
    "draw_seed",
    "erk",
    "igq",
    "initial_mask",
    "jittered",
    "keep_top",
    "keep_top_global",
    "kept_count",
    "lamp",
    "lowest_together",
    "magnitude",
    "marked",
    "origins",
    "prunable_tensors",
    "random",
    "ranked_mask",
    "scheduled_density",
    "snip",
    "synflow",
    "synflow_scores",
    "traded_together",
    "uniform",
]
