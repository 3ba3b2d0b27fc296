"""What simulated clients remember: a round reads only what was written before it."""

from pathlib import Path

import pytest

from hedgerow.errors import RunError
from hedgerow.wire.states import StateStore


def rounds_kept(store: StateStore, node: int) -> list[bytes]:
    return [store.read(node, before=round) for round in range(1, 7)]


def test_a_node_without_a_state_has_an_empty_one(tmp_path: Path) -> None:
    with StateStore(tmp_path / "states") as store:
        store.write(1, b"one", round=1)
        assert store.read(2, before=100) == b""


def test_a_round_reads_the_newest_state_from_before_it(tmp_path: Path) -> None:
    with StateStore(tmp_path / "states") as store:
        store.write(1, b"two", round=2)
        store.write(1, b"four", round=4)
        assert rounds_kept(store, 1) == [b"", b"", b"two", b"two", b"four", b"four"]


def test_a_round_that_is_played_again_starts_from_the_same_state(tmp_path: Path) -> None:
    with StateStore(tmp_path / "states") as store:
        store.write(1, b"two", round=2)
        before = store.read(1, before=3)
        store.write(1, b"three", round=3)
        assert store.read(1, before=3) == before
        store.write(1, b"three again", round=3)
        assert store.read(1, before=3) == before
        assert store.read(1, before=4) == b"three again"


def test_older_states_go_and_the_one_before_stays(tmp_path: Path) -> None:
    with StateStore(tmp_path / "states") as store:
        for round in range(1, 6):
            store.write(1, str(round).encode(), round=round)
        assert rounds_kept(store, 1) == [b"", b"", b"", b"3", b"4", b"5"]


def test_what_is_asked_after_a_round_takes_nothing_from_its_replay(tmp_path: Path) -> None:
    with StateStore(tmp_path / "states") as store:
        for round in (1, 4, 7):
            store.write(1, str(round).encode(), round=round)
        # Between rounds 7 and 8, before round 7 is on disk.
        store.write(1, b"looked", round=8)
        assert store.read(1, before=7) == b"4"
        assert store.read(1, before=8) == b"7"


def test_nodes_do_not_touch_each_other(tmp_path: Path) -> None:
    with StateStore(tmp_path / "states") as store:
        store.write(1, b"one", round=1)
        for round in range(2, 6):
            store.write(2, b"two", round=round)
        assert store.read(1, before=9) == b"one"


def test_states_are_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    with StateStore(tmp_path / "states") as store:
        store.write(1, bytes(range(256)), round=1)
    with StateStore(tmp_path / "states") as store:
        assert store.read(1, before=2) == bytes(range(256))


def test_a_state_may_be_empty(tmp_path: Path) -> None:
    with StateStore(tmp_path / "states") as store:
        store.write(1, b"", round=1)
        assert store.read(1, before=2) == b""


def test_a_file_that_is_no_database_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "states").write_bytes(b"noise " * 1000)
    with pytest.raises(RunError, match=r"cannot be used .* delete the run's folder"):
        StateStore(tmp_path / "states")


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be used"):
        StateStore(tmp_path / "missing" / "states")


def use(path: Path, action: str) -> None:
    with StateStore(path) as store:
        if action == "read":
            store.read(7, before=9)
        else:
            store.write(7, b"new", round=2)


@pytest.mark.parametrize("action", ["read", "write"])
def test_damage_that_shows_only_later_says_what_to_do(tmp_path: Path, action: str) -> None:
    path = tmp_path / "states"
    with StateStore(path) as store:
        for node in range(200):
            store.write(node, bytes(200), round=1)
    page = 4096
    data = path.read_bytes()
    assert len(data) > 4 * page
    path.write_bytes(data[:page] + b"\xff" * (len(data) - page))
    with pytest.raises(RunError, match="delete the run's folder"):
        use(path, action)
