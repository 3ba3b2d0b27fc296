"""Randomised response on votes: each vote lies with a known probability, so that no single vote can be held against it.

Warner 1965 for two answers; Kairouz, Oh and Viswanath 2014 (arXiv 1407.1338) for k of them. A vote is kept with
probability e^ε / (e^ε + k - 1) and otherwise replaced by one of the k - 1 others, each as likely. Whatever a vote is,
no answer is more than e^ε times as likely as it would be for any other vote: local differential privacy of ε for it.

**What it protects is one vote, not one message.** A message of n votes is protected by n · ε only, for all its votes
may depend on one sample (see `hedgerow.privacy.accounting.votes_epsilon`). At ε = 1 a message of 96,618 votes has an ε
of 96,618, which is no guarantee: who sees it cannot be sure of any one vote, but may well find out about the device
from all of them together. To protect the message as a whole, a vote would need ε / n, and say almost nothing.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hedgerow.errors import ConfigError
from hedgerow.privacy.randomness import Draw, in_chunks

__all__ = ["LARGEST_EPSILON", "exact_epsilon", "keep_words", "randomised", "unbiased", "unbiasing_factor"]

Votes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]

LARGEST_EPSILON = 16.0
"""Of one vote: one lie in four million. More is no protection, and the steps of 2⁻³² would be coarse."""
_WORDS = 1 << 32


def randomised(votes: Votes, *, alphabet: int, epsilon: float, draw: Draw) -> Votes:
    """What a device sends for its votes.

    Args:
        votes: (n,) uint8 below `alphabet`.
        alphabet: 2 for down and up, 3 for down, abstain and up.
        epsilon: of each vote, above 0 and at most `LARGEST_EPSILON`.
        draw: `system_words` in production; see `hedgerow.privacy.randomness`.

    Returns:
        (n,) uint8 below `alphabet`. One word is drawn for each vote, whatever it is.

    Raises:
        ConfigError: `alphabet` or `epsilon` is out of range.
    """
    kept = keep_words(alphabet=alphabet, epsilon=epsilon)
    assert votes.dtype == np.uint8, votes.dtype
    assert votes.ndim == 1, votes.shape
    assert not votes.size or int(votes.max()) < alphabet
    answers = votes.copy()
    for part in in_chunks(votes.size):
        words = draw(part.stop - part.start)
        lies = np.flatnonzero(words >= kept)
        # The words of a lie are a multiple of the k - 1 others in number, so each other is exactly as likely.
        others = ((words[lies] - np.uint32(kept)) % np.uint32(alphabet - 1)).astype(np.uint8) + np.uint8(1)
        answers[part][lies] = (answers[part][lies] + others) % np.uint8(alphabet)
    return answers


def keep_words(*, alphabet: int, epsilon: float) -> int:
    """How many of the 2³² words keep a vote: the probability e^ε / (e^ε + k - 1), rounded down.

    Down, so that the protection is never below what is asked for; and so that those that lie divide by k - 1.

    >>> round(keep_words(alphabet=2, epsilon=1.0) / 2**32, 6)
    0.731059

    Raises:
        ConfigError: `alphabet` or `epsilon` is out of range.
    """
    if alphabet not in (2, 3):
        raise ConfigError(f"votes have 2 or 3 answers, not {alphabet}")
    if not 0 < epsilon <= LARGEST_EPSILON:
        raise ConfigError(f"epsilon is {epsilon}; it has to be above 0 and at most {LARGEST_EPSILON:g}")
    others = alphabet - 1
    with localcontext(prec=50):
        odds = Decimal(epsilon).exp()
        kept = int(_WORDS * odds / (odds + others))
    kept -= (kept - _WORDS) % others
    if others * kept <= _WORDS - kept:
        raise ConfigError(f"epsilon is {epsilon}, so small that votes would say nothing; use a larger one")
    return kept


def exact_epsilon(*, alphabet: int, epsilon: float) -> float:
    """The ε of one vote that `randomised` gives: what is asked for or, from 10⁻⁴ on, up to 1 / 5000 of it less.

    Raises:
        ConfigError: `alphabet` or `epsilon` is out of range.
    """
    kept = keep_words(alphabet=alphabet, epsilon=epsilon)
    return math.log((alphabet - 1) * kept / (_WORDS - kept))


def unbiasing_factor(*, alphabet: int, epsilon: float) -> float:
    """What a mean of randomised votes has to be multiplied with to be right on average: (e^ε + k - 1) / (e^ε - 1).

    A vote v of -1 or 1, or of -1, 0 or 1, is answered with p·v + q·(sum of the others) on average, p being the
    probability to keep it and q that of each other. All answers sum to 0, so that is (p - q)·v.

    The factor multiplies the noise too: it gives the mean of n votes a standard deviation of up to factor / √n.

    >>> round(unbiasing_factor(alphabet=2, epsilon=1.0), 4), round(unbiasing_factor(alphabet=3, epsilon=1.0), 4)
    (2.164, 2.7459)

    Raises:
        ConfigError: `alphabet` or `epsilon` is out of range.
    """
    kept = keep_words(alphabet=alphabet, epsilon=epsilon)
    others = alphabet - 1
    return others * _WORDS / (others * kept - (_WORDS - kept))


def unbiased(mean: Floats, *, alphabet: int, epsilon: float) -> Floats:
    """The mean vote before randomising, right on average: may lie outside of [-1, 1].

    Args:
        mean: (n,) float32, means of randomised votes of -1 and 1, or of -1, 0 and 1; clients may have any weights.
        alphabet: 2 or 3.
        epsilon: of each vote, the same on all clients.

    Raises:
        ConfigError: `alphabet` or `epsilon` is out of range.
    """
    result: Floats = mean * np.float32(unbiasing_factor(alphabet=alphabet, epsilon=epsilon))
    return result
