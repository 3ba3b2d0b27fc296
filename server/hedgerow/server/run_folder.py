"""What a run leaves on disk, and how it is found again.

    runs/<digest of the experiment>/
        experiment.toml          the whole configuration; `hedgerow simulate experiment.toml` runs it again
        metrics.jsonl            a line a round (`hedgerow.telemetry.records`)
        checkpoint.safetensors   the state after the last round, replaced atomically
        clients.sqlite           what the clients of a simulation remember, until the run is done
        journal.sqlite           what a coordinator's open round has taken in, until the run is done
        versions/                the last versions that were sent, until the run is done
        paths.json               how a simulation's clients compute each layer, and what was measured for that
        run                      tells this run from others of the same experiment, for devices
        model.safetensors        the result (`hedgerow.artifact`)
        report.html              the result to look at

A round's line is written before its checkpoint. Opening a run drops lines that are newer than the checkpoint, so a run
killed at any moment goes on with the round after the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from pathlib import Path
from types import TracebackType

from hedgerow.config import Experiment
from hedgerow.errors import RunError
from hedgerow.files import write_atomically
from hedgerow.files.locks import FolderLock
from hedgerow.server.checkpoint import checkpoint_bytes, read_checkpoint
from hedgerow.server.history import FolderHistory
from hedgerow.server.state import RoundState
from hedgerow.telemetry import RoundRecord, read_records

__all__ = ["RunFolder"]


class RunFolder:
    """The folder of one experiment, locked while it is open.

    Raises:
        RunError: another process has it open, or it cannot be written.
    """

    def __init__(self, out: Path, experiment: Experiment) -> None:
        self.experiment = experiment
        self.path = out / experiment.digest()
        self._lock: FolderLock | None = None
        try:
            self._lock = FolderLock(self.path)
            # Of a process that was killed while it wrote: nobody else writes here.
            for leftover in (*self.path.glob(".*.new"), *self.path.glob("versions/.*.new")):
                leftover.unlink()
            write_atomically(self.path / "experiment.toml", experiment.toml())
        except BlockingIOError:
            raise RunError(f"{self.path}: another process runs this experiment; wait for it or end it") from None
        except RunError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise RunError(f"{self.path}: cannot be written: {error}") from None

    @property
    def checkpoint(self) -> Path:
        """The state after the last round."""
        return self.path / "checkpoint.safetensors"

    @property
    def metrics(self) -> Path:
        """A line a round."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """The result."""
        return self.path / "model.safetensors"

    @property
    def report(self) -> Path:
        """The result to look at."""
        return self.path / "report.html"

    @property
    def paths(self) -> Path:
        """How the clients compute each layer."""
        return self.path / "paths.json"

    @property
    def clients(self) -> Path:
        """What the clients remember."""
        return self.path / "clients.sqlite"

    @property
    def journal(self) -> Path:
        """What the open round has taken in."""
        return self.path / "journal.sqlite"

    @property
    def run_id(self) -> str:
        """The experiment's digest and 8 random hexadecimal digits, which last as long as the folder.

        Raises:
            RunError: the file that holds the digits is damaged, or cannot be written.
        """
        path = self.path / "run"
        if not path.exists():
            write_atomically(path, secrets.token_hex(4).encode())
        digits = path.read_bytes()
        if not re.fullmatch(rb"[0-9a-f]{8}", digits):
            raise RunError(f"{path}: damaged; delete it, and devices take this for a new run")
        return f"{self.experiment.digest()}-{digits.decode()}"

    def records(self) -> list[RoundRecord]:
        """What has been recorded so far.

        Raises:
            RunError: a line is damaged or from another version.
        """
        try:
            return read_records(self.metrics) if self.metrics.exists() else []
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"{self.metrics}: damaged or from another version ({reason}); delete {self.path} to start again"
            ) from None

    def load(self) -> RoundState | None:
        """The state to go on from, or None where nothing has been done; drops newer lines of `metrics.jsonl`.

        Raises:
            RunError: the checkpoint is damaged or from another version.
        """
        if not self.checkpoint.exists():
            self.metrics.unlink(missing_ok=True)
            return None
        state = read_checkpoint(self.checkpoint)
        lines = [r.model_dump_json() + "\n" for r in self.records() if r.round <= state.round]
        write_atomically(self.metrics, "".join(lines).encode())
        return state

    @property
    def history(self) -> FolderHistory:
        """The last versions that were sent."""
        return FolderHistory(self.path / "versions", most=self.experiment.wire.history)

    def remove_versions(self) -> None:
        """Takes the old versions away: nobody is sent anything any more."""
        shutil.rmtree(self.path / "versions", ignore_errors=True)

    def remove_journal(self) -> None:
        """Takes the journal away: nothing is open any more."""
        for leftover in self.path.glob(self.journal.name + "*"):
            leftover.unlink()

    def save(self, state: RoundState, record: RoundRecord) -> None:
        """Makes a round durable."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(record.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        write_atomically(self.checkpoint, checkpoint_bytes(state))

    def close(self) -> None:
        """Lets others open it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not (self.checkpoint.exists() or self.model.exists()):
            # It failed before there was anything to go on from: nothing half-written stays.
            shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()
        self.close()
