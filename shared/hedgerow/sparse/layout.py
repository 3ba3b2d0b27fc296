"""The layout "batch last": tensors of logical shape (N, C, H, W) or (N, C) whose memory is (C, H, W, N) contiguous.

One kept weight multiplies a whole row of neighbours in memory then, whatever the shape of the kernel and wherever the
weight is in it. Every operator of torch is right on such tensors, and pointwise ones keep their layout.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["flat_channels", "is_batch_last", "logical", "planes"]


def is_batch_last(x: Tensor) -> bool:
    """Whether the memory of (N, C, H, W) or (N, C) is ordered C, H, W, N without gaps.

    >>> is_batch_last(torch.zeros(8, 3).t().contiguous().t())
    True
    """
    return bool(_last(x).is_contiguous())


def planes(x: Tensor) -> Tensor:
    """What the kernels take: contiguous (C, H, W, N) float32, or (C, 1, 1, N) of an (N, C); a view where it can be."""
    moved = x.t().to(torch.float32).contiguous()[:, None, None, :] if x.dim() == 2 else _last(x)
    return moved.to(torch.float32).contiguous()


def logical(p: Tensor, *, flat: bool = False) -> Tensor:
    """Inverse of `planes`: a view of shape (N, C, H, W), or (N, C·H·W) where `flat`."""
    return flat_channels(p)[:, 0, 0, :].t() if flat else p.permute(3, 0, 1, 2)


def flat_channels(p: Tensor) -> Tensor:
    """(C, H, W, N) planes as (C·H·W, 1, 1, N): what flattening (N, C, H, W) does, without a copy."""
    return p if p.shape[1] == p.shape[2] == 1 else p.reshape(-1, 1, 1, p.shape[3])


def _last(x: Tensor) -> Tensor:
    return x.t() if x.dim() == 2 else x.permute(1, 2, 3, 0)
