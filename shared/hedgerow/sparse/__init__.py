"""Networks that store their kept weights only."""

from hedgerow.sparse.layers import SignEstimator, SparseConv2d, SparseLayer, SparseLinear, SparseOther
from hedgerow.sparse.network import (
    KeptNetwork,
    float_tensors,
    gather_kept,
    read_vector,
    scatter_kept,
    sparsify,
    variance_positions,
    write_vector,
)

__all__ = [
    "KeptNetwork",
    "SignEstimator",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SparseOther",
    "float_tensors",
    "gather_kept",
    "read_vector",
    "scatter_kept",
    "sparsify",
    "variance_positions",
    "write_vector",
]
