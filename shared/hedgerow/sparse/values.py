"""From what a layer trains to its weights: the weight itself, the sign of a score over a frozen magnitude, or a frozen
weight that is there with a probability.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

__all__ = ["MaskThrough", "SignEstimator", "SignThrough", "sampled_values", "score_gradient", "signed_values"]

SignEstimator: TypeAlias = Literal["identity", "tanh", "sampled"]
"""How scores become weights, and how gradients come back: signs, straight through or through tanh, or drawn masks."""


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


def sampled_values(score: Tensor, frozen: Tensor) -> Tensor:
    """frozen · m with m ~ Bernoulli(sigmoid(score)), (k,) float32; drawn from torch's global generator at each call."""
    return cast(Tensor, MaskThrough.apply(score, frozen))  # type: ignore[no-untyped-call]  # torch does not type it


class MaskThrough(torch.autograd.Function):
    """`sampled_values`, with the gradient of the mask taken for that of its probability (straight through).

    ∂L/∂s = ∂L/∂w · frozen · sigmoid(s) · (1 - sigmoid(s)), as in Bengio et al. 2013, arXiv 1308.3432.
    """

    @staticmethod
    def forward(ctx: Any, score: Tensor, frozen: Tensor) -> Tensor:
        """(k,) scores to (k,) weights."""
        ctx.save_for_backward(score, frozen)
        return torch.bernoulli(torch.sigmoid(score)).mul_(frozen)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Straight through."""
        score, frozen = ctx.saved_tensors
        return torch.ops.aten.sigmoid_backward(grads[0] * frozen, torch.sigmoid(score)), None
