"""What a comparison leaves on disk.

    comparisons/<name of the experiment's file>/
        comparison.html           the table and the plots, to look at
        comparison.csv            a row a line: means and spreads over the seeds
        runs.csv                  a row a run
        comparison.json           all figures, as numbers
        runs/<line>/seed-<seed>/
            <digest>/             the run's folder, as `hedgerow simulate` makes it
            <digest>.toml         its whole configuration
            <digest>.log          what it said

A run is found again by the digest of its experiment, so a changed setting never meets the runs of the old one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from hedgerow.errors import RunError
from hedgerow.files import write_atomically
from hedgerow.files.locks import FolderLock
from hedgerow.server.comparing.plan import Run
from hedgerow.telemetry import RoundRecord, read_records
from hedgerow.units import clean_text

__all__ = ["ComparisonFolder", "Found", "Stage"]

Stage = Literal["done", "begun", "waiting", "failed"]
_TAIL = 4096
"""Bytes at the end of a log in which the reason of a failure is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How a run stands.

    Attributes:
        run: which.
        stage: `begun` where it stopped on the way or is running, `failed` where it was tried just now and failed.
        records: the rounds so far.
        reason: of a failure, one sentence.
    """

    run: Run
    stage: Stage
    records: tuple[RoundRecord, ...] = ()
    reason: str = ""


class ComparisonFolder:
    """The folder of one comparison, locked while it is open.

    Raises:
        RunError: another process has it open, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._lock = FolderLock(path)
        except BlockingIOError:
            raise RunError(
                f"{path}: another process is at this comparison, or its runs are just ending; wait for it or end it"
            ) from None
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error}") from None

    @property
    def lock(self) -> int:
        """The descriptor of the lock. A run that has it too keeps the folder locked until it has ended."""
        return self._lock.descriptor

    def close(self) -> None:
        """Lets others open it."""
        self._lock.close()

    def __enter__(self) -> ComparisonFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def place(self, run: Run) -> Path:
        """What a run has as the folder of all runs."""
        return self.path / "runs" / run.line / f"seed-{run.seed}"

    def run_folder(self, run: Run) -> Path:
        """Where it leaves its files."""
        return self.place(run) / run.experiment.digest()

    def log(self, run: Run) -> Path:
        """What it says goes here."""
        return self.place(run) / f"{run.experiment.digest()}.log"

    def write_settings(self, run: Run) -> Path:
        """Writes the whole configuration of a run; `hedgerow simulate` takes the file.

        Raises:
            RunError: it cannot be written.
        """
        path = self.place(run) / f"{run.experiment.digest()}.toml"
        write_atomically(path, run.experiment.toml())
        return path

    def found(self, run: Run, *, reason: str | None = None) -> Found:
        """How a run stands on disk.

        Args:
            run: which.
            reason: why it failed just now; None where it did not.
        """
        folder = self.run_folder(run)
        metrics = folder / "metrics.jsonl"
        try:
            records = tuple(read_records(metrics)) if metrics.exists() else ()
        except (OSError, ValueError):
            records = ()  # started again, the run says itself what is wrong with the file
        whole = bool(records) and records[-1].round == run.experiment.rounds
        delivered = (folder / "model.safetensors").exists() and (folder / "report.html").exists()
        if whole and delivered:
            return Found(run=run, stage="done", records=records)
        if reason is not None:
            return Found(run=run, stage="failed", records=records, reason=reason)
        return Found(run=run, stage="begun" if records else "waiting", records=records)

    def rounds_done(self, run: Run) -> int:
        """Rounds of a run that are on disk, counted without reading them."""
        try:
            return max(0, (self.run_folder(run) / "metrics.jsonl").read_bytes().count(b"\n") - 1)
        except OSError:
            return 0

    def failure(self, run: Run, *, code: int, since: int) -> str:
        """Why a run ended with an exit code other than 0, in one sentence.

        Args:
            run: which.
            code: its exit code; -N of signal N.
            since: how long its log was when it started, in bytes.
        """
        try:
            with self.log(run).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(since, size - _TAIL))
                lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        said = [line.removeprefix("hedgerow: ") for line in lines if line.startswith("hedgerow: ")]
        if said and code > 0:
            return clean_text(said[-1])
        how = f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
        return clean_text(f"{how}{f' after {lines[-1]!r}' if lines else ''}; see {self.log(run)}")
