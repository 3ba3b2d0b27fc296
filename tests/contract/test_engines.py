"""One experiment comes out the same, bit by bit, whichever engine carries its messages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from hedgerow.config import Experiment, load_experiment, parse_override
from hedgerow.telemetry import read_records
from tests.contract.engines import ENGINES

SETTINGS = (
    "data.name=digits",
    "model.name=mlp",
    "rounds=3",
    "fleet.clients=4",
    # All four: nodes have other identifiers on each engine, so a smaller cohort would not be the same clients.
    "fleet.cohort=4",
    "pruning.density=0.1",
    "pruning.iterations=10",
)


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load_experiment(overrides=[parse_override(text) for text in SETTINGS])


@pytest.fixture(scope="module")
def expected(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ENGINES["local"](experiment, folder=tmp_path_factory.mktemp("local"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["grpc", "flower", "ray"])
def test_an_engine_makes_the_model_that_simulate_makes(
    engine: str, experiment: Experiment, expected: Path, tmp_path: Path
) -> None:
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; it comes with the extra `ray`")
    run = ENGINES[engine](experiment, folder=tmp_path)
    records = read_records(run / "metrics.jsonl")
    assert [r.replies for r in records] == [0, 4, 4, 4]
    assert [r.failures for r in records] == [()] * 4
    assert [r.accuracy for r in records] == [r.accuracy for r in read_records(expected / "metrics.jsonl")]
    assert (run / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
