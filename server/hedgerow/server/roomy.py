"""Finding devices that have memory for a whole network, where others train a part of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hedgerow.config import Experiment
from hedgerow.errors import TooFewRepliesError
from hedgerow.exchange import Exchange
from hedgerow.seeds import numpy_generator
from hedgerow.server.fleet import Fleet
from hedgerow.server.planning import ask_plans
from hedgerow.server.progress import Observer
from hedgerow.telemetry import Failure
from hedgerow.units import bytes_text

__all__ = ["Roomy", "roomy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Roomy:
    """Who was found.

    Attributes:
        nodes: in ascending order, not more than a cohort.
        failures: who was asked and failed.
        bytes_up: of all replies, as they travelled.
        bytes_down: of all requests that were answered, as they travelled.
    """

    nodes: Sequence[int]
    failures: tuple[Failure, ...]
    bytes_up: int
    bytes_down: int


def roomy(
    nodes: Sequence[int],
    kept: Mapping[str, int],
    *,
    experiment: Experiment,
    exchange: Exchange,
    fleet: Fleet,
    observer: Observer,
) -> Roomy:
    """As many nodes as a cohort has that can train a network; fewer where there are not so many.

    They are asked a cohort at a time, in an order drawn from the seed, until there are enough.

    Args:
        nodes: those that are there.
        kept: weights that the network keeps of each prunable tensor.
        experiment: the settings.
        exchange: knows the network.
        fleet: whom to ask.
        observer: is told how it goes.

    Raises:
        TooFewRepliesError: there are fewer than `aggregation.min_replies`.
    """
    order = numpy_generator(experiment.seed, "cohort", 0).permutation(len(nodes))
    drawn, size = [nodes[place] for place in order], experiment.fleet.cohort
    found: list[int] = []
    failures: list[Failure] = []
    least, up, down = 0, 0, 0
    for first in range(0, len(drawn), size):
        said = ask_plans(
            drawn[first : first + size],
            [kept],
            number=0,
            experiment=experiment,
            exchange=exchange,
            fleet=fleet,
            observer=observer,
        )
        failures += said.failures
        up, down = up + said.bytes_up, down + said.bytes_down
        found += [node for node, plan in said.values.items() if plan.level is not None]
        least = max(least, *(plan.least for plan in said.values.values()), 0)
        if len(found) >= size:
            break
    if len(found) < experiment.aggregation.min_replies:
        advice = "make selection.candidates 0" + (f", or add devices with {bytes_text(least)}" if least else "")
        raise TooFewRepliesError(
            f"{len(found)} of {len(nodes)} devices have memory for a whole network, as candidates are, and "
            f"{experiment.aggregation.min_replies} are needed; {advice}",
            usable=frozenset(found),
            answered=True,
        )
    return Roomy(nodes=sorted(found[:size]), failures=tuple(failures), bytes_up=up, bytes_down=down)
