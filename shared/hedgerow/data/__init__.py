"""Data sets in memory, where they come from, and how they are divided among simulated clients."""

from hedgerow.data.arrays import from_arrays
from hedgerow.data.dataset import Dataset, Images, Labels, Samples
from hedgerow.data.facts import DataFacts
from hedgerow.data.partition import Dirichlet, Iid, Indices, Partition, Shards, partition
from hedgerow.data.registry import dataset_names, load_dataset

__all__ = [
    "DataFacts",
    "Dataset",
    "Dirichlet",
    "Iid",
    "Images",
    "Indices",
    "Labels",
    "Partition",
    "Samples",
    "Shards",
    "dataset_names",
    "from_arrays",
    "load_dataset",
    "partition",
]
