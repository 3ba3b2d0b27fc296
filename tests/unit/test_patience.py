"""What too few devices took part in is played again, as long as that can help."""

from collections.abc import Callable

import pytest

from hedgerow.errors import RunError, TooFewRepliesError
from hedgerow.server.patience import patiently
from hedgerow.server.progress import Observer


class Heard(Observer):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def replaying(self, *, reason: str, seconds: float) -> None:
        assert reason == "too few"
        self.seconds.append(seconds)


def failing(times: int, *, answered: bool) -> Callable[[], int]:
    """Succeeds after so many failures, and says how often it was played."""
    plays = 0

    def play() -> int:
        nonlocal plays
        plays += 1
        if plays <= times:
            raise TooFewRepliesError("too few", usable=frozenset({plays}), answered=answered)
        return plays

    return play


def ignored(error: TooFewRepliesError) -> None:
    pass


def test_it_is_played_again_until_it_succeeds_with_pauses_that_grow() -> None:
    heard, slept, told = Heard(), list[float](), list[frozenset[int]]()
    play = failing(8, answered=False)
    played = patiently(play, again=lambda error: told.append(error.usable), observer=heard, sleep=slept.append)
    assert played == 9
    assert slept == heard.seconds == [1, 2, 4, 8, 16, 30, 30, 30]
    assert told == [frozenset({n}) for n in range(1, 9)]


def test_four_plays_in_which_devices_answered_may_come_to_nothing_but_not_five() -> None:
    slept: list[float] = []
    patiently(failing(4, answered=True), again=ignored, observer=Observer(), sleep=slept.append)
    assert slept == [1, 2, 4, 8]
    with pytest.raises(TooFewRepliesError):
        patiently(failing(5, answered=True), again=ignored, observer=Observer(), sleep=slept.append)
    assert slept == [1, 2, 4, 8] * 2


def test_other_errors_are_not_waited_for() -> None:
    def broken() -> int:
        raise RunError("the disk is full")

    slept: list[float] = []
    with pytest.raises(RunError, match="disk"):
        patiently(broken, again=ignored, observer=Observer(), sleep=slept.append)
    assert slept == []
