"""The two networks that are compared: the dense one with `weight * mask`, and the one that `sparsify` makes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from hedgerow.models import build_model
from hedgerow.pruning import Mask, initial_mask, prunable_tensors
from hedgerow.sparse import KeptNetwork, PathChoice, choose_paths, gather_kept, sparsify, write_vector

__all__ = [
    "BATCH",
    "SHAPE",
    "Case",
    "Trainer",
    "batch_of",
    "dense_copy",
    "dense_trainer",
    "kept_network",
    "mask_of",
    "model_of",
    "sparse_trainer",
    "trained_tensors",
    "training_step",
]

BATCH = 32
SHAPE = (3, 32, 32)
CLASSES = 10

Rule = Literal["uniform", "erk"]
Step = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, slots=True)
class Case:
    """What is trained: a model of `hedgerow.models`, and the mask on it."""

    model: str
    rule: Rule
    density: float

    @property
    def name(self) -> str:
        """As the figures are named."""
        return f"{self.model}.{self.rule}.{self.density:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """One network with its optimiser.

    Attributes:
        step: a whole training step, forward, backward and update; gives its loss.
        module: what is trained.
        paths: how its layers compute, where that was chosen by measuring.
    """

    step: Callable[[], float]
    module: nn.Module
    paths: PathChoice | None = None


def model_of(case: Case, *, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> nn.Module:
    """The dense model."""
    return build_model(case.model, input_shape=shape, classes=CLASSES, seed=seed)


def mask_of(case: Case, model: nn.Module, *, seed: int = 0) -> Mask:
    """A random choice at the case's density."""
    return initial_mask(model, SHAPE, saliency="random", rule=case.rule, density=case.density, iterations=1, seed=seed)


def batch_of(count: int = BATCH, *, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normal images (count, C, H, W) and labels (count,), the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, *shape, generator=generator)
    return images, torch.randint(CLASSES, (count,), generator=generator)


class _Masked(nn.Module):
    mask: Tensor

    # In float32, as torch.nn.utils.prune keeps it: multiplying by a bool mask takes 2 % longer.
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.float())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def dense_copy(model: nn.Module, mask: Mask) -> nn.Module:
    """Turns `model` into the usual simulation of sparsity, in place: dense weights, used as weight * mask."""
    for name, kept in mask.items():
        path, _, attribute = name.rpartition(".")
        parametrize.register_parametrization(model.get_submodule(path), attribute, _Masked(kept))
    return model


def dense_trainer(model: nn.Module, mask: Mask, *, channels_last: bool = False) -> Trainer:
    """Dense weights and masks, SGD with momentum 0.9; `model` itself is trained."""
    module = dense_copy(model, mask)
    images, labels = batch_of()
    if channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch does not type it
        images = images.contiguous(memory_format=torch.channels_last)
    step = training_step(module, list(module.parameters()))
    return Trainer(step=functools.partial(step, images, labels), module=module)


def sparse_trainer(model: nn.Module, mask: Mask, *, signs: bool = False, lean: bool = False) -> Trainer:
    """Kept weights only, or scores of their signs, on the paths that are faster here.

    `lean` takes as little memory as it can: recomputed blocks, micro-batches of half the batch, no momentum, and native
    kernels, since measuring the paths would take more.
    """
    network = kept_network(model, mask, signs=signs, kernels="native" if lean else "auto", recompute=lean)
    paths = None if lean else choose_paths(network, SHAPE, batch_size=BATCH, precision="fp32")
    step = training_step(
        network.module,
        trained_tensors(network),
        momentum=0 if lean else 0.9,
        micro_batch=BATCH // 2 if lean else None,
    )
    return Trainer(step=functools.partial(step, *batch_of()), module=network.module, paths=paths)


def kept_network(
    model: nn.Module,
    mask: Mask,
    *,
    signs: bool = False,
    kernels: Literal["auto", "native"] = "native",
    recompute: bool = False,
) -> KeptNetwork:
    """The network of the kept weights, with the values that they have in `model`."""
    weights = prunable_tensors(model)
    magnitudes = {name: weight.detach().abs().mean() for name, weight in weights.items()} if signs else None
    network = sparsify(model, mask, magnitudes=magnitudes, kernels=kernels, recompute=recompute)
    write_vector(network.kept, gather_kept(dict(weights), mask))
    return network


def trained_tensors(network: KeptNetwork) -> list[Tensor]:
    """What an optimiser gets of it."""
    return [*network.kept, *(tensor for tensor in network.floats if tensor.requires_grad)]


def training_step(
    module: nn.Module, trained: Sequence[Tensor], *, momentum: float = 0.9, micro_batch: int | None = None
) -> Step:
    """Forward, backward and update on a batch of images and labels, giving its loss; gradients do not outlive it."""
    optimiser = torch.optim.SGD(trained, lr=0.01, momentum=momentum)
    module.train()

    def step(images: Tensor, labels: Tensor) -> float:
        total = 0.0
        size = micro_batch or len(labels)
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            loss = F.cross_entropy(module(images[part]), labels[part]) * (len(labels[part]) / len(labels))
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
            total += loss.item()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return total

    return step
