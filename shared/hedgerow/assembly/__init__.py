"""From an experiment, which is names and numbers, to the objects that it names. Both sides build the same ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from hedgerow.config import Experiment
from hedgerow.data import Dataset, Dirichlet, Iid, Indices, Partition, Shards, load_dataset, partition
from hedgerow.errors import DataError
from hedgerow.models import build_model
from hedgerow.pruning import Mask, initial_mask
from hedgerow.representation import Representation, Signs, Weights
from hedgerow.seeds import derive_seed

__all__ = ["dataset_of", "mask_of", "model_of", "parts_of", "representation_of"]


def dataset_of(experiment: Experiment) -> Dataset:
    """Loads the samples that an experiment names.

    Raises:
        DataError: they are missing or corrupt.
    """
    data = experiment.data
    return load_dataset(data.name, path=None if data.path is None else Path(data.path))


def parts_of(experiment: Experiment, dataset: Dataset) -> list[Indices]:
    """For each client of a simulation the sorted indices of its training samples, (n,) int64.

    Raises:
        DataError: a client would have no sample.
    """
    data = experiment.data
    rules: dict[str, Partition] = {
        "iid": Iid(),
        "dirichlet": Dirichlet(alpha=data.alpha, min_samples=data.min_samples),
        "shards": Shards(per_client=data.shards),
    }
    seed = derive_seed(experiment.seed, "partition")
    return partition(dataset.train.labels, experiment.fleet.clients, rule=rules[data.partition], seed=seed)


def model_of(experiment: Experiment, dataset: Dataset) -> nn.Module:
    """The dense network at initialization; the same on every machine that has the same torch.

    Raises:
        ModelError: it cannot be built or does not fit the data.
        DataError: the data has only one class. (A device may have only that; the data of the whole may not.)
    """
    if dataset.classes < 2:
        raise DataError(f"{dataset.name}: 1 class cannot be classified; give samples of at least 2 classes")
    model = experiment.model
    return build_model(
        model.name,
        input_shape=dataset.input_shape,
        classes=dataset.classes,
        norm=model.norm,
        seed=derive_seed(experiment.seed, "model"),
    )


def mask_of(
    experiment: Experiment,
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Mask:
    """The mask before training, made without data.

    Raises:
        PruningError: no such mask exists at this density.
    """
    pruning = experiment.pruning
    return initial_mask(
        model,
        input_shape,
        saliency=pruning.saliency,
        rule=pruning.rule,
        density=pruning.density,
        iterations=pruning.iterations,
        seed=derive_seed(experiment.seed, "mask"),
        progress=progress,
    )


def representation_of(experiment: Experiment) -> Representation:
    """What the clients of an experiment train and send."""
    if experiment.representation == "signs":
        return Signs(settings=experiment.signs, aggregation=experiment.aggregation)
    return Weights()
