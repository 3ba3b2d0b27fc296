"""Training of the dense network by the coordinator itself, on samples that no client has."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from hedgerow.config import Experiment
from hedgerow.data import Dataset, Indices
from hedgerow.errors import TrainingError
from hedgerow.seeds import derive_seed, numpy_generator

__all__ = ["pretrained"]


def pretrained(experiment: Experiment, *, model: nn.Module, dataset: Dataset, indices: Indices) -> nn.Module:
    """A copy of `model` trained for `selection.public_epochs` on some training samples, in float32.

    Plain SGD with momentum 0.9 and the batches of the clients; the step size falls from `weights.learning_rate` to 0 as
    half a cosine. A rest of one sample is left out of an epoch, as batch norm needs two.

    Args:
        experiment: the settings and the seed; the same ones give the same weights.
        model: the dense network; it is not changed.
        dataset: whose training split the samples are in.
        indices: (n,) of those samples.

    Raises:
        TrainingError: the loss or a weight is not finite, or there are too few samples for one step.
    """
    size = experiment.training.batch_size
    generator = numpy_generator(experiment.seed, "pretraining", "batches")
    orders = [generator.permutation(indices) for _ in range(experiment.selection.public_epochs)]
    batches = [order[start : start + size] for order in orders for start in range(0, len(order), size)]
    batches = [batch for batch in batches if len(batch) >= 2]
    if not batches:
        raise TrainingError(
            f"{len(indices)} public samples are too few for one step of at least 2; raise selection.public_samples"
        )
    model = copy.deepcopy(model).train()
    rate = experiment.weights.learning_rate
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    # A user's model may draw from torch's global generator, in dropout for example.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(experiment.seed, "pretraining"))
        for number, batch in enumerate(batches):
            optimiser.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * number / len(batches))) / 2
            images = dataset.normalised(dataset.train.images[batch])
            loss = F.cross_entropy(model(images), torch.from_numpy(dataset.train.labels[batch]))
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"the loss on the public samples became {loss.item()} at step {number + 1}; lower "
                    "weights.learning_rate"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
            optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        raise TrainingError(
            "training on the public samples left a weight that is not finite though the loss was; lower "
            "weights.learning_rate"
        )
    return model
