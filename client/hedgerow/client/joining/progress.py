"""What the user is told, in plain lines."""

from __future__ import annotations

from rich.console import Console

from hedgerow.units import bytes_text, clean_text, count_text, seconds_text

__all__ = ["ConsoleProgress", "Progress"]


class Progress:
    """Is told what happens; this one does nothing with it."""

    def starting(self, *, name: str, address: str, data: str, examples: int) -> None:
        """The device's own data was read, and it begins to connect."""

    def joined(self, *, run: str) -> None:
        """The coordinator welcomed it."""

    def training(self, round: int) -> None:
        """Work on a request began."""

    def note(self, text: str) -> None:
        """The client says something about its work, such as how it computes a network that it has just built."""

    def replied(self, round: int, *, size: int, seconds: float | None) -> None:
        """A reply of so many bytes went out; `seconds` of work, None where it was kept from before."""

    def failed(self, round: int, *, reason: str) -> None:
        """It could not do what was asked."""

    def abandoned(self, round: int) -> None:
        """The coordinator no longer waits for the reply."""

    def refused(self, round: int, *, reason: str) -> None:
        """A reply did not arrive as it was sent, again and again."""

    def lost(self, reason: str, *, seconds: float) -> None:
        """There is no connection; it is tried again after so many seconds."""

    def hint(self, text: str) -> None:
        """Something that the user may want to look into."""

    def finished(self, *, waits: bool) -> None:
        """The run is done; whether the device waits for the next one."""

    def stopped(self) -> None:
        """The process was asked to end, and does."""


class ConsoleProgress(Progress):
    """A line for each. Of connections that fail alike again and again, the first are told."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lost: tuple[str, float] | None = None

    def starting(self, *, name: str, address: str, data: str, examples: int) -> None:
        """See `Progress`."""
        self._line(f"{name}: {count_text(examples)} training samples of {data}; connecting to {address}")

    def joined(self, *, run: str) -> None:
        """See `Progress`."""
        self._lost = None
        self._line(f"joined the run {clean_text(run, 80)}; Ctrl-C leaves, and the same command comes back")

    def training(self, round: int) -> None:
        """See `Progress`."""
        self._line(f"round {round}: training")

    def note(self, text: str) -> None:
        """See `Progress`."""
        self._line(f"  {clean_text(text)}")

    def replied(self, round: int, *, size: int, seconds: float | None) -> None:
        """See `Progress`."""
        how = "with what was kept" if seconds is None else f"after {seconds_text(seconds)}"
        self._line(f"round {round}: replied with {bytes_text(size)} {how}")

    def failed(self, round: int, *, reason: str) -> None:
        """See `Progress`."""
        self._line(f"round {round}: failed: {clean_text(reason)}")

    def abandoned(self, round: int) -> None:
        """See `Progress`."""
        self._line(f"round {round}: the coordinator waits no longer; stopped")

    def refused(self, round: int, *, reason: str) -> None:
        """See `Progress`."""
        self._line(f"round {round}: the coordinator could not use the reply: {clean_text(reason)}")

    def lost(self, reason: str, *, seconds: float) -> None:
        """See `Progress`."""
        reason = clean_text(reason)
        before = self._lost
        if before is not None and before[0] == reason and seconds <= before[1]:
            return  # the wait grows no longer, and nothing is new
        self._lost = (reason, seconds)
        self._line(f"not connected: {reason}; trying again in {seconds:.2g} s")

    def hint(self, text: str) -> None:
        """See `Progress`."""
        self._line(text)

    def finished(self, *, waits: bool) -> None:
        """See `Progress`."""
        self._line("the run is finished; waiting for the next one" if waits else "the run is finished")

    def stopped(self) -> None:
        """See `Progress`."""
        self._line("stopped; the same command goes on from here")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
