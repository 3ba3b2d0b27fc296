"""What is written of an open round is read again, or refused."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hedgerow.errors import RunError
from hedgerow.server.fleet import Reply
from hedgerow.server.journal import Journal, NoJournal, OpenRound, SqliteJournal

LARGE = 2**64 - 1
GOOD = Reply(7, b"\x00payload\xff", None, {"examples": 3.0, "loss": 0.1 + 0.2}, 100, 30)
FAILED = Reply(LARGE, None, "the camera is\nbroken \u202e", {}, 90, 20)
LOST = Reply(8, None, "the line is dead", {}, 80, 0, "lost")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    with SqliteJournal(tmp_path / "journal.sqlite") as opened:
        yield opened


def contents(journal: Journal, round: int) -> tuple[OpenRound | None, list[tuple[Reply, str]]]:
    return journal.open_round(round), list(journal.replies(round))


def test_a_new_journal_knows_nothing(journal: SqliteJournal) -> None:
    assert contents(journal, 1) == (None, [])


def test_what_is_written_is_read_again_in_its_order(journal: SqliteJournal) -> None:
    journal.begin(3, [7, 8, LARGE])
    journal.add(3, FAILED, name="phone")
    journal.add(3, GOOD, name="tablet")
    assert contents(journal, 3) == (OpenRound([7, 8, LARGE], None), [(FAILED, "phone"), (GOOD, "tablet")])
    assert contents(journal, 2) == (None, [])


def test_an_empty_payload_is_not_a_missing_one(journal: SqliteJournal) -> None:
    journal.begin(1, [7])
    journal.add(1, replace(GOOD, payload=b""), name="a")
    journal.add(1, replace(GOOD, payload=None), name="a")
    assert [reply.payload for reply, _ in journal.replies(1)] == [b"", None]


def test_metrics_that_are_no_numbers_come_back_as_they_were(journal: SqliteJournal) -> None:
    journal.begin(1, [7])
    journal.add(1, replace(GOOD, metrics={"loss": math.nan, "seconds": -math.inf}), name="a")
    ((reply, _),) = journal.replies(1)
    assert math.isnan(reply.metrics["loss"])
    assert reply.metrics["seconds"] == -math.inf


def test_a_closed_round_says_who_counts_and_who_was_lost(journal: SqliteJournal) -> None:
    journal.begin(1, [7, 8])
    journal.add(1, GOOD, name="a")
    journal.close(1, counted={7}, lost=[(LOST, "b")])
    assert contents(journal, 1) == (OpenRound([7, 8], frozenset({7})), [(GOOD, "a"), (LOST, "b")])


def test_a_round_is_begun_with_what_is_kept_of_the_play_before_and_nothing_of_other_rounds(
    journal: SqliteJournal,
) -> None:
    journal.begin(1, [7])
    journal.add(1, GOOD, name="a")
    journal.begin(2, [7, 8, 9])
    for node in (7, 8, 9):
        journal.add(2, replace(GOOD, node=node), name=str(node))
    journal.retry(2, keep={7, 8})
    assert journal.open_round(2) is None
    assert [name for _, name in journal.replies(2)] == ["7", "8"]
    journal.begin(2, [8, 9])
    assert journal.open_round(2) == OpenRound([8, 9], None)
    assert [name for _, name in journal.replies(2)] == ["8"]
    assert contents(journal, 1) == (None, [])


def test_what_is_durable_elsewhere_is_forgotten(journal: SqliteJournal) -> None:
    journal.begin(4, [7])
    journal.add(4, GOOD, name="a")
    journal.forget(3)
    assert contents(journal, 4) == (OpenRound([7], None), [(GOOD, "a")])
    journal.forget(4)
    assert contents(journal, 4) == (None, [])


def test_a_process_that_ends_without_closing_loses_nothing(journal: SqliteJournal, tmp_path: Path) -> None:
    journal.begin(1, [7, 8])
    journal.add(1, GOOD, name="a")
    # What a killed process leaves: the file and the log beside it, as they are now.
    (tmp_path / "killed").mkdir()
    for path in tmp_path.glob("journal.sqlite*"):
        shutil.copy(path, tmp_path / "killed")
    with SqliteJournal(tmp_path / "killed" / "journal.sqlite") as found:
        assert contents(found, 1) == (OpenRound([7, 8], None), [(GOOD, "a")])


def test_a_step_that_fails_halfway_leaves_no_half_of_it(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.begin(1, [7, 8])

    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SqliteJournal, "_put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.close(1, counted={7}, lost=[(LOST, "b")])
    assert contents(journal, 1) == (OpenRound([7, 8], None), [])
    journal.close(1, counted={7}, lost=[])
    assert contents(journal, 1) == (OpenRound([7, 8], frozenset({7})), [])


def test_no_journal_remembers_nothing() -> None:
    nothing = NoJournal()
    nothing.begin(1, [7])
    nothing.add(1, GOOD, name="a")
    nothing.close(1, counted={7}, lost=[])
    nothing.retry(1, keep={7})
    nothing.forget(0)
    assert contents(nothing, 1) == (None, [])


@pytest.mark.parametrize("damage", [b"noise" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_journal_says_what_to_delete(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(damage)
    with pytest.raises(RunError, match="delete it and the files beside it") as caught, SqliteJournal(path) as journal:
        journal.open_round(1)
    assert str(path) in str(caught.value)


def test_a_journal_of_another_make_says_what_to_delete(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with SqliteJournal(path) as journal:
        journal._run("DROP TABLE rounds")
        journal._run("CREATE TABLE rounds (round INTEGER)")
        with pytest.raises(RunError, match="delete it"):
            journal.open_round(1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(place=st.integers(0, 2**20), value=st.integers(1, 255))
# The byte is in a table's definition, which SQLite's message then quotes, and it is no UTF-8.
@example(place=1048571, value=128)
def test_a_changed_byte_is_refused_or_changes_nothing_that_is_read(tmp_path: Path, place: int, value: int) -> None:
    whole, path = tmp_path / "whole.sqlite", tmp_path / "journal.sqlite"
    if not whole.exists():
        with SqliteJournal(whole) as journal:
            journal.begin(2, [7, 8, LARGE])
            journal.add(2, GOOD, name="a")
            journal.add(2, FAILED, name="b")
            journal.close(2, counted={7}, lost=[])
    data = bytearray(whole.read_bytes())
    data[place % len(data)] ^= value
    path.write_bytes(data)
    for log in tmp_path.glob("journal.sqlite-*"):
        log.unlink()
    try:
        with SqliteJournal(path) as journal:
            opened, replies = contents(journal, 2)
    except RunError:
        return
    # A row that is no longer found is missing as a whole: it is asked for again, or missed when the round is closed.
    assert opened in (None, OpenRound([7, 8, LARGE], frozenset({7})))
    assert all(reply in [(GOOD, "a"), (FAILED, "b")] for reply in replies)


def test_the_levels_of_a_cohort_are_read_again(journal: SqliteJournal) -> None:
    journal.begin(1, [7, 8, LARGE], levels={8: 0, LARGE: 2, 9: 1})
    journal.add(1, GOOD, name="a")
    assert journal.open_round(1) == OpenRound([7, 8, LARGE], None, {LARGE: 2})
    journal.close(1, counted=[7], lost=[])
    assert journal.open_round(1) == OpenRound([7, 8, LARGE], frozenset({7}), {LARGE: 2})
