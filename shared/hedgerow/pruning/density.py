"""Density rules: how many weights each layer keeps, and which, once there are scores.

A rule turns one overall density into exact counts; `keep_top` and `keep_top_global` turn scores into a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, prod
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from hedgerow.errors import PruningError
from hedgerow.pruning.mask import Mask

__all__ = [
    "LAYER_RULES",
    "LayerRule",
    "erk",
    "igq",
    "jittered",
    "keep_top",
    "keep_top_global",
    "kept_count",
    "uniform",
]

Shapes = Mapping[str, Sequence[int]]
_HALVINGS = 100
"""As many as a float can show, from 1 down to what matters for 10^15 weights."""


class LayerRule(Protocol):
    """Shapes and an overall density → how many weights each layer keeps, which add up to ``round(density * N)``."""

    def __call__(self, shapes: Shapes, /, *, density: float, most: Mapping[str, int] | None = None) -> dict[str, int]:
        """Count for every layer, at most `most` of it."""
        ...


def kept_count(density: float, *, size: int, layers: int) -> int:
    """The number of weights that `density` keeps of `size`: ``round(density * size)``.

    Raises:
        PruningError: the density is not in (0, 1], or leaves less than one weight for each of the `layers`.

    >>> kept_count(0.05, size=1000, layers=3)
    50
    """
    if not 0 < density <= 1:
        raise PruningError(f"density is {density:g}, but it must be above 0 and at most 1")
    kept = round(density * size)
    if kept < layers:
        raise PruningError(
            f"density {density:g} keeps {kept} of {size} weights, fewer than the {layers} layers: "
            f"the least possible density is {least_density(layers, size=size)}"
        )
    return kept


def least_density(kept: int, *, size: int) -> str:
    """The shortest decimal number (two digits at least) that `kept_count` turns into `kept` or more."""
    texts = (f"{kept / size:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if round(float(text) * size) >= kept)


def uniform(shapes: Shapes, *, density: float, most: Mapping[str, int] | None = None) -> dict[str, int]:
    """The same density in every layer, up to rounding: kept counts that sum to ``round(density * N)``.

    Each layer keeps at least one weight.

    Args:
        shapes: of the layers.
        density: of all together.
        most: how many weights each layer may keep; all that it has when None.

    Raises:
        PruningError: as `kept_count`, or `most` is too little.
    """
    return _counts(shapes, [float(prod(shape)) for shape in shapes.values()], density=density, most=most)


def erk(shapes: Shapes, *, density: float, most: Mapping[str, int] | None = None) -> dict[str, int]:
    """Erdős–Rényi-kernel: layer density ε · Σ(dims) / Π(dims), so small layers stay denser.

    ε is solved so that the kept counts sum to ``round(density * N)``; layers above 1 are dense, and ε is solved again
    for the others. Each layer keeps at least one weight. Source: Evci et al. 2020, arXiv 1911.11134.

    Args:
        shapes: of the layers.
        density: of all together.
        most: how many weights each layer may keep; all that it has when None.

    Raises:
        PruningError: as `kept_count`, or `most` is too little.
    """
    return _counts(shapes, [float(sum(shape)) for shape in shapes.values()], density=density, most=most)


def igq(shapes: Shapes, *, density: float, most: Mapping[str, int] | None = None) -> dict[str, int]:
    """Ideal gas quotas: a layer of n weights keeps n / (F · n + 1), so that the larger it is, the sparser it gets.

    F is solved so that the kept counts sum to ``round(density * N)``. At low densities all layers that have so many
    keep about as many weights, at high ones about the same fraction. Each layer keeps at least one weight. Source:
    Vysogorets and Kempe 2021, arXiv 2107.02306.

    Args:
        shapes: of the layers.
        density: of all together.
        most: how many weights each layer may keep; all that it has when None. What exceeds it goes to the others.

    Raises:
        PruningError: as `kept_count`, or `most` is too little.

    >>> igq({"small": (10,), "large": (1000,)}, density=0.2)
    {'small': 10, 'large': 192}
    """
    sizes = [prod(shape) for shape in shapes.values()]

    def shares(force: float) -> list[float]:
        return [max(1.0, size / (force * size + 1)) for size in sizes]

    # Layers keep everything without a force, and one weight each with a force of 1.
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(shares(middle)) > density * sum(sizes) else (low, middle)
    return _counts(shapes, shares(high), density=density, most=most)


LAYER_RULES: dict[str, LayerRule] = {"uniform": uniform, "erk": erk, "igq": igq}
"""Those that fix how many weights each layer keeps."""


def jittered(
    counts: Mapping[str, int], shapes: Shapes, *, jitter: float, generator: np.random.Generator
) -> dict[str, int]:
    """Each count times 1 + U(-jitter, jitter), all scaled by one factor so that their sum stays the same.

    Each layer keeps at least one weight and at most all that it has. Source: Huang et al. 2023, arXiv 2212.01977, who
    draw again until the sum is within 2 %; scaled, it is exact at the first draw.

    Args:
        counts: weights that each layer keeps, all at least 1.
        shapes: of the same layers.
        jitter: in [0, 1).
        generator: gives one number a layer, in order.

    Raises:
        PruningError: the layers differ, a count does not fit its layer, or `jitter` is out of range.
    """
    sizes = [prod(shape) for shape in shapes.values()]
    if list(counts) != list(shapes):
        raise PruningError(f"counts are for {list(counts)} but shapes for {list(shapes)}: pass the same layers")
    if not 0 <= jitter < 1:
        raise PruningError(f"jitter is {jitter:g}, but it must be at least 0 and below 1")
    for (name, count), size in zip(counts.items(), sizes, strict=True):
        if not 1 <= count <= size:
            raise PruningError(f"{name!r} cannot keep {count} of {size} weights: choose a count in between")
    factors = 1 + generator.uniform(-jitter, jitter, size=len(sizes))
    shares = [count * float(factor) for count, factor in zip(counts.values(), factors, strict=True)]
    return dict(zip(shapes, _apportion(shares, sizes, sum(counts.values())), strict=True))


def _counts(shapes: Shapes, shares: list[float], *, density: float, most: Mapping[str, int] | None) -> dict[str, int]:
    sizes = [prod(shape) for shape in shapes.values()]
    kept = kept_count(density, size=sum(sizes), layers=len(sizes))
    caps = sizes if most is None else [most[name] for name in shapes]
    if kept > sum(caps):
        raise PruningError(f"density {density:g} keeps {kept} weights, but at most {sum(caps)} may be kept; lower it")
    return dict(zip(shapes, _apportion(shares, caps, kept), strict=True))


def _apportion(shares: list[float], sizes: list[int], total: int) -> list[int]:
    """Whole numbers that sum to `total`, near clip(s · share, 1, size) for the one s that fits."""

    def clipped(scale: float) -> list[float]:
        return [min(max(scale * share, 1.0), float(size)) for share, size in zip(shares, sizes, strict=True)]

    # The sum grows piecewise linearly in s and bends where a layer leaves 1 or becomes dense.
    bends = {bend for share, size in zip(shares, sizes, strict=True) for bend in (1 / share, size / share)}
    scale = max(bend for bend in bends if sum(clipped(bend)) <= total)
    free = [i for i, share in enumerate(shares) if 1 / share <= scale < sizes[i] / share]
    if free:
        missing = total - sum(clipped(scale))
        scale += missing / sum(shares[i] for i in free)
    # Rounded first: 2.9999999996 is a 3 that floating point missed.
    exact = [round(value, 6) for value in clipped(scale)]
    counts = [floor(value) for value in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: (counts[i] - exact[i], i))
    growing = [i for i in by_remainder if counts[i] < sizes[i]]
    for i in growing[: total - sum(counts)]:
        counts[i] += 1
    assert sum(counts) == total
    return counts


def keep_top(scores: Mapping[str, torch.Tensor], counts: Mapping[str, int]) -> Mask:
    """The mask of the `counts[name]` highest scores of each layer; of equal scores the first positions stay.

    Raises:
        PruningError: names differ, a count does not fit its layer, or a score is not finite.
    """
    if list(scores) != list(counts):
        raise PruningError(f"scores are for {list(scores)} but counts for {list(counts)}: pass the same layers")
    kept = {}
    for name, tensor in scores.items():
        flat = _flat(name, tensor)
        if not 0 <= counts[name] <= flat.size:
            raise PruningError(f"{name!r} cannot keep {counts[name]} of {flat.size} weights: choose a count in between")
        kept[name] = torch.from_numpy(_highest(flat, counts[name]).reshape(tensor.shape))
    return Mask(kept)


def keep_top_global(scores: Mapping[str, torch.Tensor], kept: int, *, at_least: int = 1) -> Mask:
    """The mask of the `kept` highest scores of all layers together, exactly.

    Each layer first keeps its `at_least` best (all of them if it has fewer); the rest goes to the best of all. Of
    equal scores the first positions stay.

    Raises:
        PruningError: `kept` is more than all or less than the minimum of all layers, or a score is not finite.
    """
    layers = {name: _flat(name, tensor) for name, tensor in scores.items()}
    size = sum(flat.size for flat in layers.values())
    minimum = sum(min(at_least, flat.size) for flat in layers.values())
    if not minimum <= kept <= size:
        raise PruningError(
            f"{kept} of {size} weights cannot be kept with at least {at_least} in each of {len(layers)} layers: "
            f"keep {minimum} to {size}"
        )
    chosen = np.concatenate([_highest(flat, min(at_least, flat.size)) for flat in layers.values()])
    others = np.flatnonzero(~chosen)
    chosen[others[_highest(np.concatenate(list(layers.values()))[others], kept - minimum)]] = True
    parts = np.split(chosen, np.cumsum([flat.size for flat in layers.values()])[:-1])
    return Mask(
        {
            name: torch.from_numpy(part.reshape(tensor.shape))
            for (name, tensor), part in zip(scores.items(), parts, strict=True)
        }
    )


def _flat(name: str, scores: torch.Tensor) -> npt.NDArray[np.float64]:
    flat: npt.NDArray[np.float64] = scores.detach().cpu().double().flatten().numpy()
    if not np.isfinite(flat).all():
        raise PruningError(f"the scores of {name!r} are not finite: check the model's weights")
    return flat


def _highest(scores: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.bool_]:
    """Flags of the k highest; of equal ones the first positions."""
    if k == 0:
        return np.zeros(scores.shape, dtype=np.bool_)
    threshold = np.partition(scores, scores.size - k)[scores.size - k]
    chosen: npt.NDArray[np.bool_] = scores > threshold
    equal = np.flatnonzero(scores == threshold)
    chosen[equal[: k - int(np.count_nonzero(chosen))]] = True
    return chosen
