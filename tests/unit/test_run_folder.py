"""What a run leaves on disk, whatever moment it is killed at."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hedgerow.config import Experiment, load_experiment
from hedgerow.errors import RunError
from hedgerow.files import write_atomically
from hedgerow.pruning import Mask
from hedgerow.server.checkpoint import checkpoint_bytes, read_checkpoint
from hedgerow.server.run_folder import RunFolder
from hedgerow.server.state import RoundState
from hedgerow.telemetry import Measured, RoundRecord

EXPERIMENT = Experiment()
MASK = Mask({"b.weight": torch.arange(12).view(3, 4) % 5 < 2, "a.weight": torch.ones(1, 3, dtype=torch.bool)})


def state_after(round: int, *, held: Mapping[int, int] | None = None) -> RoundState:
    return RoundState(
        round=round,
        mask=MASK,
        kept=np.linspace(-1, 1, MASK.kept, dtype=np.float32) * round,
        floats=np.array([0.1, -1e-30, round], dtype=np.float32),
        held=held or {},
    )


def record_of(round: int) -> RoundRecord:
    measured = Measured(
        seconds=1, evaluation_seconds=0.1, client_seconds=2, client_peak_bytes=None, coordinator_peak_bytes=None
    )
    return RoundRecord(
        round=round,
        accuracy=0.5,
        density=0.5,
        layer_density={"b.weight": 0.5, "a.weight": 1.0},
        kept=MASK.kept,
        cohort=1,
        replies=1,
        examples=10,
        bytes_up=1,
        bytes_down=1,
        entropy_up=1,
        entropy_down=1,
        measured=measured,
    )


def folder_after(out: Path, rounds: int) -> Path:
    with RunFolder(out, EXPERIMENT) as folder:
        assert folder.load() is None
        for round in range(rounds + 1):
            folder.save(state_after(round), record_of(round))
        return folder.path


def resumed(out: Path) -> tuple[RoundState | None, list[int]]:
    with RunFolder(out, EXPERIMENT) as folder:
        state = folder.load()
        return state, [record.round for record in folder.records()]


def test_a_new_folder_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert resumed(tmp_path) == (None, [])


def test_a_folder_is_named_by_the_experiment(tmp_path: Path) -> None:
    with RunFolder(tmp_path, EXPERIMENT) as folder:
        assert folder.path == tmp_path / EXPERIMENT.digest()


def test_a_state_comes_back_bit_by_bit(tmp_path: Path) -> None:
    held = {2**64 - 1: 3, 0: 1, 7: 3, 2**63 + 5: 2}  # Flower's node identifiers have 64 bits without a sign
    old = state_after(3, held=held)
    with RunFolder(tmp_path, EXPERIMENT) as folder:
        folder.save(old, record_of(3))
    state, _ = resumed(tmp_path)
    assert state is not None
    assert state.round == 3
    assert state.mask == MASK
    assert state.mask.digest == MASK.digest
    assert state.kept.tobytes() == old.kept.tobytes()
    assert state.floats.tobytes() == old.floats.tobytes()
    assert state.held == held


@settings(max_examples=30)
@given(st.dictionaries(st.integers(0, 2**64 - 1), st.integers(1, 9), max_size=20))
def test_who_holds_which_version_comes_back_in_the_same_bytes_whatever_its_order(held: dict[int, int]) -> None:
    data = checkpoint_bytes(state_after(9, held=held))
    assert checkpoint_bytes(state_after(9, held=dict(reversed(held.items())))) == data
    with TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        path.write_bytes(data)
        assert read_checkpoint(path).held == held


def test_a_kill_between_line_and_checkpoint_drops_the_line(tmp_path: Path) -> None:
    path = folder_after(tmp_path, 2)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(record_of(3).model_dump_json() + "\n")
        file.write(record_of(4).model_dump_json() + "\n")
    state, rounds = resumed(tmp_path)
    assert state is not None
    assert state.round == 2
    assert rounds == [0, 1, 2]


def test_a_half_line_is_dropped_and_the_run_goes_on(tmp_path: Path) -> None:
    path = folder_after(tmp_path, 1)
    line = record_of(2).model_dump_json()
    with (path / "metrics.jsonl").open("a") as file:
        file.write(line[: len(line) // 2])
    with RunFolder(tmp_path, EXPERIMENT) as folder:
        state = folder.load()
        assert state is not None
        folder.save(state_after(2), record_of(2))
    state, rounds = resumed(tmp_path)
    assert rounds == [0, 1, 2]
    assert (path / "metrics.jsonl").read_text().count("\n") == 3


def test_lines_before_the_first_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = folder_after(tmp_path, 0)
    (path / "checkpoint.safetensors").unlink()
    assert resumed(tmp_path) == (None, [])
    assert not (path / "metrics.jsonl").exists()


def test_a_second_opener_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    with RunFolder(tmp_path, EXPERIMENT):
        with pytest.raises(RunError, match="another process runs this experiment"):
            RunFolder(tmp_path, EXPERIMENT)
        with RunFolder(tmp_path, Experiment(seed=1)):
            pass  # another experiment is no hindrance
    with RunFolder(tmp_path, EXPERIMENT):
        pass


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        RunFolder(tmp_path / "file", EXPERIMENT)


def test_a_folder_that_could_not_be_prepared_is_not_left_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RunError, match="No space left"):
            RunFolder(tmp_path, EXPERIMENT)
    with RunFolder(tmp_path, EXPERIMENT):
        pass


DAMAGES = {
    "noise": b"\x00" * 100,
    "empty": b"",
    "text": b"not safetensors",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_says_what_to_delete(tmp_path: Path, damage: str) -> None:
    path = folder_after(tmp_path, 1)
    (path / "checkpoint.safetensors").write_bytes(DAMAGES[damage])
    with pytest.raises(RunError, match="damaged or from another version") as caught:
        resumed(tmp_path)
    assert f"delete {path} to start again" in str(caught.value)


def test_every_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = folder_after(tmp_path, 1) / "checkpoint.safetensors"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="delete"):
            resumed(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(bit=st.integers(0, 2**20))
def test_a_flipped_bit_is_either_read_as_a_state_or_refused(tmp_path: Path, bit: int) -> None:
    path = tmp_path / EXPERIMENT.digest() / "checkpoint.safetensors"
    if not path.with_name("whole").exists():
        folder_after(tmp_path, 1)
        path.with_name("whole").write_bytes(path.read_bytes())
    data = bytearray(path.with_name("whole").read_bytes())
    bit %= 8 * len(data)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    try:
        state, _ = resumed(tmp_path)
    except RunError:
        return
    assert state is not None
    assert state.kept.shape == (state.mask.kept,)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "hedgerow-checkpoint-2"},
        {"format": None},
        {"shapes": []},
        {"shapes": {}},
        {"shapes": {"w": 3}},
        {"shapes": {"w": [30, 50]}},
        {"shapes": None},
        {"round": "three"},
        {"round": []},
        {"round": None},
        {"since": 0},
        {"since": 3},
        {"since": None},
        {"kept": np.zeros(3, dtype=np.float32)},
        {"kept": np.zeros(7, dtype=np.float64)},
        {"floats": np.zeros(2, dtype=np.int32)},
        {"floats": None},
        {"nodes": None},
        {"versions": None},
        {"nodes": np.array([7], dtype=np.uint64)},
        {"nodes": np.array([7, 8], dtype=np.int64)},
        {"nodes": np.array([7.5, 8.5])},
        {"nodes": np.array([[7], [8]], dtype=np.uint64)},
        {"versions": np.array([1], dtype=np.uint32)},
        {"versions": np.array([1, 1], dtype=np.int32)},
        {"versions": np.array([1, 2], dtype=np.uint32)},
        {"mask": np.zeros(1, dtype=np.uint8)},
    ],
    ids=str,
)
def test_a_checkpoint_of_another_make_says_what_to_delete(tmp_path: Path, change: dict[str, object]) -> None:
    path = folder_after(tmp_path, 1)
    tensors: dict[str, object] = {
        "mask": np.frombuffer(MASK.packed(), dtype=np.uint8),
        "kept": np.zeros(MASK.kept, dtype=np.float32),
        "floats": np.zeros(2, dtype=np.float32),
        "nodes": np.array([7, 8], dtype=np.uint64),
        "versions": np.array([1, 1], dtype=np.uint32),
    }
    metadata: dict[str, object] = {
        "format": "hedgerow-checkpoint-3",
        "round": 1,
        "since": 2,
        "shapes": MASK.shapes,
    }

    def write() -> None:
        arrays = {k: v for k, v in tensors.items() if isinstance(v, np.ndarray)}
        described = json.dumps({k: v for k, v in metadata.items() if v is not None})
        save_file(arrays, path / "checkpoint.safetensors", metadata={"hedgerow": described})

    write()
    assert resumed(tmp_path)[0] is not None
    for name, value in change.items():
        (tensors if name in tensors else metadata)[name] = value
    write()
    with pytest.raises(RunError, match="delete"):
        resumed(tmp_path)


@pytest.mark.parametrize("line", ["{\n", "null\n", '{"round": 1}\n', "\x00\x00\n"])
def test_a_damaged_line_of_metrics_says_what_to_delete(tmp_path: Path, line: str) -> None:
    path = folder_after(tmp_path, 1)
    metrics = path / "metrics.jsonl"
    metrics.write_text(line + metrics.read_text())
    with pytest.raises(RunError, match=r"metrics\.jsonl: damaged .* delete"):
        resumed(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", ""])
def test_a_checkpoint_whose_metadata_is_no_object_says_what_to_delete(tmp_path: Path, text: str) -> None:
    path = folder_after(tmp_path, 1)
    save_file({"kept": np.zeros(1)}, path / "checkpoint.safetensors", metadata={"hedgerow": text})
    with pytest.raises(RunError, match="delete"):
        resumed(tmp_path)


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    first = (folder_after(tmp_path / "a", 1) / "checkpoint.safetensors").read_bytes()
    assert (folder_after(tmp_path / "b", 1) / "checkpoint.safetensors").read_bytes() == first


def test_a_run_that_fails_before_its_first_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    with pytest.raises(RunError, match="no mask"), RunFolder(out, EXPERIMENT):
        raise RunError("no mask")
    assert not out.exists()


def test_a_run_that_fails_later_keeps_what_it_has(tmp_path: Path) -> None:
    folder_after(tmp_path, 1)
    with pytest.raises(RunError, match="too few replies"), RunFolder(tmp_path, EXPERIMENT):
        raise RunError("too few replies")
    assert resumed(tmp_path)[1] == [0, 1]


def test_a_kill_while_writing_a_checkpoint_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_after(tmp_path, 1)
    with RunFolder(tmp_path, EXPERIMENT) as folder:

        def killed(source: object, target: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                folder.save(state_after(2), record_of(2))
    state, rounds = resumed(tmp_path)
    assert state is not None
    assert state.round == 1
    assert rounds == [0, 1]


@pytest.mark.parametrize(
    "experiment",
    [
        Experiment(),
        load_experiment(recipe="fedavg"),
        load_experiment(
            overrides=[
                ("seed", 2**63 - 1),
                ("signs.step", 1e-7),
                ("data.path", 'a "quoted" \\ päth'),
                ("training.precision", "bf16"),
            ]
        ),
    ],
    ids=["default", "fedavg", "odd values"],
)
def test_the_written_experiment_is_the_same_experiment(tmp_path: Path, experiment: Experiment) -> None:
    with RunFolder(tmp_path, experiment) as folder:
        again = load_experiment(folder.path / "experiment.toml")
    assert again == experiment
    assert again.digest() == experiment.digest()


def test_a_run_has_the_experiment_s_name_and_a_number_that_lasts_as_long_as_its_folder(tmp_path: Path) -> None:
    with RunFolder(tmp_path, EXPERIMENT) as folder:
        assert not (folder.path / "run").exists(), "a simulation has no use for it"
        first = folder.run_id
        assert folder.run_id == first
    digest, number = first.split("-")
    assert digest == EXPERIMENT.digest()
    assert len(bytes.fromhex(number)) == 4
    with RunFolder(tmp_path, EXPERIMENT) as folder:
        assert folder.run_id == first
        shutil.rmtree(folder.path)
    with RunFolder(tmp_path, EXPERIMENT) as folder:
        assert folder.run_id != first


@pytest.mark.parametrize("text", ["", "1234567", "123456789", "1234567\n", "ABCDEF01", "../../..", "\xff" * 8])
def test_a_damaged_number_says_what_to_delete(tmp_path: Path, text: str) -> None:
    with RunFolder(tmp_path, EXPERIMENT) as folder:
        (folder.path / "run").write_text(text)
        with pytest.raises(RunError, match="run: damaged; delete it"):
            _ = folder.run_id


def test_what_a_killed_process_wrote_halfway_is_cleaned_up(tmp_path: Path) -> None:
    path = folder_after(tmp_path, 1)
    (path / ".checkpoint.safetensors.77.new").write_bytes(b"half")
    (path / "versions").mkdir()
    (path / "versions" / ".00000001.payload.77.new").write_bytes(b"half")
    (path / "versions" / "00000001.payload").write_bytes(b"whole")
    with RunFolder(tmp_path, EXPERIMENT):
        assert not list(path.glob(".*"))
        assert [found.name for found in (path / "versions").iterdir()] == ["00000001.payload"]


def test_as_many_versions_are_kept_as_the_experiment_says_until_they_are_removed(tmp_path: Path) -> None:
    experiment = load_experiment(overrides=[("wire.history", 2)])
    with RunFolder(tmp_path, experiment) as folder:
        for round in (1, 2, 3):
            folder.history.add(round, b"version %d" % round)
        assert [folder.history.find(round) for round in (1, 2, 3)] == [None, b"version 2", b"version 3"]
        versions = folder.path / "versions"
        assert sorted(path.name for path in versions.iterdir()) == ["00000002.payload", "00000003.payload"]
    with RunFolder(tmp_path, experiment) as folder:
        assert folder.history.find(3) == b"version 3"
        folder.remove_versions()
        folder.remove_versions()
        assert not versions.exists()
        assert folder.history.find(3) is None


def test_the_journal_is_removed_with_the_files_beside_it(tmp_path: Path) -> None:
    path = folder_after(tmp_path, 1)
    for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"):
        (path / name).write_bytes(b"")
    with RunFolder(tmp_path, EXPERIMENT) as folder:
        folder.remove_journal()
        folder.remove_journal()
    assert not list(path.glob("journal*"))


def test_lines_from_before_there_were_sections_are_still_read(tmp_path: Path) -> None:
    path = folder_after(tmp_path, 1)
    new = ("late", "mask_churn", "sections_up", "sections_down")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    old = [{k: v for k, v in line.items() if k not in new} for line in lines]
    for line in old:
        line["failures"] = [{"client": "a", "reason": "b"}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    with RunFolder(tmp_path, EXPERIMENT) as folder:
        assert [(r.late, r.mask_churn, r.sections_up, r.failures[0].kind) for r in folder.records()] == [
            (0, 0.0, {}, "device")
        ] * 2


def levelled_state() -> RoundState:
    generator = np.random.default_rng(0)
    outer = generator.random(MASK.kept) < 0.7
    return replace(
        state_after(3, held={7: 2, 2**64 - 1: 3}),
        nests=(outer, outer & (generator.random(MASK.kept) < 0.7)),
        own_floats=tuple(generator.normal(size=(2, 3)).astype(np.float32)),
        plans={2**64 - 1: 2, 7: 0, 8: 1},
        trained=1,
    )


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"own_floats": ()},
        {"nests": (), "own_floats": (), "plans": {7: 0}, "trained": 0},
        {"plans": {}, "trained": 2},
    ],
    ids=["all", "shared statistics", "plans of one level", "no plans"],
)
def test_levels_are_read_as_they_were_written(tmp_path: Path, change: dict[str, Any]) -> None:
    state, path = replace(levelled_state(), **change), tmp_path / "checkpoint"
    path.write_bytes(checkpoint_bytes(state))
    found = read_checkpoint(path)
    assert (found.mask, found.plans, found.held, found.trained) == (state.mask, state.plans, state.held, state.trained)
    for name in ("nests", "own_floats"):
        read, written = getattr(found, name), getattr(state, name)
        assert [one.tobytes() for one in read] == [one.tobytes() for one in written]
        assert [one.dtype for one in read] == [one.dtype for one in written]
    assert checkpoint_bytes(found) == checkpoint_bytes(state)


def test_a_state_without_levels_is_written_as_before_there_were_any() -> None:
    plain = checkpoint_bytes(state_after(3))
    assert b"hedgerow-checkpoint-3" in plain
    assert b"nests" not in plain
    assert b"hedgerow-checkpoint-4" in checkpoint_bytes(levelled_state())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("nests", np.zeros((2, 1), dtype=np.uint8)),
        ("nests", np.zeros((2, 2), dtype=np.uint16)),
        ("nests", np.array([[0, 0], [128, 0]], dtype=np.uint8)),
        ("own_floats", np.zeros((1, 3), dtype=np.float32)),
        ("own_floats", np.zeros((2, 3), dtype=np.float64)),
        ("levels", np.array([3, 0, 1], dtype=np.uint8)),
        ("levels", np.array([1, 0], dtype=np.uint8)),
        ("planned", np.array([1, 2, 3], dtype=np.int64)),
    ],
)
def test_levels_that_do_not_fit_are_refused(tmp_path: Path, name: str, values: Any) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint_bytes(levelled_state()))
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    save_file({**load_file(path), name: values}, path, metadata=metadata)
    with pytest.raises(RunError, match="damaged or from another version"):
        read_checkpoint(path)
