"""Kept weights made standard: each output's have mean 0 and a fixed size, whatever the values that are trained.

It takes the place of a norm on activations: an output's mean stays near 0 because its weights sum to 0, and nothing
depends on the batch. The operators of layers see ordinary values; only what gives them those values is here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hedgerow.models.standard import LEAST_SQUARE, Statistics

__all__ = ["row_factor", "standardised"]


def standardised(values: Tensor, gain: Tensor, *, rows: Tensor, fan_in: int, statistics: Statistics) -> Tensor:
    """(k,) kept values to (k,) weights: for each output γ · (w - μ) / √max(M · var, ε), differentiable.

    M weights of an output count: its kept ones (`kept`), or all, zeros included (`all`); var is their unbiased variance
    and ε 10⁻⁴. Of one alone there is neither mean nor variance: it becomes γ · w / max(\\|w\\|, 0.01).

    Source: Brock et al., "Characterizing signal propagation to close the performance gap in unnormalized ResNets",
    arXiv:2101.08692, equation 4, and FedMef, arXiv:2403.14737, which has it of a sparse weight.

    Args:
        values: (k,) float32, output by output.
        gain: (O,) float32, γ.
        rows: (O + 1,) integers; those of output o are values[rows[o]] … values[rows[o + 1] - 1].
        fan_in: weights of one output, kept or not.
        statistics: which weights count.

    >>> rows = torch.tensor([0, 2, 2, 3])
    >>> standardised(torch.tensor([1.0, 3.0, -2.0]), torch.ones(3), rows=rows, fan_in=4, statistics="kept").tolist()
    [-0.5, 0.5, -1.0]
    """
    found = _Standardise.apply(values, gain, rows, fan_in, statistics)  # type: ignore[no-untyped-call]  # torch does not type it
    return cast(Tensor, found)


@torch.no_grad()
def row_factor(values: Tensor, gain: Tensor, *, rows: Tensor, fan_in: int, statistics: Statistics) -> Tensor:
    """(O,) float32: what a gradient of `standardised` weights is multiplied by to be one of the values themselves.

    It leaves out what all values of an output share. An output without kept values has no size yet, and is taken to
    have the others' mean factor, as its formal one of 100 would outdo them all. Arguments as for `standardised`.
    """
    inverse = _moments(values.detach(), rows, fan_in, statistics).inverse
    filled = rows.diff() > 0
    usual = inverse[filled].mean() if bool(filled.any()) else torch.ones(())
    return gain * torch.where(filled, inverse, usual)


@dataclass(frozen=True, slots=True)
class _Moments:
    """Of each output, (O,).

    Attributes:
        mean: of the weights that count; 0 where it is not taken.
        inverse: 1 / √max(M · var, ε).
        slope: M / (M - 1) · inverse², or 0 where ε is the larger; M / (M - 1) is 1 for one weight alone.
        share: 1 / M, or 0 where the mean is not taken.
    """

    mean: Tensor
    inverse: Tensor
    slope: Tensor
    share: Tensor


class _Standardise(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]  # torch does not type it
    def forward(ctx: Any, values: Tensor, gain: Tensor, rows: Tensor, fan_in: int, statistics: Statistics) -> Tensor:
        found = _moments(values, rows, fan_in, statistics)
        ctx.save_for_backward(values, gain, rows, found.mean, found.inverse, found.slope, found.share)
        return (values - _spread(found.mean, rows)).mul_(_spread(gain * found.inverse, rows))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        values, gain, rows, mean, inverse, slope, share = ctx.saved_tensors
        grad, centred = grads[0], values - _spread(mean, rows)
        along = _sums(grad * centred, rows)
        grad_values = None
        if ctx.needs_input_grad[0]:
            # The mean moves with each weight, and so does the deviation, by the weight's distance from the mean.
            grad_values = centred.mul_(_spread(slope * along, rows)).neg_().add_(grad)
            grad_values -= _spread(_sums(grad, rows).mul_(share), rows)
            grad_values *= _spread(gain * inverse, rows)
        return grad_values, along * inverse if ctx.needs_input_grad[1] else None, None, None, None


def _moments(values: Tensor, rows: Tensor, fan_in: int, statistics: Statistics) -> _Moments:
    kept = rows.diff().to(values.dtype)
    counted = torch.full_like(kept, fan_in) if statistics == "all" else kept
    several = counted >= 2
    share = torch.where(several, 1 / counted.clamp(min=1), 0.0)
    mean = _sums(values, rows).mul_(share)
    # The zeros that count are as far from the mean as it is from 0.
    squares = _sums((values - _spread(mean, rows)).square_(), rows).add_((counted - kept) * mean.square())
    unbiased = torch.where(several, counted / (counted - 1).clamp(min=1), 1.0)
    size = squares.mul_(unbiased)
    inverse = size.clamp(min=LEAST_SQUARE).rsqrt_()
    slope = torch.where(size > LEAST_SQUARE, unbiased * inverse.square(), 0.0)
    return _Moments(mean, inverse, slope, share)


def _sums(values: Tensor, rows: Tensor) -> Tensor:
    """(O,) the sum of each output's values."""
    ends = rows.numpy()
    starts, filled = ends[:-1], np.diff(ends) > 0
    flat = values.detach().numpy()
    sums = np.zeros(len(starts), dtype=flat.dtype)
    if filled.any():
        # Between two starts of outputs that have values there are no others.
        sums[filled] = np.add.reduceat(flat, starts[filled])
    return torch.from_numpy(sums)


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """(k,) each output's value for all of its weights."""
    # Torch's own takes twenty times as long, and 8 bytes a weight for positions.
    return torch.from_numpy(np.repeat(values.detach().numpy(), np.diff(rows.numpy())))
