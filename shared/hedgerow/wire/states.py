"""What simulated clients remember between rounds: a small SQLite file, so that memory does not grow with the clients.

Rows are keyed by (node, round) and a round reads only what was written before it. Running a round again, after a kill,
therefore gives the same result, whatever of it had been written.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType

from hedgerow.errors import RunError

__all__ = ["StateStore"]


class StateStore:
    """Client states on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from None
        try:
            # One process writes; a lost page after a power cut would only cost a round, so no fsync a write.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS states (node INTEGER, round INTEGER, state BLOB, PRIMARY KEY (node, round))"
            )
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise self._unusable(error) from None

    def read(self, node: int, *, before: int) -> bytes:
        """The newest state of `node` that was written before round `before`; empty when there is none.

        Raises:
            RunError: the file is damaged.
        """
        try:
            row = self._connection.execute(
                "SELECT state FROM states WHERE node = ? AND round < ? ORDER BY round DESC LIMIT 1", (node, before)
            ).fetchone()
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from None
        return b"" if row is None else bytes(row[0])

    def write(self, node: int, state: bytes, *, round: int) -> None:
        """Remembers a state; older ones than that which round `round` - 1 started from go.

        That one stays because what is asked after a round has the next number, before the round itself is on disk.

        Raises:
            RunError: the file is damaged, or the disk is full.
        """
        try:
            self._connection.execute("BEGIN")
            self._connection.execute(
                "DELETE FROM states WHERE node = ? AND round <"
                " (SELECT max(round) FROM states WHERE node = ? AND round < ?)",
                (node, node, round - 1),
            )
            self._connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", (node, round, state))
            self._connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from None

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _unusable(self, error: sqlite3.DatabaseError) -> RunError:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        help_text = "free some space" if full else "delete the run's folder"
        return RunError(f"{self._path}: the clients' states cannot be used ({error}); {help_text}")

    def __enter__(self) -> StateStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
