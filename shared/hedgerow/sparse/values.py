"""From what a layer trains to its weights: the weight itself, or the sign of a score over a frozen magnitude."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["SignEstimator", "SignThrough", "score_gradient", "signed_values"]

SignEstimator: TypeAlias = Literal["identity", "tanh"]


def signed_values(score: Tensor, magnitude: Tensor | None) -> Tensor:
    """magnitude · sign(score) with sign(0) = +1, (k,) float32; the scores themselves where there is no magnitude."""
    return score if magnitude is None else torch.where(score >= 0, magnitude, -magnitude)


def score_gradient(grad: Tensor, score: Tensor, magnitude: Tensor | None, estimator: SignEstimator) -> Tensor:
    """Gradient of the scores from that of the weights, (k,): straight through the sign, or through tanh."""
    if magnitude is None:
        return grad
    grad = grad * magnitude
    return grad * (1 - torch.tanh(score) ** 2) if estimator == "tanh" else grad


class SignThrough(torch.autograd.Function):
    """`signed_values` with the gradient of `score_gradient`."""

    @staticmethod
    def forward(ctx: Any, score: Tensor, magnitude: Tensor, estimator: SignEstimator) -> Tensor:
        """(k,) scores to (k,) weights."""
        ctx.save_for_backward(score if estimator == "tanh" else None, magnitude)
        ctx.estimator = estimator
        return signed_values(score, magnitude)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Straight through."""
        score, magnitude = ctx.saved_tensors
        return score_gradient(grads[0], score, magnitude, ctx.estimator), None, None
