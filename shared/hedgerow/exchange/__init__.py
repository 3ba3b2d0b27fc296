"""What coordinator and clients say to each other about a network: versions, and replies to them."""

from hedgerow.exchange.architecture import Architecture
from hedgerow.exchange.growth import (
    asked_counts,
    growth_entropy,
    growth_of,
    growth_section,
    kept_gradients_section,
    marked_counts,
    read_growth,
    read_kept_gradients,
)
from hedgerow.exchange.measures import Measures
from hedgerow.exchange.own_masks import own_mask_entropy, own_mask_section, read_own_mask
from hedgerow.exchange.plans import NodePlan, asked_levels, plan_reply, plan_request, read_plan
from hedgerow.exchange.statistics import (
    LARGEST_LOSS,
    LARGEST_STATISTIC,
    losses_section,
    read_losses,
    read_samples,
    read_statistics,
    samples_section,
    statistics_section,
)
from hedgerow.exchange.version import Exchange, Version, floats_of

__all__ = [
    "LARGEST_LOSS",
    "LARGEST_STATISTIC",
    "Architecture",
    "Exchange",
    "Measures",
    "NodePlan",
    "Version",
    "asked_counts",
    "asked_levels",
    "floats_of",
    "growth_entropy",
    "growth_of",
    "growth_section",
    "kept_gradients_section",
    "losses_section",
    "marked_counts",
    "own_mask_entropy",
    "own_mask_section",
    "plan_reply",
    "plan_request",
    "read_growth",
    "read_kept_gradients",
    "read_losses",
    "read_own_mask",
    "read_plan",
    "read_samples",
    "read_statistics",
    "samples_section",
    "statistics_section",
]
