"""Who is told how a run goes: bars on a terminal, plain lines elsewhere, nobody by default."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hedgerow.telemetry import AdjustmentRecord, PlanRecord, RoundRecord, SelectionRecord
from hedgerow.telemetry.prometheus import RunMetrics, serve_metrics
from hedgerow.units import bytes_text, clean_text, finite, number_text, percent_text

__all__ = [
    "ManyObservers",
    "MetricsObserver",
    "Observer",
    "PlainObserver",
    "TerminalObserver",
    "adjustment_text",
    "current_observer",
    "observing",
    "plans_text",
    "round_text",
    "selection_text",
]

_NAME = 60  # letters of a name in a line
_NAMES = 4
"""Tensors that a line names; the report has all."""


class Observer:
    """Is told what happens; this one does nothing with it."""

    def started(self, *, folder: Path, description: str, rounds: int, done: int) -> None:
        """A run starts, or goes on after `done` rounds."""

    def pruning(self, step: int, steps: int) -> None:
        """The initial mask is being made."""

    def selecting(self, step: str, clients: int) -> None:
        """The requests of a step of the selection among masks went out, for `statistics` or for `losses`."""

    def planning(self, *, clients: int) -> None:
        """Devices were asked which part of the network they have memory for."""

    def planned(self, levels: Mapping[int, int | None]) -> None:
        """Which part of the network each node trains that said so; None of one that has too little memory."""

    def chosen(self, lines: Sequence[str]) -> None:
        """It was measured how the clients compute each layer; the first line is about the whole."""

    def asked(self, *, round: int, clients: int) -> None:
        """The requests of a round went out."""

    def replied(self) -> None:
        """One client replied, or failed."""

    def waiting(self, *, attached: int, needed: int) -> None:
        """So many devices are there, and the run waits for more."""

    def replaying(self, *, reason: str, seconds: float) -> None:
        """A round had too few usable replies; it is played again after that time."""

    def finished_round(self, record: RoundRecord, *, rounds: int) -> None:
        """A round is done and on disk."""

    def close(self) -> None:
        """Nothing more will come."""


class ManyObservers(Observer):
    """Passes everything on to several."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def started(self, *, folder: Path, description: str, rounds: int, done: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.started(folder=folder, description=description, rounds=rounds, done=done)

    def pruning(self, step: int, steps: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.pruning(step, steps)

    def selecting(self, step: str, clients: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.selecting(step, clients)

    def planning(self, *, clients: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.planning(clients=clients)

    def planned(self, levels: Mapping[int, int | None]) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.planned(levels)

    def chosen(self, lines: Sequence[str]) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.chosen(lines)

    def asked(self, *, round: int, clients: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.asked(round=round, clients=clients)

    def replied(self) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.replied()

    def waiting(self, *, attached: int, needed: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.waiting(attached=attached, needed=needed)

    def replaying(self, *, reason: str, seconds: float) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.replaying(reason=reason, seconds=seconds)

    def finished_round(self, record: RoundRecord, *, rounds: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.finished_round(record, rounds=rounds)

    def close(self) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.close()


class MetricsObserver(Observer):
    """Serves the run as Prometheus metrics on a port of the loopback address, as long as it lasts."""

    def __init__(self, *, port: int) -> None:
        self._metrics = RunMetrics()
        self._stop = serve_metrics(self._metrics, port=port)

    def finished_round(self, record: RoundRecord, *, rounds: int) -> None:
        """Takes in a round."""
        self._metrics.observe(record)

    def close(self) -> None:
        """Ends the service."""
        self._stop()


class PlainObserver(Observer):
    """A line for the start and for each evaluated round."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def started(self, *, folder: Path, description: str, rounds: int, done: int) -> None:
        """Says what runs and where."""
        self._line(f"{description}\n{'resuming after round ' + str(done) if done else 'writing to'} {folder}")

    def pruning(self, step: int, steps: int) -> None:
        """Says so once."""
        if step == 1:
            self._line(f"making the initial mask in {steps} steps, without data")

    def chosen(self, lines: Sequence[str]) -> None:
        """Says what is about the whole; the layers are in the report."""
        for line in lines[:1]:
            self._line(line)

    def waiting(self, *, attached: int, needed: int) -> None:
        """Says for how many devices it waits."""
        self._line(f"waiting for devices: {attached} of {needed} are there")

    def replaying(self, *, reason: str, seconds: float) -> None:
        """Says why a round is played again."""
        self._line(f"{reason}; playing the round again in {seconds:g} s")

    def finished_round(self, record: RoundRecord, *, rounds: int) -> None:
        """Says what the round gave, where it was evaluated, changed the mask, or a client failed."""
        if record.selection is not None:
            for failure in record.selection.failures:
                self._line(f"selection: {failure.client} failed: {failure.reason}")
            self._line(selection_text(record.selection))
        if record.plans is not None:
            for failure in record.plans.failures:
                self._line(f"memory: {failure.client} failed: {failure.reason}")
            self._line(plans_text(record.plans))
        for failure in record.failures:
            self._line(f"round {record.round}: {failure.client} failed: {failure.reason}")
        if record.accuracy is not None or record.adjustment is not None:
            self._line(round_text(record, rounds=rounds))

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class TerminalObserver(PlainObserver):
    """A progress bar under the lines."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._pruning: TaskID | None = None
        self._rounds: TaskID | None = None
        self._clients: TaskID | None = None

    def started(self, *, folder: Path, description: str, rounds: int, done: int) -> None:
        """Starts the bars."""
        super().started(folder=folder, description=description, rounds=rounds, done=done)
        self._progress.start()
        self._rounds = self._progress.add_task("rounds", total=rounds, completed=done)

    def pruning(self, step: int, steps: int) -> None:
        """Moves the bar of the initial mask."""
        if self._pruning is None:
            self._pruning = self._progress.add_task("initial mask", total=steps)
        self._progress.update(self._pruning, completed=step, visible=step < steps)

    def selecting(self, step: str, clients: int) -> None:
        """Starts the bar of a step of the selection."""
        self._await(f"{step} of the candidates", clients)

    def planning(self, *, clients: int) -> None:
        """Starts the bar of those that are asked for their memory."""
        self._await("memory of the clients", clients)

    def asked(self, *, round: int, clients: int) -> None:
        """Starts the cohort's bar."""
        self._await(f"clients of round {round}", clients)

    def replied(self) -> None:
        """Moves the cohort's bar."""
        if self._clients is not None:
            self._progress.advance(self._clients)

    def finished_round(self, record: RoundRecord, *, rounds: int) -> None:
        """Moves the run's bar."""
        super().finished_round(record, rounds=rounds)
        if self._rounds is not None:
            self._progress.update(self._rounds, completed=record.round)

    def close(self) -> None:
        """Takes the bars away."""
        self._progress.stop()

    def _await(self, text: str, clients: int) -> None:
        if self._clients is None:
            self._clients = self._progress.add_task("clients", total=clients)
        self._progress.reset(self._clients, total=clients, description=text)


def round_text(record: RoundRecord, *, rounds: int) -> str:
    """One line about a round."""
    accuracy = "" if record.accuracy is None else f"accuracy {percent_text(record.accuracy, decimals=2)}  "
    train = "" if record.train_loss is None else f"train loss {record.train_loss:.3f}  "
    traffic = f"up {bytes_text(record.all_bytes_up)}  down {bytes_text(record.all_bytes_down)}  "
    peak, held = record.measured.client_peak_bytes, record.measured.client_held_bytes
    memory = "" if held is None else f"client held {bytes_text(held)}  "
    memory = memory if peak is None else f"client peak {bytes_text(peak)}  "
    exchanged = "" if record.adjustment is None else f"{adjustment_text(record.adjustment)}  "
    place = f"round {record.round:>{len(str(rounds))}}/{rounds}  "
    return f"{place}{accuracy}{train}{traffic}{memory}{exchanged}{record.measured.seconds:.1f} s"


def selection_text(selection: SelectionRecord) -> str:
    """One line about how the mask was chosen."""
    candidates = selection.candidates
    winner = candidates[selection.winner]
    losses = [loss for candidate in candidates if (loss := finite(candidate.loss)) is not None]
    mean = number_text(math.fsum(losses) / len(losses) if losses else None, 3)
    statistics, answered = selection.replies
    return (
        f"selection   {len(candidates)} candidate{'s' * (len(candidates) != 1)}, {clean_text(winner.name, _NAME)} wins "
        f"with loss {number_text(winner.loss, 3)} (mean {mean}; {statistics} and {answered} devices)"
    )


def plans_text(plans: PlanRecord) -> str:
    """One line about what devices said of their memory.

    >>> plans_text(PlanRecord(levels={0: 2, 2: 1}, refused=1, least_bytes=9_000_000, bytes_up=1, bytes_down=1))
    'memory      enough for level 0: 2 devices, for level 2: 1 device; too little: 1 device, 9.0 MB would do'
    """
    said = ", ".join(f"for level {level}: {_devices(count)}" for level, count in plans.levels.items())
    text = f"memory      enough {said}" if said else "memory      enough for no level"
    if plans.refused:
        # Of those that lack some, what would do for the one that lacks least.
        text += f"; too little: {_devices(plans.refused)}, {bytes_text(plans.least_bytes)} would do"
    return text


def _devices(count: int) -> str:
    return f"{count:,} device{'s' * (count != 1)}"


def adjustment_text(adjustment: AdjustmentRecord) -> str:
    """What a round changed in the mask, in a few words.

    >>> moved = {"conv3.weight": 1200, "conv4.weight": 34}
    >>> adjustment_text(AdjustmentRecord(block=0, pruned=moved, grown=moved))
    'exchanged 1,234 weights in conv3, conv4'
    >>> adjustment_text(AdjustmentRecord(block=0, pruned=moved, grown={}))
    'pruned 1,234 weights in conv3, conv4'
    """
    done = "exchanged" if adjustment.balanced else "pruned"
    names = [clean_text(name.removesuffix(".weight"), _NAME) for name, count in adjustment.pruned.items() if count]
    if not names:
        return f"{done} no weights"
    shown = ", ".join(names[:_NAMES]) + (f" and {len(names) - _NAMES} more" if len(names) > _NAMES else "")
    return f"{done} {adjustment.weights:,} weight{'s' * (adjustment.weights != 1)} in {shown}"


_current: ContextVar[Observer | None] = ContextVar("hedgerow_observer", default=None)


def current_observer() -> Observer:
    """The observer of this context. A ServerApp takes no arguments, so it finds its observer here."""
    return _current.get() or Observer()


@contextlib.contextmanager
def observing(observer: Observer) -> Iterator[None]:
    """Makes `observer` the current one inside the block, and closes it."""
    token = _current.set(observer)
    try:
        yield
    finally:
        _current.reset(token)
        observer.close()
