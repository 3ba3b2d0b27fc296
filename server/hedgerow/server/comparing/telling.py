"""Who is told how a comparison goes: a line a run, and a bar below on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from hedgerow.server.comparing.figures import RunFigures, run_figures
from hedgerow.server.comparing.folder import Found
from hedgerow.server.comparing.plan import Run
from hedgerow.units import bytes_text, percent_text, seconds_text

__all__ = ["Teller"]

_LOOK_SECONDS = 2.0
"""Between two looks at how many rounds there are."""


class Teller:
    """Says what is worth knowing while runs go on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._rounds: TaskID | None = None
        self._looked = 0.0
        self._count = 0

    def started(self, found: Sequence[Found], *, jobs: int, remaining: float | None) -> None:
        """Says what there is to do."""
        done, begun = (sum(one.stage == stage for one in found) for stage in ("done", "begun"))
        parts = [_counted(len(found), "run")]
        parts += [f"{done} done before"] * (done > 0) + [f"{begun} go on where they stopped"] * (begun > 1)
        parts += ["1 goes on where it stopped"] * (begun == 1)
        if done < len(found):
            parts += [f"{min(jobs, len(found) - done)} at once", *_remaining(remaining)]
        self._line(", ".join(parts))
        self._count = done
        self._progress.start()
        total = sum(one.run.experiment.rounds for one in found)
        played = sum(one.records[-1].round for one in found if one.records)
        self._rounds = self._progress.add_task("rounds of all runs", total=total, completed=played)

    def pulse(self, rounds: Callable[[], int]) -> None:
        """Moves the bar, where there is one."""
        if self._rounds is None or self._progress.disable or time.monotonic() < self._looked + _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self._progress.update(self._rounds, completed=rounds())

    def ended(self, run: Run, found: Sequence[Found], *, remaining: float | None) -> None:
        """Says what a run came to, and how long the others still take."""
        self._count += 1
        (own,) = (one for one in found if one.run == run)
        width = len(str(len(found)))
        text = f"{self._count:>{width}}/{len(found)}  {run.name}: "
        if own.stage == "done":
            figures = run_figures(own.records)
            text += (
                f"accuracy {percent_text(figures.accuracy, decimals=2)}, {bytes_text(figures.bytes_both)}, "
                f"client {_memory(figures)}, {seconds_text(figures.seconds)}"
            )
        else:
            text += f"failed: {own.reason or 'it left no result'}"
        left = _remaining(remaining) if any(one.stage in ("begun", "waiting") for one in found) else []
        self._line("; ".join([text, *left]))

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.stop()

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _memory(figures: RunFigures) -> str:
    if figures.client_peak_bytes is None and figures.client_held_bytes is not None:
        return f"held {bytes_text(figures.client_held_bytes)}"
    return f"peak {bytes_text(figures.client_peak_bytes)}"


def _remaining(seconds: float | None) -> list[str]:
    return [] if seconds is None else [f"about {seconds_text(seconds)} left"]


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
