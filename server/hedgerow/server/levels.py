"""The parts of the network that devices with less memory train: made at first, and again when the mask has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hedgerow.budget.nests import nests_of
from hedgerow.codec import Bits, Floats
from hedgerow.config import Experiment
from hedgerow.exchange import Architecture
from hedgerow.pruning import Moves
from hedgerow.representation import Representation
from hedgerow.seeds import derive_seed
from hedgerow.server.aggregation import Nested
from hedgerow.server.state import RoundState

__all__ = ["following_floats", "levelled", "planned", "renested", "running_statistics"]


def levelled(
    state: RoundState, *, experiment: Experiment, architecture: Architecture, representation: Representation
) -> RoundState:
    """A state before any training, with the parts of `budget.levels`; as it is where there are none but the whole."""
    budget = experiment.budget
    if len(budget.levels) == 1:
        return state
    private = budget.norms == "private" and bool(running_statistics(architecture).any())
    own = tuple(state.floats.copy() for _ in budget.levels[1:]) if private else ()
    return replace(state, nests=_nests(state, (), experiment, representation), own_floats=own)


def renested(
    state: RoundState, *, before: RoundState, experiment: Experiment, representation: Representation
) -> RoundState:
    """A state whose mask may have changed, with parts of the new one that change as little as they can.

    Args:
        state: after the change, without parts.
        before: the same round's state before it.
        experiment: the settings.
        representation: says how much a weight matters.
    """
    if not before.nests:
        return state
    if state.mask is before.mask:
        return replace(state, nests=before.nests, own_floats=before.own_floats, trained=before.trained)
    moves = Moves.between(before.mask, state.mask)
    keep = tuple(moves.carried(nest, grown=False) for nest in before.nests)
    nests = _nests(state, keep, experiment, representation)
    return replace(state, nests=nests, own_floats=before.own_floats, trained=before.trained)


def planned(state: RoundState, levels: Mapping[int, int]) -> RoundState:
    """With the levels of some nodes. Whose level is another one than before is given the mask of it."""
    plans = {**state.plans, **levels}
    held = {node: held for node, held in state.held.items() if plans.get(node, 0) == state.plans.get(node, 0)}
    return replace(state, plans=plans, held=held)


_EAGER = 10
"""By round t statistics are of the last t / 10 rounds or so, if of several. At first weights move so much that those of
a few rounds before are of another network (digits, 30 rounds: 91 % in round 4; 12 % if all rounds remember alike)."""


def following_floats(
    state: RoundState, heard: Nested, running: Bits, *, share: float = 1.0
) -> tuple[Floats, tuple[Floats, ...]]:
    """What is never pruned, after a round: of the whole network, and of the parts that have statistics of their own.

    A running statistic is the mean over the clients of its level, as networks of different widths have different ones
    (Yu et al. 2019, arXiv 1812.08928), and stays where there were none. All else is the mean over all clients.

    Args:
        state: before the round.
        heard: the clients' values, by level.
        running: (f,) bool, which values are running statistics.
        share: how much of the old ones of these the mean replaces, in (0, 1]; of round t at least 10 / t.
    """
    share = max(share, min(1.0, _EAGER / (state.round + 1)))

    def replaced(old: Floats, mean: Floats) -> Floats:
        if share == 1:
            return mean
        blend: Floats = (old + share * (mean.astype(np.float64) - old)).astype(np.float32)
        return np.where(running, blend, mean)

    mean = heard.mean()
    if not state.own_floats:
        return replaced(state.floats, mean), ()
    olds, means = (state.floats, *state.own_floats), []
    for level, old in enumerate(olds):
        part = heard.part(level)
        means.append(np.where(running, replaced(old, part.mean()) if part.weight else old, mean))
    return means[0], tuple(means[1:])


def running_statistics(architecture: Architecture) -> Bits:
    """(f,) bool, which of the values that are never pruned are running means and variances of batch norms."""
    names = [name.rpartition(".")[2] in ("running_mean", "running_var") for name in architecture.floats]
    flags: Bits = np.repeat(np.array(names, dtype=np.bool_), architecture.float_groups)
    return flags


def _nests(
    state: RoundState, keep: tuple[Bits, ...], experiment: Experiment, representation: Representation
) -> tuple[Bits, ...]:
    budget = experiment.budget
    # Where all are equal a drawn order decides.
    scores = np.zeros_like(state.kept) if budget.nest == "random" else representation.drop_scores(state.kept)
    seed = derive_seed(experiment.seed, "nest")
    return nests_of(state.mask, scores, fractions=budget.levels, keep=keep, seed=seed)
