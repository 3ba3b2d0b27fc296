"""The switch from signs to float weights, between the last round of the ones and the first of the others."""

from __future__ import annotations

from dataclasses import replace

from hedgerow.config import Experiment
from hedgerow.server.bench import Bench
from hedgerow.server.state import RoundState

__all__ = ["begun"]


def begun(state: RoundState, *, experiment: Experiment, bench: Bench) -> RoundState:
    """A state as the round after it trains it: before the first round in float with weights, else as it is.

    A checkpoint holds what the round before came to, so that one of signs is the same whatever comes after. The weights
    are those of the network that is evaluated, to the bit: size times sign. Where devices train parts of the network,
    that is the largest part that was ever trained, and weights outside of it have the sizes of the whole.

    Weights take another amount of memory than signs, so what devices planned does not hold any more. Those that had a
    smaller part are given their mask again.

    Args:
        state: after any round, or before the first.
        experiment: the whole.
        bench: what was built from it.
    """
    number = state.round + 1
    if number == 1 or experiment.at(number).first_round != number:
        return state
    signs = bench.at(experiment, round=state.round)
    kept, places = signs.weights(state), state.places(state.trained)
    if places is not None:
        kept[places] = signs.weights(state.best())
    held = {node: version for node, version in state.held.items() if not state.plans.get(node)}
    return replace(state, kept=kept, held=held, plans={})
