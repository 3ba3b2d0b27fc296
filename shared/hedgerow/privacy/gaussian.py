"""Clipping and Gaussian noise for an update of values, on the device (Dwork and Roth 2014, Abadi et al. 2016).

Clipping bounds what one message can say, noise hides it; `hedgerow.privacy.accounting.gaussian_epsilon` tells how well.
What is done to the result afterwards, such as rounding it to fewer bits, weakens nothing. What such rounding leaves
over may be added to a later update once that has its own noise.

The guarantee is one of real numbers. With floating-point ones the last bits of a sum can tell something about what the
noise was added to (Mironov 2012). Rounding to float32 here and to a codec's steps afterwards hides those bits in
practice, but is no proof.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.errors import ConfigError, TrainingError
from hedgerow.privacy.randomness import Draw, in_chunks, normals

__all__ = ["clipped", "l2_norm", "noised"]

Floats: TypeAlias = npt.NDArray[np.float32]

_ROUNDING = 1 - 2.0**-22
"""Rounding to float32 may raise a norm again by a part in 2²⁴."""


def clipped(update: Floats, *, norm: float) -> Floats:
    """The update, scaled down if it is longer than `norm`.

    Args:
        update: (n,) float32.
        norm: the largest L2 norm.

    Returns:
        (n,) float32 of an L2 norm of at most `norm`.

    Raises:
        ConfigError: `norm` is not positive and finite.
        TrainingError: the update is not finite, so that no scale would bound it.

    >>> clipped(np.array([3, 4], dtype=np.float32), norm=10).tolist()
    [3.0, 4.0]
    """
    _check("norm", norm)
    length = l2_norm(update)
    if not math.isfinite(length):
        raise TrainingError("the update is not finite; lower the learning rate")
    if length <= norm:
        return update.copy()
    result: Floats = (update * (norm / length * _ROUNDING)).astype(np.float32)
    return result


def noised(update: Floats, *, norm: float, multiplier: float, draw: Draw) -> Floats:
    """The update with independent Gaussian noise on each value.

    Args:
        update: (n,) float32, as `clipped` returns it.
        norm: what it was clipped to.
        multiplier: standard deviation of the noise, as a multiple of `norm`.
        draw: `system_words` in production; see `hedgerow.privacy.randomness`.

    Returns:
        (n,) float32.

    Raises:
        ConfigError: `norm` or `multiplier` is not positive and finite.
    """
    _check("norm", norm)
    _check("multiplier", multiplier)
    result = update.astype(np.float32)
    for part in in_chunks(update.size):
        noise = normals(draw, part.stop - part.start)
        result[part] = update[part] + (norm * multiplier) * noise
    return result


def l2_norm(update: Floats) -> float:
    """The L2 norm, summed in float64; not finite if a value is not.

    >>> l2_norm(np.array([3, 4], dtype=np.float32))
    5.0
    """
    wide = update.astype(np.float64)
    return math.sqrt(float(wide @ wide))


def _check(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} is {value}; it has to be positive and finite")
