"""What people are told while a run waits for its devices."""

import io

import pytest
from rich.console import Console

from hedgerow.server.progress import ManyObservers, Observer, PlainObserver, TerminalObserver


@pytest.mark.parametrize("kind", [PlainObserver, TerminalObserver])
def test_waiting_and_playing_again_are_told_in_a_line_each(kind: type[PlainObserver]) -> None:
    written = io.StringIO()
    observer: Observer = ManyObservers(kind(Console(file=written, width=40)), Observer())
    observer.chosen(["native kernels compute 5 of 6 layers", "conv1 stays dense"])
    observer.chosen([])
    observer.waiting(attached=2, needed=4)
    observer.replaying(reason="round 3: 1 of 4 clients gave a usable reply [and more]", seconds=8)
    assert written.getvalue().splitlines() == [
        "native kernels compute 5 of 6 layers",
        "waiting for devices: 2 of 4 are there",
        "round 3: 1 of 4 clients gave a usable reply [and more]; playing the round again in 8 s",
    ]
