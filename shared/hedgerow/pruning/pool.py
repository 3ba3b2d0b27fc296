"""Many masks of one density from different saliencies, density rules, jitters and draws, for devices to choose from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from hedgerow.config import PoolEntry
from hedgerow.pruning.density import LAYER_RULES, jittered, keep_top
from hedgerow.pruning.initial import SALIENCIES, DensityRuleName, SaliencyName, initial_mask
from hedgerow.pruning.mask import Mask
from hedgerow.pruning.prunable import prunable_tensors
from hedgerow.seeds import derive_seed, numpy_generator

__all__ = ["Origin", "candidate_mask", "origins"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a candidate mask is made of.

    Attributes:
        saliency: what scores the weights.
        rule: how many of them each layer keeps.
        jitter: each layer's count is multiplied by 1 + U(-jitter, jitter); 0: the rule stands.
        draw: 0: the run's own weights and numbers; k: another draw of them.
        place: in the pool; tells entries apart that read the same.
    """

    saliency: SaliencyName
    rule: DensityRuleName
    jitter: float = 0.0
    draw: int = 0
    place: int = 0

    @property
    def name(self) -> str:
        """For people; the first draw is not numbered.

        >>> Origin(saliency="random", rule="erk", jitter=0.5, draw=1).name
        'random/erk~ #2'
        """
        number = f" #{self.draw + 1}" if self.draw else ""
        return f"{self.saliency}/{self.rule}{'~' if self.jitter else ''}{number}"

    def seed(self, seed: int) -> int:
        """That of its numbers, from that of the run's masks."""
        return derive_seed(seed, "candidate", self.draw, self.place) if self.draw or self.jitter else seed

    @property
    def is_random(self) -> bool:
        """Whether it draws numbers of its own, and does not look at the weights alone."""
        return self.saliency == "random" or self.jitter > 0


def origins(pool: Sequence[PoolEntry], *, count: int, jitter: float, redrawn: bool = True) -> list[Origin]:
    """The first `count` candidates of a pool: each entry in turn, and after the last the first from the next draw.

    Args:
        pool: at least one entry.
        count: how many.
        jitter: of the entries that are jittered.
        redrawn: whether the weights of another draw are others. If not, only entries that draw numbers come again, and
            where there is none the list is shorter.

    >>> pool = [PoolEntry.of("synflow/global"), PoolEntry.of("lamp/erk")]
    >>> [origin.name for origin in origins(pool, count=3, jitter=0.5)]
    ['synflow/global', 'lamp/erk', 'synflow/global #2']
    """
    assert pool
    return list(itertools.islice(_endless(pool, jitter=jitter, redrawn=redrawn), count))


def _endless(pool: Sequence[PoolEntry], *, jitter: float, redrawn: bool) -> Iterator[Origin]:
    for draw in itertools.count():
        found = False
        for place, entry in enumerate(pool):
            origin = Origin(
                saliency=entry.saliency,
                rule=entry.rule,
                jitter=jitter if entry.jittered else 0.0,
                draw=draw,
                place=place,
            )
            if draw == 0 or redrawn or origin.is_random:
                found = True
                yield origin
        if not found:
            return


def candidate_mask(
    model: nn.Module,
    input_shape: tuple[int, ...],
    origin: Origin,
    *,
    density: float,
    iterations: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Mask:
    """The mask of exactly ``round(density * N)`` weights that `origin` stands for, each layer with one at least.

    Of the first draw and without jitter it is `initial_mask` of the same arguments.

    Args:
        model: with the weights of `origin.draw`; it is not changed.
        input_shape: of one sample, without the batch dimension.
        origin: how it is made.
        density: kept fraction of all prunable weights, in (0, 1].
        iterations: of SynFlow.
        seed: of the run's masks; the numbers are drawn from it, the draw and the place.
        progress: called with (steps done, steps) by SynFlow.

    Raises:
        PruningError: as `initial_mask`.
    """
    seed = origin.seed(seed)
    if not origin.jitter:
        return initial_mask(
            model,
            input_shape,
            saliency=origin.saliency,
            rule=origin.rule,
            density=density,
            iterations=iterations,
            seed=seed,
            progress=progress,
        )
    shapes = {name: tuple(weight.shape) for name, weight in prunable_tensors(model).items()}
    counts = LAYER_RULES[origin.rule](shapes, density=density)
    counts = jittered(counts, shapes, jitter=origin.jitter, generator=numpy_generator(seed, "jitter"))
    return keep_top(SALIENCIES[origin.saliency](model, seed=seed), counts)
