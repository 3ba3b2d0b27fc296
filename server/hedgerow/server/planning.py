"""Asking devices, before their first round, which part of the network they have memory for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hedgerow.codec import Sections, decode_payload
from hedgerow.config import Experiment
from hedgerow.exchange import Exchange, NodePlan, plan_request, read_plan
from hedgerow.server.fleet import Fleet, Request
from hedgerow.server.fold import Fold
from hedgerow.server.levels import planned
from hedgerow.server.looking import Said, look
from hedgerow.server.progress import Observer
from hedgerow.server.state import RoundState
from hedgerow.telemetry import PlanRecord

__all__ = ["Planner", "ask_plans"]

_VALUES = 4
"""That a reply holds."""


@dataclass(slots=True)
class Planner:
    """What nodes have said since the coordinator started, so that none is asked twice.

    Attributes:
        said: by each node that answered. A state that a round came to has the levels too, which outlasts the
            coordinator; who has too little memory is in no state, and may have more when it is asked anew.
        again: nodes that took more memory than they had, and are to plan anew.
    """

    said: dict[int, NodePlan] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)

    @property
    def refused(self) -> list[int]:
        """The nodes that said that they have too little memory."""
        return [node for node, plan in self.said.items() if plan.level is None]

    def able(self, nodes: Sequence[int]) -> list[int]:
        """The nodes that did not say that they have too little memory."""
        return [node for node in nodes if node not in self.said or self.said[node].level is not None]

    def plan(
        self,
        state: RoundState,
        cohort: Sequence[int],
        *,
        experiment: Experiment,
        exchange: Exchange,
        fleet: Fleet,
        observer: Observer,
    ) -> tuple[RoundState, PlanRecord | None]:
        """The state with the levels of those nodes of a cohort that have one, and what it took to learn them.

        Who does not answer, or not usably, has none, and is asked again when a cohort has it the next time.

        Args:
            state: which the round starts from.
            cohort: who is to be asked in it.
            experiment: the settings.
            exchange: knows the network.
            fleet: whom to ask.
            observer: is told how it goes.
        """
        known = {*state.plans, *self.said} - self.again
        unknown = [node for node in cohort if node not in known]
        record = None
        if unknown:
            record = self._ask(state, unknown, experiment=experiment, exchange=exchange, fleet=fleet, observer=observer)
        # What was said before is in the state already, or was asked anew; then who does not answer keeps its level.
        found = {
            node: self.said[node].level
            for node in cohort
            if node in self.said and (node not in state.plans or node in unknown)
        }
        return planned(state, {node: level for node, level in found.items() if level is not None}), record

    def heard(self, fold: Fold) -> None:
        """Notes who took more memory in a round than it had, or failed for want of it, and so is to plan anew.

        Such a device leaves more to spare in its next plan. What it has is known of those only who said it since the
        coordinator started; others say so when their memory does not do.
        """
        over = {node for node, held in fold.peaks.items() if node in self.said and held > self.said[node].budget}
        self.again |= over | fold.short

    def _ask(
        self,
        state: RoundState,
        nodes: Sequence[int],
        *,
        experiment: Experiment,
        exchange: Exchange,
        fleet: Fleet,
        observer: Observer,
    ) -> PlanRecord:
        levels = [state.part(level).mask.layer_kept() for level in range(state.levels)]
        found = ask_plans(
            nodes,
            levels,
            number=state.round + 1,
            experiment=experiment,
            exchange=exchange,
            fleet=fleet,
            observer=observer,
        )
        self.said.update(found.values)
        self.again.difference_update(found.values)
        fit = [plan for plan in found.values.values() if plan.level is not None]
        chosen = Counter(plan.level for plan in fit if plan.level is not None)
        refused = [plan for plan in found.values.values() if plan.level is None]
        return PlanRecord(
            levels=dict(sorted(chosen.items())),
            refused=len(refused),
            least_bytes=min((plan.least for plan in refused), default=None),
            budgets={level: min(plan.budget for plan in fit if plan.level == level) for level in sorted(chosen)},
            predicted={level: max(plan.predicted for plan in fit if plan.level == level) for level in sorted(chosen)},
            failures=tuple(found.failures),
            bytes_up=found.bytes_up,
            bytes_down=found.bytes_down,
        )


def ask_plans(
    nodes: Sequence[int],
    levels: Sequence[Mapping[str, int]],
    *,
    number: int,
    experiment: Experiment,
    exchange: Exchange,
    fleet: Fleet,
    observer: Observer,
) -> Said[NodePlan]:
    """What nodes say that they have memory for; who does not answer is only missing.

    Args:
        nodes: who is asked.
        levels: to choose from, each by the number of kept weights of each prunable tensor.
        number: of the exchange.
        experiment: the settings.
        exchange: knows the network.
        fleet: whom to ask.
        observer: is told how it goes.
    """
    payload = plan_request(
        bytes.fromhex(experiment.digest()), number, architecture=exchange.architecture, levels=levels
    )

    def plan_in(sections: Sections) -> NodePlan:
        return read_plan(sections, levels=len(levels))

    observer.planning(clients=len(nodes))
    return look(
        [Request(node, payload) for node in nodes],
        number=number,
        header=decode_payload(payload, limit=len(payload))[0],
        values=_VALUES,
        read=plan_in,
        experiment=experiment,
        fleet=fleet,
        observer=observer,
        sections=1,
        quorum=0,
    )
