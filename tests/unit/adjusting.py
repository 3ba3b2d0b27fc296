"""Rounds that change the mask, of a small network and of real devices: settings, fleets, and a kill on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from hedgerow.assembly import mask_of
from hedgerow.client.answer import Workshop
from hedgerow.codec import decode_payload, encode_payload
from hedgerow.config import Experiment
from hedgerow.exchange import growth_section
from hedgerow.pruning import Mask
from hedgerow.server.bench import Bench
from hedgerow.server.cohort import cohort_of
from hedgerow.server.fleet import Request
from hedgerow.server.history import History
from hedgerow.server.journal import SqliteJournal
from hedgerow.server.progress import Observer
from hedgerow.server.rounds import Round, play_round
from hedgerow.server.state import RoundState
from tests.device_fleet import Devices
from tests.unit.test_answer import experiment_with as real_experiment_with
from tests.unit.test_rounds import EVERYONE, InMemoryFleet, KilledError, experiment_with, killed_after, same

LIMIT = 10**7
ADJUSTMENT = {"every": 1, "until": 1, "rate": 1.0}
"""In round 1 half of each tensor, rate/2 · (1 + cos(π/2)): 2 of the 4 weights of `a`; of `b` nothing is pruned."""
WEIGHTS = experiment_with(others={"representation": "weights", "adjustment": ADJUSTMENT})
SIGNS = experiment_with(others={"adjustment": ADJUSTMENT})
COHORT = cohort_of(WEIGHTS, sorted(EVERYONE), round=1)
KEPT = np.array([0.5, -0.125, 0.25, -0.0625, 1, -1, 1], dtype=np.float32)
"""Of `a` at positions 0, 3, 6 and 9."""

# 100, 101, 103, 104 and 105 have 1, 2, 4, 5 and 1 samples.
GRADIENTS: dict[int, dict[int, float]] = {
    node: {1: -12.0, 2: 1.0} if node == 100 else {2: 1.0, 5: -2.0} for node in COHORT
}
"""Means of -12/13 at 1, of 1 at 2 and of -24/13 at 5: who says nothing counts as 0."""


@dataclass
class Growing(InMemoryFleet):
    """Says these gradients of `a` too, where they are asked for, and whoever they are asked of."""

    gradients: Mapping[int, Mapping[int, float]] = field(default_factory=lambda: GRADIENTS)
    silent: frozenset[int] = frozenset()
    experiment: Experiment = WEIGHTS

    def _answer(self, request: Request) -> bytes:
        header, _ = decode_payload(request.payload, limit=LIMIT)
        payload = super()._answer(request)
        if not header.growth or request.node in self.silent:
            return payload
        reply, sections = decode_payload(payload, limit=LIMIT)
        own = sorted(self.gradients[request.node].items())
        found = {"a.weight": (np.array([p for p, _ in own], dtype=np.int64), np.array([v for _, v in own], np.float32))}
        said = growth_section(found, mask=self.mask, growth=header.growth, wire=self.experiment.wire)
        return encode_payload(reply, [*sections.values(), said])


def kept_positions(mask: Mask, name: str = "a.weight") -> list[int]:
    return np.flatnonzero(mask[name].numpy().reshape(-1)).tolist()


class Run:
    """Rounds of real devices, of which every second adjusts the mask."""

    def __init__(self, representation: str, **changes: object) -> None:
        settings: dict[str, Any] = {
            "representation": representation,
            "training": {"kernels": "dense"},
            "fleet": {"clients": 30, "cohort": 3},
            "pruning": {"saliency": "random", "density": 0.05},
            "adjustment": {"every": 2, "until": 6, "blocks": 2},
            "wire": {"down": "bf16"},
        }
        self.experiment = real_experiment_with(**{**settings, **changes})
        self.bench, self.workshop = Bench.of(self.experiment), Workshop(self.experiment)

    def first(self) -> RoundState:
        return self.bench.start(mask_of(self.experiment, self.bench.initial, self.bench.dataset.input_shape))

    def play(self, state: RoundState, devices: Devices, *, history: History | None = None) -> Round:
        return play_round(
            state,
            experiment=self.experiment,
            exchange=self.bench.exchange,
            fleet=devices,
            observer=Observer(),
            history=history,
        )


class Adjusted(Protocol):
    """Plays the round that adjusts, with a fleet of its kind."""

    def __call__(self, fleet: Any = None, *, journal: SqliteJournal | None = None) -> Round: ...


def goes_on_where_it_was_killed(
    adjusted: Adjusted, fleet_with: Callable[..., InMemoryFleet], *, count: int, folder: Path
) -> None:
    """Kills the round after `count` replies, of 5, or after its end, and expects that it ends as an undisturbed one."""
    undisturbed = adjusted()
    with SqliteJournal(folder / "journal.sqlite") as journal:
        if count < 5:
            with pytest.raises(KilledError):
                adjusted(fleet_with(before_reply=killed_after(count)), journal=journal)
        else:
            adjusted(journal=journal)
        fleet = fleet_with(order=lambda requests: requests[::-1])
        again = adjusted(fleet, journal=journal)
    assert sorted(fleet.asked) == COHORT[count:]
    assert same(again, undisturbed)
    assert again.state.mask.digest == undisturbed.state.mask.digest
    assert (again.state.since, again.adjustment) == (undisturbed.state.since, undisturbed.adjustment)
