"""What runs come to: figures of one run, and of a line over its seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from hedgerow.server.comparing.folder import Found
from hedgerow.server.comparing.pareto import beaten_by
from hedgerow.server.comparing.plan import Plan
from hedgerow.telemetry import RoundRecord
from hedgerow.units import finite

__all__ = ["AXES", "INSTEAD", "LineFigures", "RunFigures", "Spread", "line_figures", "run_figures"]

AXES = ("accuracy", "bytes_both", "client_peak_bytes", "client_seconds")
"""Figures in which lines are better or worse: of the first more is better, of the others less."""
INSTEAD: Mapping[str, str] = {"client_peak_bytes": "client_held_bytes"}
"""What an axis is where lines have nothing on it: devices that plan for their memory measure what they hold only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """What one run came to. None: not measured on this system, or not evaluated."""

    accuracy: float | None
    """Fraction of the test samples, after the last round."""
    best_accuracy: float | None
    """In the best round that was evaluated."""
    best_round: int | None
    """Which that was; the first of equals."""
    loss: float | None
    """Mean cross-entropy on the test samples, after the last round, in nats."""
    rounds: int
    kept: int
    """Kept weights after the last round."""
    density: float
    bytes_up: int
    """All messages from clients, as encoded, with all that was asked beside the rounds."""
    bytes_down: int
    bytes_both: int
    client_peak_bytes: int | None
    """Largest measured peak of what torch held for one client's training."""
    client_held_bytes: int | None
    """Largest measured peak of a client's process while it answered, beyond what it held before its first request."""
    client_seconds: float
    """Seconds that all clients trained, added up over the run."""
    reply_seconds: float | None
    """Mean seconds that one client trained in a round."""
    seconds: float
    """Wall-clock seconds of all rounds, evaluation included."""
    failures: int
    """Clients that were asked and did not deliver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure over several seeds."""

    mean: float
    deviation: float | None
    """The sample's standard deviation; None of a single value."""
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None of no value.

        >>> Spread.of([1.0, 3.0, 5.0])
        Spread(mean=3.0, deviation=2.0, count=3)
        """
        values = list(values)
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=math.fsum(values) / len(values), deviation=deviation, count=len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFigures:
    """What a line came to, over those of its seeds that are done.

    Attributes:
        name: of the line.
        runs: figures by seed.
        over: each figure of `RunFigures` over the seeds; those are missing that no run has.
        points: by how many points of accuracy the line differs from the first one, over the seeds that both have.
        fewer: how many times fewer bytes (`bytes_both`), memory (`client_peak_bytes`, `client_held_bytes`) and seconds
            (`client_seconds`) than the first line, means over the same seeds.
        beaten_by: lines that are at least as good on each of `AXES` and better on one. What all lines have instead of
            one counts as the axis; two kinds of memory are not compared.
    """

    name: str
    runs: Mapping[int, RunFigures]
    over: Mapping[str, Spread]
    points: Spread | None = None
    fewer: Mapping[str, float]
    beaten_by: tuple[str, ...] = ()

    def mean(self, figure: str) -> float | None:
        """The mean of a figure; None where no run has it."""
        found = self.over.get(figure)
        return None if found is None else found.mean


def run_figures(records: Sequence[RoundRecord]) -> RunFigures:
    """What a run's records come to; at least one."""
    last = records[-1]
    evaluated = [(r.round, a) for r in records if (a := finite(r.accuracy)) is not None]
    best = max(evaluated, key=lambda pair: pair[1], default=None)
    up, down = sum(r.all_bytes_up for r in records), sum(r.all_bytes_down for r in records)
    trained, replies = math.fsum(r.measured.client_seconds for r in records), sum(r.replies for r in records)
    beside = [part for r in records for part in (r.selection, r.plans) if part is not None]
    return RunFigures(
        accuracy=finite(last.accuracy),
        best_accuracy=None if best is None else best[1],
        best_round=None if best is None else best[0],
        loss=finite(last.loss),
        rounds=last.round,
        kept=last.kept,
        density=last.density,
        bytes_up=up,
        bytes_down=down,
        bytes_both=up + down,
        client_peak_bytes=max((p for r in records if (p := r.measured.client_peak_bytes) is not None), default=None),
        client_held_bytes=max((h for r in records if (h := r.measured.client_held_bytes) is not None), default=None),
        client_seconds=trained,
        reply_seconds=trained / replies if replies else None,
        seconds=math.fsum(r.measured.seconds for r in records),
        failures=sum(len(r.failures) for r in records) + sum(len(part.failures) for part in beside),
    )


def line_figures(plan: Plan, found: Iterable[Found]) -> list[LineFigures]:
    """What each line came to, in the plan's order; of runs that are done."""
    done: dict[str, dict[int, RunFigures]] = {line.name: {} for line in plan.lines}
    for one in found:
        if one.stage == "done":
            done[one.run.line][one.run.seed] = run_figures(one.records)
    first = done[plan.lines[0].name]
    over = {name: _over(runs.values()) for name, runs in done.items()}
    axes = [_shared(axis, [over[name] for name, runs in done.items() if runs]) for axis in AXES]
    beaten = beaten_by(
        {name: [_signed(axis, over[name].get(axis)) for axis in axes] for name, runs in done.items() if runs}
    )
    costs = (*AXES[1:], *INSTEAD.values())
    return [
        LineFigures(
            name=name,
            runs=runs,
            over=over[name],
            points=_points(runs, first),
            fewer={axis: factor for axis in costs if (factor := _fewer(axis, runs, first)) is not None},
            beaten_by=beaten.get(name, ()),
        )
        for name, runs in done.items()
    ]


def _over(runs: Iterable[RunFigures]) -> dict[str, Spread]:
    figures = [asdict(run) for run in runs]
    names = figures[0] if figures else {}
    spreads = {name: Spread.of(f[name] for f in figures if f[name] is not None) for name in names}
    return {name: spread for name, spread in spreads.items() if spread is not None}


def _shared(axis: str, lines: Sequence[Mapping[str, Spread]]) -> str:
    """The axis, or what stands for it where all lines have that and one lacks the axis."""
    instead = INSTEAD.get(axis)
    if instead is None or all(axis in line for line in lines):
        return axis
    return instead if all(instead in line for line in lines) else axis


def _signed(axis: str, spread: Spread | None) -> float | None:
    if spread is None:
        return None
    return spread.mean if axis == AXES[0] else -spread.mean


def _points(runs: Mapping[int, RunFigures], first: Mapping[int, RunFigures]) -> Spread | None:
    if runs is first:
        return None
    pairs = [(runs[seed].accuracy, first[seed].accuracy) for seed in sorted(runs.keys() & first.keys())]
    return Spread.of(100 * (own - other) for own, other in pairs if own is not None and other is not None)


def _fewer(axis: str, runs: Mapping[int, RunFigures], first: Mapping[int, RunFigures]) -> float | None:
    pairs = [(getattr(runs[seed], axis), getattr(first[seed], axis)) for seed in runs.keys() & first.keys()]
    known = [(own, other) for own, other in pairs if own and other]
    if runs is first or not known:
        return None
    return math.fsum(other for _, other in known) / math.fsum(own for own, _ in known)
