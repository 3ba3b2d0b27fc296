"""Independent random streams from one seed, by name.

Nothing in hedgerow draws from a global generator: each use names what it draws, so adding one never moves another, and
a resumed run needs no saved generator.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

__all__ = ["derive_seed", "numpy_generator", "torch_generator"]


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` of an experiment with this seed.

    >>> derive_seed(0, "cohort", 1) == derive_seed(0, "cohort", 1)
    True
    >>> derive_seed(0, "cohort", 1) == derive_seed(0, "cohort", 2)
    False
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream called `names`."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU torch generator for the stream called `names`."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))
