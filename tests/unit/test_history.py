"""The last versions that were sent: so many of them, on disk through a restart, and none that is damaged."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.codec import Header, encode_payload
from hedgerow.errors import RunError
from hedgerow.server.history import FolderHistory, History, MemoryHistory


def payload(round: int) -> bytes:
    return b"version %d" % round


def histories(folder: Path, *, most: int) -> list[History]:
    return [MemoryHistory(most=most), FolderHistory(folder, most=most)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_versions_are_found_and_older_ones_are_not(tmp_path: Path) -> None:
    for history in histories(tmp_path, most=3):
        for round in range(1, 8):
            history.add(round, payload(round))
        assert [history.find(round) for round in range(9)] == [None] * 5 + [payload(r) for r in (5, 6, 7)] + [None]
    assert names(tmp_path) == ["00000005.payload", "00000006.payload", "00000007.payload"]


def test_a_new_history_knows_nothing_and_makes_no_folder(tmp_path: Path) -> None:
    for history in histories(tmp_path / "versions", most=3):
        assert history.find(1) is None
    assert not (tmp_path / "versions").exists()


def test_a_history_of_no_versions_remembers_none(tmp_path: Path) -> None:
    for history in histories(tmp_path, most=0):
        history.add(1, payload(1))
        assert history.find(1) is None
    assert names(tmp_path) == []


@settings(max_examples=50)
@given(st.integers(0, 4), st.lists(st.tuples(st.integers(1, 9), st.binary(max_size=4)), max_size=12))
def test_both_know_the_last_round_and_what_is_not_too_far_before_it(most: int, added: list[tuple[int, bytes]]) -> None:
    with TemporaryDirectory() as folder:
        memory, disk = histories(Path(folder), most=most)
        known: dict[int, bytes] = {}
        for last, data in added:
            memory.add(last, data)
            disk.add(last, data)
            # A coordinator that goes on from an older checkpoint plays the rounds after it again.
            known = {r: d for r, d in {**known, last: data}.items() if last - most < r <= last}
            assert len(known) <= most
            assert {r: d for r in range(12) if (d := memory.find(r)) is not None} == known
            assert {r: d for r in range(12) if (d := disk.find(r)) is not None} == known
            assert len(names(Path(folder))) == len(known)


def test_a_restart_finds_what_was_there(tmp_path: Path) -> None:
    FolderHistory(tmp_path, most=3).add(4, payload(4))
    again = FolderHistory(tmp_path, most=3)
    assert again.find(4) == payload(4)
    again.add(5, payload(5))
    assert (again.find(4), again.find(5)) == (payload(4), payload(5))


def test_a_restart_with_a_shorter_history_forgets_the_rest(tmp_path: Path) -> None:
    for round in range(1, 6):
        FolderHistory(tmp_path, most=5).add(round, payload(round))
    FolderHistory(tmp_path, most=2).add(6, payload(6))
    assert names(tmp_path) == ["00000005.payload", "00000006.payload"]


def test_a_version_that_is_added_again_leaves_the_same_bytes(tmp_path: Path) -> None:
    history = FolderHistory(tmp_path, most=3)
    for round in (1, 2):
        history.add(round, payload(round))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    history.add(2, payload(2))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_is_the_digest_and_the_payload(tmp_path: Path) -> None:
    FolderHistory(tmp_path, most=1).add(12, b"abc")
    # The first half of the SHA-256 of "abc", FIPS 180-2, appendix B.1.
    expected = bytes.fromhex("ba7816bf8f01cfea414140de5dae2223") + b"abc"
    assert (tmp_path / "00000012.payload").read_bytes() == expected


def test_files_that_are_not_its_own_are_left_alone(tmp_path: Path) -> None:
    others = ["1.payload", "+0000001.payload", "0000_001.payload", "last.payload", "00000001.txt", "notes"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "00000002.payload").mkdir()
    history = FolderHistory(tmp_path, most=1)
    for round in (8, 9):
        history.add(round, payload(round))
    assert names(tmp_path) == sorted([*others, "00000002.payload", "00000009.payload"])
    assert history.find(1) is None
    assert history.find(2) is None, "a folder"


def test_rounds_of_more_digits_are_kept_and_forgotten_as_others(tmp_path: Path) -> None:
    history = FolderHistory(tmp_path, most=2)
    for round in range(99_999_998, 100_000_001):
        history.add(round, payload(round))
    assert names(tmp_path) == ["100000000.payload", "99999999.payload"]
    assert history.find(100_000_000) == payload(100_000_000)


def test_every_truncated_version_is_unknown(tmp_path: Path) -> None:
    history, path = FolderHistory(tmp_path, most=1), tmp_path / "00000001.payload"
    history.add(1, payload(1))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert history.find(1) is None
    path.write_bytes(whole + b"\0")
    assert history.find(1) is None


def test_every_flipped_bit_makes_a_version_unknown(tmp_path: Path) -> None:
    history, path = FolderHistory(tmp_path, most=1), tmp_path / "00000001.payload"
    history.add(1, payload(1))
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert history.find(1) is None
    path.write_bytes(whole)
    assert history.find(1) == payload(1)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    history = FolderHistory(tmp_path / "file", most=1)
    assert history.find(1) is None
    with pytest.raises(RunError, match="cannot be written"):
        history.add(1, payload(1))


def digest(name: int) -> bytes:
    return bytes([name]) * 16


def version_of(mask: int, *, round: int) -> bytes:
    return encode_payload(Header(bytes(6), round, digest(mask)), [])


def test_a_mask_is_found_as_long_as_a_remembered_version_is_of_it(tmp_path: Path) -> None:
    for history in histories(tmp_path, most=2):
        assert history.find_mask(digest(1)) is None
        history.add_mask(digest(1), b"one")
        history.add(1, version_of(1, round=1))
        history.add_mask(digest(2), b"two")
        history.add(2, version_of(2, round=2))
        assert [history.find_mask(digest(name)) for name in (1, 2, 3)] == [b"one", b"two", None]
        # Both versions are of the second mask, so that the first is of no use; it goes when there is a third.
        history.add(3, version_of(2, round=3))
        history.add_mask(digest(3), b"three")
        assert [history.find_mask(digest(name)) for name in (1, 2, 3)] == [None, b"two", b"three"]
    assert [name for name in names(tmp_path) if name.endswith(".mask")] == ["02" * 16 + ".mask", "03" * 16 + ".mask"]


def test_a_mask_that_was_just_added_stays_though_no_version_is_of_it_yet(tmp_path: Path) -> None:
    for history in histories(tmp_path, most=2):
        history.add(1, payload(1))
        history.add_mask(digest(1), b"one")
        history.add_mask(digest(2), b"two")
        assert [history.find_mask(digest(name)) for name in (1, 2)] == [None, b"two"]


def test_a_history_of_no_versions_remembers_no_mask(tmp_path: Path) -> None:
    for history in histories(tmp_path, most=0):
        history.add_mask(digest(1), b"one")
        assert history.find_mask(digest(1)) is None
    assert names(tmp_path) == []


def test_another_process_finds_the_masks(tmp_path: Path) -> None:
    FolderHistory(tmp_path, most=1).add_mask(digest(7), b"seven")
    assert FolderHistory(tmp_path, most=1).find_mask(digest(7)) == b"seven"


def test_files_of_others_stay_where_masks_are_forgotten(tmp_path: Path) -> None:
    for name in ("notes.mask", "0A0B.mask", "0a0b.mask.bak"):
        (tmp_path / name).write_bytes(b"")
    FolderHistory(tmp_path, most=1).add_mask(digest(7), b"seven")
    assert names(tmp_path) == ["07" * 16 + ".mask", "0A0B.mask", "0a0b.mask.bak", "notes.mask"]


def test_every_damaged_mask_is_unknown(tmp_path: Path) -> None:
    history = FolderHistory(tmp_path, most=1)
    history.add_mask(digest(1), b"one")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert history.find_mask(digest(1)) is None
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert history.find_mask(digest(1)) is None
    path.write_bytes(whole)
    assert history.find_mask(digest(1)) == b"one"


def test_versions_of_levels_are_kept_apart_and_go_together(tmp_path: Path) -> None:
    for history in histories(tmp_path, most=2):
        for round in range(1, 4):
            history.add(round, payload(round))
            history.add(round, payload(10 + round), level=1)
        assert [history.find(round) for round in range(1, 4)] == [None, payload(2), payload(3)]
        assert [history.find(round, level=1) for round in range(1, 4)] == [None, payload(12), payload(13)]
        assert history.find(3, level=2) is None
    assert names(tmp_path) == ["00000002.1.payload", "00000002.payload", "00000003.1.payload", "00000003.payload"]


def test_a_mask_of_one_level_is_not_forgotten_for_that_of_another(tmp_path: Path) -> None:
    for history in histories(tmp_path, most=2):
        for level in range(2):
            history.add_mask(digest(level), b"mask %d" % level)
            history.add(1, encode_payload(Header(bytes(6), 1, digest(level)), []), level=level)
        history.add_mask(digest(7), b"another")
        assert [history.find_mask(digest(level)) for level in range(2)] == [b"mask 0", b"mask 1"]
