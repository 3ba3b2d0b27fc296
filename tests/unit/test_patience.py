"""A round without enough usable replies is played again, as long as that can help."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from hedgerow.errors import RunError, TooFewRepliesError
from hedgerow.pruning import Mask
from hedgerow.server.journal import NoJournal
from hedgerow.server.patience import patiently
from hedgerow.server.progress import Observer
from hedgerow.server.rounds import Round
from hedgerow.server.state import RoundState

STATE = RoundState(
    round=4,
    mask=Mask({"w": torch.ones(1, 2, dtype=torch.bool)}),
    kept=np.zeros(2, dtype=np.float32),
    floats=np.zeros(0, dtype=np.float32),
)


class Heard(Observer):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def replaying(self, *, reason: str, seconds: float) -> None:
        assert reason == "too few"
        self.seconds.append(seconds)


class Kept(NoJournal):
    def __init__(self) -> None:
        self.retries: list[tuple[int, object]] = []

    def retry(self, round: int, *, keep: object) -> None:
        self.retries.append((round, keep))


def failing(times: int, *, answered: bool) -> Callable[[RoundState], Round]:
    plays: list[RoundState] = []

    def play(state: RoundState) -> Round:
        plays.append(state)
        if len(plays) <= times:
            raise TooFewRepliesError("too few", usable=frozenset({len(plays)}), answered=answered)
        return Round(state, None, [], 0.0, {}, {}, float(len(plays)))  # type: ignore[arg-type]  # nobody looks at the fold

    return play


def test_a_round_is_played_again_from_the_same_state_until_it_succeeds_with_pauses_that_grow() -> None:
    heard, kept, slept = Heard(), Kept(), list[float]()
    played = patiently(STATE, failing(8, answered=False), journal=kept, observer=heard, sleep=slept.append)
    assert (played.state.round, played.state.mask, played.state.kept is STATE.kept) == (STATE.round, STATE.mask, True)
    assert played.seconds == 9, "the ninth play"
    assert slept == heard.seconds == [1, 2, 4, 8, 16, 30, 30, 30]
    assert kept.retries == [(5, frozenset({n})) for n in range(1, 9)]


def test_who_was_not_usable_is_given_the_mask_again() -> None:
    seen: list[Mapping[int, int]] = []

    def play(state: RoundState) -> Round:
        seen.append(state.held)
        if len(seen) == 1:
            raise TooFewRepliesError("too few", usable=frozenset({7}), answered=True)
        return Round(state, None, [], 0.0, {}, {}, 0.0)  # type: ignore[arg-type]  # nobody looks at the fold

    state = replace(STATE, held={7: 4, 8: 3})
    patiently(state, play, journal=NoJournal(), observer=Observer(), sleep=lambda seconds: None)
    assert seen == [{7: 4, 8: 3}, {7: 4}]
    assert state.held == {7: 4, 8: 3}


def test_four_plays_in_which_devices_answered_may_come_to_nothing_but_not_five() -> None:
    slept: list[float] = []
    patiently(STATE, failing(4, answered=True), journal=NoJournal(), observer=Observer(), sleep=slept.append)
    assert slept == [1, 2, 4, 8]
    with pytest.raises(TooFewRepliesError):
        patiently(STATE, failing(5, answered=True), journal=NoJournal(), observer=Observer(), sleep=slept.append)
    assert slept == [1, 2, 4, 8] * 2


def test_other_errors_are_not_waited_for() -> None:
    def broken(state: RoundState) -> Round:
        raise RunError("the disk is full")

    slept: list[float] = []
    with pytest.raises(RunError, match="disk"):
        patiently(STATE, broken, journal=NoJournal(), observer=Observer(), sleep=slept.append)
    assert slept == []
