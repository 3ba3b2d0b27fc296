"""What the guarantees of single votes and updates add up to: ε of differential privacy, for a given δ.

Neighbours, unless said otherwise: **any two messages that a device could have sent**, round for round. That is local
privacy: it holds against the coordinator and everybody on the way, needs no trust in them, and protects all samples of
the device together. It says nothing of what travels beside the votes or the update, such as a loss or a number of
samples.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

from hedgerow.errors import ConfigError
from hedgerow.privacy.randomised_response import LARGEST_EPSILON

__all__ = ["gaussian_epsilon", "votes_epsilon"]

_ORDERS = (*range(2, 65), *range(72, 129, 8), 192, 256, 512, 1024)
"""Of Rényi's divergence. Whole ones, for which the divergence of sampled noise is a finite sum."""


def votes_epsilon(*, votes: int, rounds: int, epsilon: float, delta: float | None = None) -> float:
    """ε of all votes that a device sends, each randomised with `epsilon`.

    Without `delta` it is the sum, which is exact for δ = 0. With one it is the lesser of that and

        n·ε·tanh(ε/2) + ε·√(2·n·ln(1/δ)),   n = votes · rounds

    (Kairouz, Oh and Viswanath 2015, arXiv 1311.0776, theorem 3.4). The first term is the mean of the privacy loss, the
    second what Hoeffding's inequality allows beyond it. It holds however a device's votes depend on earlier rounds.

    Args:
        votes: in one message.
        rounds: in which the device took part.
        epsilon: of one vote.
        delta: probability that the guarantee may fail with; far below 1 / number of devices.

    Raises:
        ConfigError: an argument is out of range.

    >>> votes_epsilon(votes=96_618, rounds=1, epsilon=1.0)
    96618.0
    >>> round(votes_epsilon(votes=96_618, rounds=1, epsilon=0.01, delta=1e-6), 1)
    21.2
    """
    _check_count("votes", votes)
    _check_count("rounds", rounds)
    if not 0 < epsilon <= LARGEST_EPSILON:
        raise ConfigError(f"epsilon is {epsilon}; it has to be above 0 and at most {LARGEST_EPSILON:g}")
    count = votes * rounds
    basic = count * epsilon
    if delta is None:
        return basic
    _check_delta(delta)
    return min(basic, count * epsilon * math.tanh(epsilon / 2) + epsilon * math.sqrt(2 * count * -math.log(delta)))


def gaussian_epsilon(*, multiplier: float, rounds: int, delta: float, sampling: float | None = None) -> float:
    """ε of clipped updates with Gaussian noise, by Google's dp-accounting.

    Without `sampling` it is local: two neighbours are any two updates within the clipping norm, which lie up to twice
    that norm apart. All rounds together are one Gaussian mechanism then, so the result is exact (Balle and Wang 2018,
    arXiv 1805.06530).

    With `sampling` it is **not** local. Neighbours are a run with the device and the same run without it, so that they
    lie the norm itself apart, and who is to learn nothing must not know in which rounds the device took part. The
    coordinator always knows. It is the guarantee against those who see only what is published, if the coordinator is
    trusted and `multiplier` is that of the whole sum. By Rényi's divergence under Poisson sampling (Mironov, Talwar and
    Zhang 2019, arXiv 1908.10530); a cohort of fixed size is close to that, but not the same.

    Args:
        multiplier: standard deviation of the noise, as a multiple of the clipping norm.
        rounds: without `sampling` those in which the device took part, with it all of them.
        delta: probability that the guarantee may fail with; far below 1 / number of devices.
        sampling: probability that a device takes part in a round.

    Raises:
        ConfigError: an argument is out of range, or dp-accounting is not installed.
    """
    if not 0 < multiplier < math.inf:
        raise ConfigError(f"multiplier is {multiplier}; it has to be positive and finite")
    _check_count("rounds", rounds)
    _check_delta(delta)
    if sampling is not None and not 0 < sampling <= 1:
        raise ConfigError(f"sampling is {sampling}; it has to be above 0 and at most 1")
    library = _dp_accounting()
    if sampling is None:
        return float(library.get_epsilon_gaussian(multiplier / (2 * math.sqrt(rounds)), delta))
    accountant = library.rdp.RdpAccountant(orders=_ORDERS)
    sampled = library.PoissonSampledDpEvent(sampling, library.GaussianDpEvent(multiplier))
    return float(accountant.compose(library.SelfComposedDpEvent(sampled, rounds)).get_epsilon(delta))


def _dp_accounting() -> Any:
    # Optional, and its import takes a second.
    try:
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise ConfigError(
            "the epsilon of Gaussian noise needs dp-accounting, which is not installed: pip install 'hedgerow[privacy]'"
        ) from error


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; it has to be at least 1")


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta}; it has to lie between 0 and 1")
