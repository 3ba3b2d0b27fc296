"""What the coordinator does around a round."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from hedgerow.errors import TooFewRepliesError
from hedgerow.pruning import Mask
from hedgerow.server.coordinator import play_until_enough
from hedgerow.server.journal import NoJournal
from hedgerow.server.progress import Observer
from hedgerow.server.rounds import Round
from hedgerow.server.state import RoundState

STATE = RoundState(
    round=4,
    mask=Mask({"w": torch.ones(1, 2, dtype=torch.bool)}),
    kept=np.zeros(2, dtype=np.float32),
    floats=np.zeros(0, dtype=np.float32),
    held={7: 4, 8: 3},
)


class Kept(NoJournal):
    def __init__(self) -> None:
        self.retries: list[tuple[int, object]] = []

    def retry(self, round: int, *, keep: object) -> None:
        self.retries.append((round, keep))


def test_who_was_not_usable_is_given_the_mask_again() -> None:
    seen: list[Mapping[int, int]] = []

    def play(state: RoundState) -> Round:
        seen.append(state.held)
        if len(seen) == 1:
            raise TooFewRepliesError("too few", usable=frozenset({7}), answered=True)
        return Round(replace(state, round=5), None, [], 0.0, {}, {}, None, 0.0)  # type: ignore[arg-type]  # nobody looks at the fold

    journal = Kept()
    played = play_until_enough(play, STATE, journal=journal, observer=Observer())
    assert seen == [{7: 4, 8: 3}, {7: 4}]
    assert STATE.held == {7: 4, 8: 3}
    assert journal.retries == [(5, frozenset({7}))]
    assert played.state.round == 5
