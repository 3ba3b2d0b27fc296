"""What `hedgerow watch` shows: a panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hedgerow.server.control.board import state_text
from hedgerow.server.control.views import status_lines
from hedgerow.units import clean_text
from hedgerow.v1.fleet_pb2 import Event, Status

__all__ = ["LiveScreen", "PlainScreen"]

_LAST_EVENTS = 8


class PlainScreen:
    """A line for each thing that happens."""

    def show(self, event: Event) -> None:
        """An event came; one without a text only says how the run stands."""
        if event.text:
            self._line(event.time, event.text)

    def lost(self, reason: str) -> None:
        """The coordinator went away, and is tried again."""
        self._line(time.time(), f"lost the coordinator, trying again: {reason}")

    def _line(self, when: float, text: str) -> None:
        typer.echo(_dated(when, text))

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class LiveScreen(PlainScreen):
    """A panel that is drawn again in place: how far the run is, its devices, and what happened last."""

    def __init__(self, console: Console) -> None:
        self._status = Status()
        self._lines: tuple[str, ...] = ()
        self._live = Live(console=console, get_renderable=self._panel, refresh_per_second=4)

    def show(self, event: Event) -> None:
        """Takes in an event."""
        self._status = event.status
        super().show(event)

    def _line(self, when: float, text: str) -> None:
        # A tuple, because another thread draws it.
        self._lines = (*self._lines, _dated(when, text))[-_LAST_EVENTS:]

    def _panel(self) -> RenderableType:
        status = self._status
        title, *facts = status_lines(status)
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        done = status.round + status.replied / max(status.asked, 1)
        bar.add_row(
            state_text(status.state),
            ProgressBar(total=max(status.rounds, 1), completed=done),
            f"{status.round}/{status.rounds}",
        )
        last = [Text(line, overflow="ellipsis", no_wrap=True) for line in self._lines]
        return Panel(Group(bar, *map(Text, facts), Text(), *last), title=Text(title), title_align="left")

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def _dated(when: float, text: str) -> str:
    try:
        clock = time.strftime("%H:%M:%S", time.localtime(when))
    except (OverflowError, ValueError, OSError):
        clock = "--:--:--"
    return f"{clock}  {clean_text(text)}"
