"""What tests wait for, with a deadline; and a port to listen on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from benchmarks.processes import free_port

__all__ = ["PATIENCE", "free_port", "until"]

PATIENCE = 60.0
"""Seconds after which a test gives up."""
T = TypeVar("T")


def until(look: Callable[[], T], what: str = "it to happen", *, seconds: float = PATIENCE) -> T:
    """What `look` gives as soon as that is true; `what` is it in words."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.01)
    return found
