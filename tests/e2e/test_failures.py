"""A client that fails is named, counted, and does not end the run."""

from __future__ import annotations

from pathlib import Path

from hedgerow.config import load_experiment, parse_override
from hedgerow.server.progress import Observer
from hedgerow.server.simulation import simulate
from hedgerow.telemetry import Failure, RoundRecord, read_records


class _Recorder(Observer):
    def __init__(self) -> None:
        self.rounds: list[RoundRecord] = []

    def finished_round(self, record: RoundRecord, *, rounds: int) -> None:
        self.rounds.append(record)


def test_a_client_that_raises_is_reported_by_name_and_the_run_ends_well(tmp_path: Path) -> None:
    texts = [
        "model.name=mlp",
        "rounds=2",
        "fleet.clients=4",
        "fleet.cohort=4",
        "pruning.density=0.1",
        "pruning.iterations=5",
    ]
    experiment = load_experiment(overrides=[parse_override(text) for text in texts])
    observer = _Recorder()
    path = simulate(experiment, out=tmp_path, client_app="tests.e2e.client_apps:app", observer=observer)
    expected = (Failure(client="client-0001", reason="the camera is broken"),)
    records = read_records(path / "metrics.jsonl")
    assert [r.failures for r in records[1:]] == [expected, expected]
    assert [r.replies for r in records[1:]] == [3, 3]
    assert [r.round for r in observer.rounds] == [0, 1, 2]
    # It never acknowledged the mask, so it is sent again, and the second round is only a little cheaper.
    assert (path / "model.safetensors").exists()
