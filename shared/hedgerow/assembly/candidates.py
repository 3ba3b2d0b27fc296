"""How the masks of an experiment are made: of which saliencies, density rules and numbers."""

from __future__ import annotations

from hedgerow.config import Experiment, PoolEntry
from hedgerow.pruning import Origin, draw_seed, origins
from hedgerow.seeds import derive_seed

__all__ = ["drawn_seeds", "mask_seed", "origins_of", "redraws_weights"]

_PUBLIC = PoolEntry(saliency="magnitude", rule="uniform", jittered=True)
"""Of a network that was trained on public samples, as in FedTiny's paper."""


def mask_seed(experiment: Experiment) -> int:
    """That of what masks draw."""
    return derive_seed(experiment.seed, "mask")


def origins_of(experiment: Experiment) -> list[Origin]:
    """What the candidates of `experiment.selection` are made of, some of which may come to the same mask."""
    selection = experiment.selection
    if selection.public_samples:
        return origins([_PUBLIC], count=selection.candidates, jitter=selection.jitter)
    return origins(
        selection.entries, count=selection.candidates, jitter=selection.jitter, redrawn=redraws_weights(experiment)
    )


def redraws_weights(experiment: Experiment) -> bool:
    """Whether another draw of the candidates has other weights too.

    Devices derive frozen magnitudes from the run's own weights at initialization, and know of no other draw: there only
    the numbers of random scores and of jitters are drawn again.
    """
    return not (experiment.representation == "signs" and experiment.signs.magnitude == "random")


def drawn_seeds(experiment: Experiment) -> tuple[int, ...]:
    """Those of the draws that the masks of an experiment may come of, see `hedgerow.codec.drawn_masks`."""
    seed = mask_seed(experiment)
    found = [seed] if experiment.pruning.saliency == "random" else []
    found += [origin.seed(seed) for origin in origins_of(experiment) if origin.saliency == "random"]
    return tuple(dict.fromkeys(map(draw_seed, found)))
