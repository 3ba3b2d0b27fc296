"""What a device keeps on disk."""

import os
from pathlib import Path

import pytest

from hedgerow.client.joining.store import DeviceFolder, Kept
from hedgerow.errors import RunError

A, B, C, D = (letter * 32 for letter in "abcd")


def test_a_reply_is_found_again_by_another_process(tmp_path: Path) -> None:
    with DeviceFolder(tmp_path / "state") as folder:
        run = folder.open_run("run-1")
        assert run.find(A) is None
        kept = run.put(A, b"body", round=3)
        assert kept == Kept(A, 3, taken=False)
        run.close()
    with DeviceFolder(tmp_path / "state") as folder:
        assert folder.unacknowledged() == [A]
        run = folder.open_run("run-1")
        assert run.find(A) == kept
        assert run.body(kept) == b"body"
        run.mark_taken(kept)
        assert folder.unacknowledged() == []
        assert run.find(A) == Kept(A, 3, taken=True)
        assert run.body(Kept(A, 3, taken=True)) == b"body"
        run.drop(Kept(A, 3, taken=True))
        assert run.replies() == []
        run.close()


def test_replies_of_the_last_two_rounds_are_kept(tmp_path: Path) -> None:
    with DeviceFolder(tmp_path) as folder:
        run = folder.open_run("run-1")
        for id, round in ((A, 1), (B, 2), (C, 2), (D, 10)):
            run.put(id, b"x", round=round)
        assert [(k.id, k.round) for k in run.replies()] == [(B, 2), (C, 2), (D, 10)]
        run.close()


def test_a_run_that_starts_over_keeps_its_new_replies(tmp_path: Path) -> None:
    with DeviceFolder(tmp_path) as folder:
        run = folder.open_run("run-1")
        run.put(A, b"x", round=9)
        run.put(B, b"x", round=1)
        assert run.find(B) is not None
        run.close()


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 32 + b"body"])
def test_a_damaged_reply_is_none(damage: bytes, tmp_path: Path) -> None:
    with DeviceFolder(tmp_path) as folder:
        run = folder.open_run("run-1")
        kept = run.put(A, b"body", round=1)
        (path,) = tmp_path.glob("*/*.reply")
        path.write_bytes(damage)
        assert run.body(kept) is None
        run.drop(kept)
        assert run.body(kept) is None
        run.close()


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        DeviceFolder(tmp_path),
        pytest.raises(RunError, match="another process has joined with this state folder"),
    ):
        DeviceFolder(tmp_path)
    DeviceFolder(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="choose another --state folder"):
        DeviceFolder(tmp_path / "file" / "state")


@pytest.mark.parametrize("run", ["../../etc", "/etc", "a/b", ".", "\0", "ü" * 200])
def test_no_name_of_a_run_leads_out_of_the_folder(run: str, tmp_path: Path) -> None:
    with DeviceFolder(tmp_path / "state") as folder:
        folder.open_run(run).close()
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
        assert len([path for path in (tmp_path / "state").iterdir() if path.is_dir()]) == 1
        folder.forget(run)
        assert [path.name for path in (tmp_path / "state").iterdir()] == ["lock"]


def test_the_three_runs_that_were_opened_last_are_kept(tmp_path: Path) -> None:
    with DeviceFolder(tmp_path) as folder:
        for number, run in enumerate(("one", "two", "three", "one", "four")):
            store = folder.open_run(run)
            store.put(A[:-1] + str(number), b"x", round=1)
            store.close()
            # Two folders made within one tick of the clock have no order.
            for path in tmp_path.glob("*/states.sqlite"):
                os.utime(path.parent, ns=(path.parent.stat().st_mtime_ns - 10**9,) * 2)
        assert {id[-1] for id in folder.unacknowledged()} == {"0", "2", "3", "4"}


def test_states_of_runs_are_apart(tmp_path: Path) -> None:
    with DeviceFolder(tmp_path) as folder:
        one, two = folder.open_run("one"), folder.open_run("two")
        one.states.write(0, b"mine", round=1)
        assert two.states.read(0, before=9) == b""
        assert one.states.read(0, before=9) == b"mine"
        one.close()
        two.close()
