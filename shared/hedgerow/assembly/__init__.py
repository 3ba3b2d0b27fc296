"""From an experiment, which is names and numbers, to the objects that it names. Both sides build the same ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hedgerow.activations import Activations, activations
from hedgerow.assembly.candidates import drawn_seeds, mask_seed, origins_of, redraws_weights
from hedgerow.config import Experiment
from hedgerow.data import Dataset, Dirichlet, Iid, Indices, Partition, Shards, load_dataset, partition
from hedgerow.errors import DataError, PruningError
from hedgerow.exchange import Architecture, Exchange
from hedgerow.models import build_model
from hedgerow.pruning import Mask, initial_mask, kept_count, prunable_tensors, ranked_mask, snip
from hedgerow.representation import Representation, Signs, Supermasks, Weights
from hedgerow.seeds import derive_seed, numpy_generator
from hedgerow.sparse import KeptNetwork, PathChoice, choose_paths

__all__ = [
    "ClientNetwork",
    "dataset_of",
    "drawn_seeds",
    "exchange_of",
    "mask_of",
    "mask_seed",
    "model_of",
    "network_of",
    "origins_of",
    "parts_of",
    "public_indices",
    "redraws_weights",
    "representation_of",
]


def dataset_of(experiment: Experiment) -> Dataset:
    """Loads the samples that an experiment names.

    Raises:
        DataError: they are missing or corrupt.
    """
    data = experiment.data
    return load_dataset(data.name, path=None if data.path is None else Path(data.path))


def parts_of(experiment: Experiment, dataset: Dataset) -> list[Indices]:
    """For each client of a simulation the sorted indices of its training samples, (n,) int64.

    The public samples are taken out of parts that are otherwise as they would be without.

    Raises:
        DataError: a client would have no sample, or there are not so many public ones.
    """
    data, public = experiment.data, public_indices(experiment, dataset)
    rules: dict[str, Partition] = {
        "iid": Iid(),
        "dirichlet": Dirichlet(alpha=data.alpha, min_samples=data.min_samples),
        "shards": Shards(per_client=data.shards),
    }
    seed = derive_seed(experiment.seed, "partition")
    parts = partition(dataset.train.labels, experiment.fleet.clients, rule=rules[data.partition], seed=seed)
    parts = [np.setdiff1d(part, public, assume_unique=True) for part in parts]
    for client, part in enumerate(parts):
        if not len(part):
            raise DataError(
                f"client {client} would have no sample left beside the {len(public)} public ones; lower "
                "selection.public_samples, or use fewer clients"
            )
    return parts


def public_indices(experiment: Experiment, dataset: Dataset) -> Indices:
    """The sorted indices of the training samples that the coordinator has for itself, (n,) int64; often none.

    Raises:
        DataError: there are not so many training samples.
    """
    public, samples = experiment.selection.public_samples, len(dataset.train)
    if public > samples:
        raise DataError(
            f"selection.public_samples is {public}, but {dataset.name} has only {samples} training samples; lower it"
        )
    chosen = numpy_generator(experiment.seed, "public").choice(samples, size=public, replace=False)
    return np.sort(chosen).astype(np.int64)


def model_of(experiment: Experiment, dataset: Dataset, *, hollow: bool = False, draw: int = 0) -> nn.Module:
    """The dense network at initialization; the same on every machine that has the same torch.

    Args:
        experiment: names it.
        dataset: gives the shape of its input and the number of its outputs.
        hollow: without its weights, where that can be (see `build_model`); for clients, which are sent what they train.
        draw: 0: the run's own weights; k: the k-th other draw of them.

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
        statistics=model.statistics,
        gain=model.gain,
        seed=derive_seed(experiment.seed, "model", *([draw] if draw else [])),
        hollow=hollow,
    )


def mask_of(
    experiment: Experiment,
    model: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    progress: Callable[[int, int], None] | None = None,
    dataset: Dataset | None = None,
) -> Mask:
    """The mask before training, made without data; but for the saliency `snip`, which looks at the public samples.

    Args:
        experiment: the settings.
        model: the dense network at initialization; it is not changed.
        input_shape: (C, H, W) of a sample.
        progress: called with (steps done, steps) by SynFlow.
        dataset: what the public samples are taken of.

    Raises:
        PruningError: no such mask exists at this density, or samples are needed and there are none.
        DataError: there are not so many public samples.
    """
    pruning = experiment.pruning
    shapes = [weight.numel() for weight in prunable_tensors(model).values()]
    # Where the density falls, what it ends with has to be possible too.
    kept_count(pruning.density, size=sum(shapes), layers=len(shapes))
    if pruning.saliency == "snip":
        if dataset is None:
            raise PruningError('pruning.saliency is "snip", which looks at samples; give the data set they are in')
        indices = public_indices(experiment, dataset)
        images, labels = dataset.train.images[indices], dataset.train.labels[indices]
        seed = derive_seed(experiment.seed, "snip")
        scores = snip(model, dataset.normalised(images), torch.from_numpy(labels), seed=seed)
        return ranked_mask(scores, rule=pruning.rule, density=experiment.first_density)
    return initial_mask(
        model,
        input_shape,
        saliency=pruning.saliency,
        rule=pruning.rule,
        density=experiment.first_density,
        iterations=pruning.iterations,
        seed=mask_seed(experiment),
        progress=progress,
    )


def representation_of(experiment: Experiment) -> Representation:
    """What the clients of an experiment train and send."""
    if experiment.representation == "signs":
        return Signs(
            settings=experiment.signs,
            aggregation=experiment.aggregation,
            wire=experiment.wire,
            privacy=experiment.privacy,
        )
    if experiment.representation == "supermask":
        return Supermasks(
            settings=experiment.supermask,
            aggregation=experiment.aggregation,
            wire=experiment.wire,
            privacy=experiment.privacy,
            seed=experiment.seed,
        )
    return Weights(wire=experiment.wire, privacy=experiment.privacy)


def exchange_of(experiment: Experiment, model: nn.Module) -> Exchange:
    """What the two ends say to each other about the network `model`, which may be hollow."""
    return Exchange.of(
        experiment,
        architecture=Architecture.of(model),
        representation=representation_of(experiment),
        seeds=drawn_seeds(experiment),
    )


@dataclass(frozen=True, slots=True)
class ClientNetwork:
    """What a client trains.

    Attributes:
        network: the network.
        storage: how it holds what its backward pass needs; to be seeded before each training.
        choice: how its layers compute and what was measured for that; None where the settings say it.
    """

    network: KeptNetwork
    storage: Activations
    choice: PathChoice | None


def network_of(
    experiment: Experiment, model: nn.Module, mask: Mask, *, input_shape: tuple[int, int, int]
) -> ClientNetwork:
    """The network that the clients of an experiment train, by the paths that are fastest on this machine.

    They are measured when this machine has not yet done it for such layers and so many threads as torch has now, which
    takes seconds. All processes of a machine get the same ones, and so the same bits.

    Args:
        experiment: the settings.
        model: the dense network at initialization; it is not changed.
        mask: the kept positions.
        input_shape: (C, H, W) of a sample.
    """
    training = experiment.training
    storage = activations(training.activations, keep_ratio=training.keep_ratio, seed=0, layers=training.topk_layers)
    network = representation_of(experiment).network(
        model, mask, kernels=training.kernels, storage=storage, recompute=training.recompute
    )
    if training.kernels != "auto":
        return ClientNetwork(network, storage, None)
    choice = choose_paths(network, input_shape, batch_size=training.at_once, precision=training.precision)
    return ClientNetwork(network, storage, choice)
