"""Noise that hides what a device says, and what its guarantee is: randomised votes, clipped and noised updates."""

from hedgerow.privacy.accounting import gaussian_epsilon, votes_epsilon
from hedgerow.privacy.gaussian import clipped, noised
from hedgerow.privacy.randomised_response import exact_epsilon, randomised, unbiased, unbiasing_factor
from hedgerow.privacy.randomness import Draw, seeded_words, system_words

__all__ = [
    "Draw",
    "clipped",
    "exact_epsilon",
    "gaussian_epsilon",
    "noised",
    "randomised",
    "seeded_words",
    "system_words",
    "unbiased",
    "unbiasing_factor",
    "votes_epsilon",
]
