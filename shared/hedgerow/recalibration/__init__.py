"""Batch-norm statistics of a network that many devices share: collected by each, pooled exactly, written back.

Their source is FedTiny (Huang et al. 2022, arXiv 2212.01977), which chooses among networks by them. Its published code
averages the devices' variances, and so loses how far their means lie apart; here the pooled statistics are those of all
their samples together.
"""

from hedgerow.recalibration.collecting import batch_statistics, collect
from hedgerow.recalibration.moments import Moments, merged, pooled
from hedgerow.recalibration.norms import NormChannels, norm_channels, statistics_into, statistics_positions

__all__ = [
    "Moments",
    "NormChannels",
    "batch_statistics",
    "collect",
    "merged",
    "norm_channels",
    "pooled",
    "statistics_into",
    "statistics_positions",
]
