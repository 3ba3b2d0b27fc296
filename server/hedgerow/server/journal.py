"""What a live round has taken in, on disk, so that a coordinator that is killed loses nothing of it.

    journal.sqlite
        rounds    the open round: who is asked about which part, and once it is closed, whose replies count
        replies   what has arrived, in order

A round is begun, replies are added before they are folded, and it is closed before its state is computed. A restart
folds what is here and asks only the others, or nobody when the round was closed. The rows go when the checkpoint that
holds their effect is durable. Nothing here is needed to go on: without it the open round is played from its start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from hedgerow.errors import RunError
from hedgerow.server.fleet import Reply

__all__ = ["Journal", "NoJournal", "OpenRound", "SqliteJournal"]

_TABLES = """
CREATE TABLE IF NOT EXISTS rounds (round INTEGER PRIMARY KEY, cohort TEXT NOT NULL, counted TEXT, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS replies (
    id INTEGER PRIMARY KEY, round INTEGER NOT NULL, head TEXT NOT NULL, payload BLOB, digest BLOB NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class OpenRound:
    """A round that was begun and is not in a checkpoint.

    Attributes:
        cohort: nodes that are asked, in ascending order.
        counted: nodes whose replies count; None as long as the round is not closed.
        levels: of those that are asked about a smaller part of the network than the whole.
    """

    cohort: Sequence[int]
    counted: frozenset[int] | None
    levels: Mapping[int, int] = field(default_factory=dict)


class Journal(Protocol):
    """Where a round is kept while it is played."""

    def open_round(self, round: int) -> OpenRound | None:
        """What is known of a round; None where it was not begun, or is to be played again."""

    def replies(self, round: int) -> Iterator[tuple[Reply, str]]:
        """The replies to a round so far, each with its node's name, in the order of their arrival."""

    def begin(self, round: int, cohort: Sequence[int], *, levels: Mapping[int, int] | None = None) -> None:
        """A round asks these nodes, of the whole network unless `levels` says another part. Replies of other nodes and
        to other rounds are forgotten."""

    def add(self, round: int, reply: Reply, *, name: str) -> None:
        """A reply has arrived."""

    def close(self, round: int, *, counted: Collection[int], lost: Sequence[tuple[Reply, str]]) -> None:
        """A round is over. From now on these nodes count, and the `lost` ones failed, with their names."""

    def retry(self, round: int, *, keep: Collection[int]) -> None:
        """A round is to be played again, with only these nodes' replies kept."""

    def forget(self, round: int) -> None:
        """The round's effect is durable elsewhere: it and all before it are no longer needed."""


class NoJournal:
    """Remembers nothing; see `Journal`."""

    def open_round(self, round: int) -> OpenRound | None:
        """No round was ever begun."""
        return None

    def replies(self, round: int) -> Iterator[tuple[Reply, str]]:
        """No reply is kept."""
        return iter(())

    def begin(self, round: int, cohort: Sequence[int], *, levels: Mapping[int, int] | None = None) -> None:
        """Nothing."""

    def add(self, round: int, reply: Reply, *, name: str) -> None:
        """Nothing."""

    def close(self, round: int, *, counted: Collection[int], lost: Sequence[tuple[Reply, str]]) -> None:
        """Nothing."""

    def retry(self, round: int, *, keep: Collection[int]) -> None:
        """Nothing."""

    def forget(self, round: int) -> None:
        """Nothing."""


class SqliteJournal:
    """A journal in a file of its own; each method is one transaction. Use it as a context.

    Raises:
        RunError: from every method, when the file is damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        try:
            # Outlives the process in any case; after a power cut the last replies may have to be sent once more.
            self._run("PRAGMA journal_mode = WAL")
            self._run("PRAGMA synchronous = NORMAL")
            for statement in filter(str.strip, _TABLES.split(";")):
                self._run(statement)
        except RunError:
            self._connection.close()
            raise

    def open_round(self, round: int) -> OpenRound | None:
        """See `Journal`."""
        rows = self._rows("SELECT cohort, counted, digest FROM rounds WHERE round = ?", round)
        for cohort, counted, digest in rows:
            if _digest(round, cohort, counted) != digest:
                raise self._unusable("a round differs from its digest")
            asked = self._asked(cohort)
            counts = None if counted is None else frozenset(self._parsed(counted))
            return OpenRound(list(asked), counts, {node: level for node, level in asked.items() if level})
        return None

    def replies(self, round: int) -> Iterator[tuple[Reply, str]]:
        """See `Journal`."""
        # One at a time, because all of a round's replies together may be larger than memory.
        for (number,) in self._rows("SELECT id FROM replies WHERE round = ? ORDER BY id", round):
            for head, payload, digest in self._rows("SELECT head, payload, digest FROM replies WHERE id = ?", number):
                yield self._read(head, payload, digest, round=round)

    def begin(self, round: int, cohort: Sequence[int], *, levels: Mapping[int, int] | None = None) -> None:
        """See `Journal`."""
        asked, known = set(cohort), levels or {}
        row = [[node, known[node]] if known.get(node) else node for node in cohort]
        with self._transaction():
            self._run("DELETE FROM rounds")
            self._run("DELETE FROM replies WHERE round != ?", round)
            self._keep_only(asked)
            self._put(round, json.dumps(row), None)

    def add(self, round: int, reply: Reply, *, name: str) -> None:
        """See `Journal`."""
        values = [reply.node, name, reply.error, dict(reply.metrics), reply.bytes_down, reply.bytes_up, reply.kind]
        head, payload = json.dumps(values), reply.payload
        digest = _digest(round, head, payload)
        self._run("INSERT INTO replies VALUES (NULL, ?, ?, ?, ?)", round, head, payload, digest)

    def close(self, round: int, *, counted: Collection[int], lost: Sequence[tuple[Reply, str]]) -> None:
        """See `Journal`."""
        with self._transaction():
            for reply, name in lost:
                self.add(round, reply, name=name)
            for (cohort,) in self._rows("SELECT cohort FROM rounds WHERE round = ?", round):
                self._put(round, cohort, json.dumps(sorted(counted)))

    def retry(self, round: int, *, keep: Collection[int]) -> None:
        """See `Journal`."""
        with self._transaction():
            self._run("DELETE FROM rounds WHERE round = ?", round)
            self._keep_only(keep)

    def forget(self, round: int) -> None:
        """See `Journal`."""
        with self._transaction():
            self._run("DELETE FROM rounds WHERE round <= ?", round)
            self._run("DELETE FROM replies WHERE round <= ?", round)

    def _keep_only(self, nodes: Collection[int]) -> None:
        for number, head in self._rows("SELECT id, head FROM replies"):
            if next(iter(self._parsed(head)), None) not in nodes:
                self._run("DELETE FROM replies WHERE id = ?", number)

    def _read(self, head: object, payload: Any, digest: object, *, round: int) -> tuple[Reply, str]:
        if _digest(round, head, payload) != digest:
            raise self._unusable("a reply differs from its digest")
        node, name, error, metrics, bytes_down, bytes_up, kind = self._parsed(head)
        return Reply(node, payload, error, metrics, bytes_down, bytes_up, kind), name

    def _put(self, round: int, cohort: str, counted: str | None) -> None:
        digest = _digest(round, cohort, counted)
        self._run("INSERT OR REPLACE INTO rounds VALUES (?, ?, ?, ?)", round, cohort, counted, digest)

    def _asked(self, cohort: object) -> dict[int, int]:
        pairs = [one if isinstance(one, list) else [one, 0] for one in self._parsed(cohort)]
        if not all(len(pair) == 2 and all(isinstance(number, int) for number in pair) for pair in pairs):
            raise self._unusable("a row is not in its format")
        return {node: level for node, level in pairs}  # noqa: C416  # mypy takes dict(pairs) for one of strings

    def _parsed(self, text: object) -> list[Any]:
        try:
            values = json.loads(text if isinstance(text, str) else "")
        except ValueError:
            values = None
        if not isinstance(values, list):
            raise self._unusable("a row is not in its format")
        return values

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        self._run("COMMIT")

    def _run(self, statement: str, *values: object) -> None:
        self._rows(statement, *values)

    def _rows(self, statement: str, *values: object) -> list[Any]:
        try:
            return self._connection.execute(statement, values).fetchall()
        # SQLite's message may quote what a damaged file holds, and that need not be text.
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self._unusable(error) from None

    def _unusable(self, why: object) -> RunError:
        return RunError(
            f"{self._path}: the journal cannot be used ({why}); delete it and the files beside it that begin with its "
            "name, and the open round is played again"
        )

    def __enter__(self) -> SqliteJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()


def _digest(*parts: object) -> bytes:
    """16 bytes: SQLite itself does not notice a changed byte in a row."""
    sha = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        sha.update(len(data).to_bytes(8, "big"))
        sha.update(data)
    return sha.digest()[:16]
