"""Accuracy and loss of the global network on the test samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from hedgerow.data import Dataset

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Fraction of the test samples classified rightly, and their mean cross-entropy in nats."""

    accuracy: float
    loss: float


@torch.no_grad()
def evaluate(model: nn.Module, dataset: Dataset, *, batch_size: int) -> Evaluation:
    """Evaluates in float32; `model` comes out in eval mode."""
    model.eval()
    right, loss = 0, 0.0
    for start in range(0, len(dataset.test), batch_size):
        images = dataset.normalised(dataset.test.images[start : start + batch_size])
        labels = torch.from_numpy(dataset.test.labels[start : start + batch_size])
        outputs = model(images.contiguous(memory_format=torch.channels_last))
        right += int((outputs.argmax(1) == labels).sum())
        loss += F.cross_entropy(outputs, labels, reduction="sum").item()
    return Evaluation(accuracy=right / len(dataset.test), loss=loss / len(dataset.test))
