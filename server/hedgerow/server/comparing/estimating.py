"""How long a comparison still takes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from hedgerow.server.comparing.folder import Found

__all__ = ["remaining_seconds"]


def remaining_seconds(found: Iterable[Found], *, jobs: int) -> float | None:
    """Wall-clock seconds that the runs that are neither done nor failed still take, `jobs` at once; None where no round
    was played that says how long one takes.

    A run takes as long a round as it did so far; one that did not begin as those of its line, or else as all do.
    """
    found = list(found)
    paces: dict[str, list[float]] = {}
    for one in found:
        if (pace := _pace(one)) is not None:
            paces.setdefault(one.run.line, []).append(pace)
    if not paces:
        return None
    usual = statistics.mean(pace for each in paces.values() for pace in each)
    left = []
    for one in found:
        if one.stage in ("begun", "waiting"):
            rounds = one.run.experiment.rounds - (one.records[-1].round if one.records else 0)
            pace = _pace(one)
            if pace is None:
                pace = statistics.mean(paces.get(one.run.line, [usual]))
            left.append(rounds * pace)
    # However many there are at once, a run is not divided among them.
    return max(math.fsum(left) / jobs, max(left, default=0.0))


def _pace(found: Found) -> float | None:
    played = [record.measured.seconds for record in found.records if record.round > 0]
    return math.fsum(played) / len(played) if played else None
