"""Means and spreads of each line over the seeds, differences between lines seed by seed, and what was chosen."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.selection.lines import CHOSEN, POOL, pool_line
from benchmarks.selection.runs import figures_of
from benchmarks.trainings import Figures, Found, line_figures, points_over, spread

__all__ = ["CHOICE", "PAIRS", "Choice", "choices", "compared", "summarised"]

CHOICE = "choice"
PAIRS: Sequence[tuple[str, str]] = (
    *(("fedtiny", static) for static in POOL),
    ("progressive", "synflow"),
    *((chosen, "pool") for chosen in CHOSEN),
    (CHOICE, "pool"),
)
"""Each line and what it is compared with; `pool` is the mean over the static masks made as the candidates are, and
`choice` the one of them that is made as the candidate is that the devices of `fedtiny` chose."""

Accuracies = Mapping[str, Mapping[int, float]]
"""Fractions of the test samples after the last round, by line and seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which candidate the devices of a run chose."""

    line: str
    seed: int

    name: str
    """As the configuration says how it was pruned."""
    winner: int
    """Its place in the pool, from 0."""
    loss: float | None
    """What the devices said of it, in nats."""
    accuracy: float | None
    """After training with this seed, of the static mask that is made like it; None where that was not trained."""
    rank: int | None
    """Of this accuracy among those of the masks made like the other candidates: 1 is the best. None where not all of
    them were trained."""


def summarised(found: Found, *, pool: Sequence[str], channels: int) -> Figures:
    """Figures of all lines of a case, and of what is compared; names begin with the line or the pair.

    Args:
        found: what the runs left behind.
        pool: the static lines that are made as the candidates are.
        channels: of the batch norms of the network together.
    """
    figures: Figures = {}
    of: dict[str, dict[int, float]] = {}
    for line, runs in found.items():
        each = {seed: figures_of(records, channels=channels) for seed, records in runs.items()}
        of[line] = {seed: one["accuracy"] for seed, one in each.items()}
        figures |= line_figures(line, each)
    ranks: dict[str, list[int]] = {}
    for choice in choices(found):
        figures[f"{choice.line}.winner.{choice.seed}"] = choice.winner
        if choice.rank is not None:
            figures[f"{choice.line}.rank.{choice.seed}"] = choice.rank
            ranks.setdefault(choice.line, []).append(choice.rank)
        if choice.line == "fedtiny" and choice.accuracy is not None:
            of.setdefault(CHOICE, {})[choice.seed] = choice.accuracy
    figures |= {f"{line}.rank": statistics.mean(each) for line, each in ranks.items()}
    return figures | compared(of, pool=pool)


def compared(of: Accuracies, *, pool: Sequence[str]) -> Figures:
    """Points of accuracy by which lines differ: mean over the seeds, spread and least, for each of `PAIRS` that ran."""
    if all(line in of for line in pool):
        of = {**of, "pool": {seed: statistics.mean(of[line][seed] for line in pool) for seed in of[pool[0]]}}
    figures: Figures = {}
    for one, other in PAIRS:
        if one in of and other in of:
            points = points_over(of[one], of[other])
            named = {"points": statistics.mean(points), "spread": spread(points), "least": min(points)}
            figures |= {f"{one}_over_{other}.{name}": value for name, value in named.items()}
    return figures


def choices(found: Found) -> Iterator[Choice]:
    """Those of all runs that had candidates."""
    static = {
        line: {seed: records[-1].accuracy or 0.0 for seed, records in runs.items()}
        for line, runs in found.items()
        if line in POOL
    }
    for line, runs in found.items():
        for seed, records in runs.items():
            selection = records[0].selection
            if selection is None:
                continue
            chosen = selection.candidates[selection.winner]
            lines = [pool_line(candidate.name) for candidate in selection.candidates]
            trained = [static[made][seed] if made in static else None for made in lines]
            own, others = trained[selection.winner], [accuracy for accuracy in trained if accuracy is not None]
            whole = len(others) == len(trained)
            rank = 1 + sum(accuracy > own for accuracy in others) if whole and own is not None else None
            yield Choice(
                line=line,
                seed=seed,
                name=chosen.name,
                winner=selection.winner,
                loss=chosen.loss,
                accuracy=own,
                rank=rank,
            )
