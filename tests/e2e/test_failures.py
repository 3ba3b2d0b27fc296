"""What fails costs little: a client that raises or hangs, and a coordinator that is killed at any moment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.config import Experiment, load_experiment, parse_override
from hedgerow.server.progress import Observer
from hedgerow.server.simulation import simulate
from hedgerow.telemetry import Failure, RoundRecord, read_records
from tests.e2e.command import lasting
from tests.e2e.crashing import CRASHED


class _Recorder(Observer):
    def __init__(self) -> None:
        self.rounds: list[RoundRecord] = []

    def finished_round(self, record: RoundRecord, *, rounds: int) -> None:
        self.rounds.append(record)


def four_clients(*settings: str) -> Experiment:
    texts = [
        "model.name=mlp",
        "rounds=2",
        "fleet.clients=4",
        "pruning.density=0.1",
        "pruning.iterations=5",
        *settings,
    ]
    return load_experiment(overrides=[parse_override(text) for text in texts])


def test_a_client_that_raises_is_reported_by_name_and_the_run_ends_well(tmp_path: Path) -> None:
    experiment = four_clients("fleet.cohort=4")
    observer = _Recorder()
    path = simulate(experiment, out=tmp_path, client_app="tests.e2e.client_apps:app", observer=observer)
    expected = (Failure(client="client-0001", reason="the camera is broken"),)
    records = read_records(path / "metrics.jsonl")
    assert [r.failures for r in records[1:]] == [expected, expected]
    assert [r.replies for r in records[1:]] == [3, 3]
    assert [r.round for r in observer.rounds] == [0, 1, 2]
    # It never acknowledged the mask, so it is sent again, and the second round is only a little cheaper.
    assert (path / "model.safetensors").exists()


def test_a_client_that_hangs_costs_nothing_where_more_are_asked_than_needed(tmp_path: Path) -> None:
    experiment = four_clients("fleet.cohort=3", "fleet.oversampling=0.3")
    path = simulate(experiment, out=tmp_path, client_app="tests.e2e.client_apps:hanging", workers=2)
    records = read_records(path / "metrics.jsonl")[1:]
    assert [(r.cohort, r.replies, r.late, r.failures) for r in records] == [(4, 3, 1, ())] * 2
    assert (path / "model.safetensors").exists()


def test_a_client_that_hangs_costs_the_deadline_at_most(tmp_path: Path) -> None:
    experiment = four_clients("fleet.cohort=4", "fleet.deadline=0.1", "aggregation.min_replies=3")
    path = simulate(experiment, out=tmp_path, client_app="tests.e2e.client_apps:hanging", workers=2)
    records = read_records(path / "metrics.jsonl")[1:]
    assert [(r.cohort, r.replies, r.late) for r in records] == [(4, 3, 1)] * 2


class Crashes:
    """Runs of a live coordinator, each of which ends at a chosen moment."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.crashing"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, out: Path, *, attempt: int, moment: int = 0) -> tuple[int, int, str]:
        """Exit code, moments that there were, and the name of the last; without a moment it runs to its end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{out} {attempt} {moment}\n")
        self.process.stdin.flush()
        code, count, name = self.process.stdout.readline().rstrip("\n").split(" ", 2)
        return int(code), int(count), name


@pytest.fixture(scope="module")
def crashes() -> Iterator[Crashes]:
    runs = Crashes()
    yield runs
    assert runs.process.stdin is not None
    assert runs.process.stdout is not None
    runs.process.stdin.close()
    runs.process.stdout.close()
    assert runs.process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def undisturbed(crashes: Crashes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder of a run that nobody killed, and how many moments it had."""
    out = tmp_path_factory.mktemp("undisturbed")
    code, moments, _ = crashes.run(out, attempt=0)
    assert code == 0
    (path,) = out.iterdir()
    return path, moments


def same_run(out: Path, undisturbed: Path) -> bool:
    (path,) = out.iterdir()
    names = [sorted(entry.name for entry in folder.iterdir()) for folder in (path, undisturbed)]
    return names[0] == names[1] and lasting(path) == lasting(undisturbed)


def test_a_run_has_moments_in_every_phase(undisturbed: tuple[Path, int]) -> None:
    path, moments = undisturbed
    assert moments > 90
    records = read_records(path / "metrics.jsonl")
    assert [(r.replies, len(r.failures)) for r in records[1:]] == [(3, 1), (3, 1)]


@pytest.mark.parametrize("part", range(8))
def test_a_coordinator_killed_at_any_moment_ends_with_the_same_bits(
    part: int, crashes: Crashes, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    path, moments = undisturbed
    for moment in range(1 + part, moments + 1, 8):
        out = tmp_path / str(moment)
        code, _, name = crashes.run(out, attempt=0, moment=moment)
        assert code == CRASHED
        # Replies that are asked for again come in another order.
        assert crashes.run(out, attempt=1)[0] == 0, name
        assert same_run(out, path), name
        # Two rounds of four: at most the one that was just arriving is asked for once more.
        assert len(out.with_suffix(".asked").read_text().splitlines()) in (8, 9), name


# From one checkpoint to the next there are more than 35 moments; who never lives so long never ends.
@pytest.mark.parametrize("moments", [39, 41, 42])
def test_a_coordinator_killed_again_and_again_ends_with_the_same_bits(
    moments: int, crashes: Crashes, undisturbed: tuple[Path, int], tmp_path: Path
) -> None:
    ended = [crashes.run(tmp_path, attempt=attempt, moment=moments)[0] for attempt in range(12)]
    assert ended[0] == CRASHED
    assert ended[-1] == 0
    assert same_run(tmp_path, undisturbed[0])
