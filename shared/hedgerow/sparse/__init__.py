"""Networks that store their kept weights only, and compute with nothing else where that is faster."""

from hedgerow.sparse.folding import folded
from hedgerow.sparse.growth import largest_gradients
from hedgerow.sparse.kept_gradients import kept_gradients
from hedgerow.sparse.layers import SignEstimator, SparseConv2d, SparseLayer, SparseLinear, SparseOther
from hedgerow.sparse.network import (
    NATIVE_BELOW,
    KeptNetwork,
    Kernels,
    float_names,
    float_tensors,
    gather_kept,
    read_vector,
    scatter_kept,
    sparsify,
    variance_positions,
    write_vector,
)
from hedgerow.sparse.path_cache import cache_folder
from hedgerow.sparse.paths import LayerChoice, PathChoice, choose_paths
from hedgerow.sparse.top_k import TopK

__all__ = [
    "NATIVE_BELOW",
    "KeptNetwork",
    "Kernels",
    "LayerChoice",
    "PathChoice",
    "SignEstimator",
    "SparseConv2d",
    "SparseLayer",
    "SparseLinear",
    "SparseOther",
    "TopK",
    "cache_folder",
    "choose_paths",
    "float_names",
    "float_tensors",
    "folded",
    "gather_kept",
    "kept_gradients",
    "largest_gradients",
    "read_vector",
    "scatter_kept",
    "sparsify",
    "variance_positions",
    "write_vector",
]
