"""One experiment comes out the same, bit by bit, whichever engine carries its messages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from hedgerow.config import Experiment, load_experiment, parse_override
from hedgerow.telemetry import read_records
from tests.budgets import memory_for_levels
from tests.contract.engines import ENGINES

SETTINGS = (
    "data.name=digits",
    "model.name=mlp",
    "rounds=3",
    "fleet.clients=2",
    # Both: nodes have other identifiers on each engine, so a smaller cohort would not be the same clients.
    "fleet.cohort=2",
    "pruning.density=0.1",
    "pruning.iterations=10",
    # Two rounds of signs, and one of the weights that they stand for.
    "finish.rounds=1",
)

CHOOSING = (
    "data.name=digits",
    "model.name=lenet5",
    "rounds=3",
    "fleet.clients=2",
    "fleet.cohort=2",
    "pruning.density=0.2",
    "selection.candidates=3",
    'selection.pool=["random/erk", "magnitude/erk~"]',
    "selection.trial_steps=2",
    "adjustment.every=2",
    "adjustment.until=2",
    "evaluation.recalibrate=true",
    "training.steps=5",
    "wire.down=bf16",
)
"""The devices choose the mask; in round 2 it changes, and round 3 is told as a change."""

OWN_MASKS = (
    "data.name=digits",
    "model.name=lenet5",
    "rounds=3",
    "fleet.clients=2",
    "fleet.cohort=2",
    "pruning.density=0.2",
    "adjustment.every=1",
    "adjustment.until=2",
    "training.steps=5",
    "wire.down=bf16",
    "wire.up=uniform",
)
"""Each device changes the mask for itself, in rounds 1 and 2."""


PLANNING = (
    "data.name=digits",
    "model.name=conv4",
    # What a request really held decides who plans anew for the next round, and differs from one process to the next.
    "rounds=1",
    "fleet.clients=2",
    "fleet.cohort=2",
    "pruning.density=0.8",
    "pruning.rule=erk",
    "pruning.saliency=random",
    "training.steps=3",
    # What is faster differs from one run to the next, and so would the plans.
    "training.kernels=dense",
    "evaluation.recalibrate=true",
    "budget.plan=true",
    "budget.levels=[1.0, 0.5]",
)
"""Two classes of devices have memory for the whole and for half of it."""


@pytest.fixture(params=["grpc", "flower", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each but the local one, where it is installed."""
    if request.param == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; it comes with the extra `ray`")
    return str(request.param)


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load_experiment(recipe="hidenseek", overrides=[parse_override(text) for text in SETTINGS])


@pytest.fixture(scope="module")
def expected(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ENGINES["local"](experiment, folder=tmp_path_factory.mktemp("local"))


@pytest.mark.slow
def test_an_engine_makes_the_model_that_simulate_makes(
    engine: str, experiment: Experiment, expected: Path, tmp_path: Path
) -> None:
    run = ENGINES[engine](experiment, folder=tmp_path)
    records = read_records(run / "metrics.jsonl")
    assert [r.replies for r in records] == [0, 2, 2, 2]
    assert [r.failures for r in records] == [()] * 4
    assert [r.accuracy for r in records] == [r.accuracy for r in read_records(expected / "metrics.jsonl")]
    assert (run / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def planning() -> Experiment:
    experiment = load_experiment(recipe="hidenseek", overrides=[parse_override(text) for text in PLANNING])
    whole, half, _ = memory_for_levels(experiment)
    devices = [{"name": name, "share": 0.5, "memory": memory} for name, memory in (("phone", half), ("desktop", whole))]
    fleet = {**experiment.fleet.model_dump(), "devices": devices}
    return Experiment.model_validate({**experiment.model_dump(), "fleet": fleet})


@pytest.fixture(scope="module")
def planned(planning: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ENGINES["local"](planning, folder=tmp_path_factory.mktemp("planned"))


@pytest.mark.slow
def test_an_engine_trains_the_parts_of_two_classes_of_devices_as_simulate_does(
    engine: str, planning: Experiment, planned: Path, tmp_path: Path
) -> None:
    run = ENGINES[engine](planning, folder=tmp_path)
    theirs, ours = read_records(run / "metrics.jsonl"), read_records(planned / "metrics.jsonl")
    assert ours[1].plans is not None
    assert theirs[1].plans is not None
    assert theirs[1].plans.levels == ours[1].plans.levels == {0: 1, 1: 1}
    assert theirs[1].plans.budgets == ours[1].plans.budgets
    assert theirs[1].plans.predicted == ours[1].plans.predicted
    assert [[part.replies for part in r.levels] for r in theirs] == [[], [1, 1]]
    assert [r.levels for r in theirs] == [r.levels for r in ours]
    assert [r.failures for r in theirs] == [()] * 2
    assert theirs[1].recalibration is not None
    assert theirs[1].recalibration.replies == 1, "of who trains the whole"
    assert [r.accuracy for r in theirs] == [r.accuracy for r in ours]
    assert (run / "model.safetensors").read_bytes() == (planned / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_devices_that_join_choose_and_adjust_the_mask_that_simulate_does(tmp_path: Path) -> None:
    experiment = load_experiment(recipe="fedtiny", overrides=[parse_override(text) for text in CHOOSING])
    runs = []
    for engine in ("local", "grpc"):
        folder = tmp_path / engine
        folder.mkdir()
        runs.append(ENGINES[engine](experiment, folder=folder))
    ours, theirs = (read_records(run / "metrics.jsonl") for run in runs)
    assert theirs[0].selection is not None
    assert ours[0].selection is not None
    assert theirs[0].selection.candidates == ours[0].selection.candidates
    assert (theirs[0].selection.winner, theirs[0].selection.replies) == (ours[0].selection.winner, (2, 2))
    assert [r.failures for r in theirs] == [()] * 4
    assert [r.adjustment for r in theirs] == [r.adjustment for r in ours]
    assert [r.adjustment is not None for r in theirs] == [False, False, True, False]
    assert [r.updated for r in theirs] == [0, 0, 2, 2]
    assert [r.accuracy for r in theirs] == [r.accuracy for r in ours]
    models = [(run / "model.safetensors").read_bytes() for run in runs]
    assert models[0] == models[1]


@pytest.mark.slow
def test_devices_that_join_change_their_masks_as_in_a_simulation(tmp_path: Path) -> None:
    experiment = load_experiment(recipe="feddst", overrides=[parse_override(text) for text in OWN_MASKS])
    runs = []
    for engine in ("local", "grpc"):
        folder = tmp_path / engine
        folder.mkdir()
        runs.append(ENGINES[engine](experiment, folder=folder))
    ours, theirs = (read_records(run / "metrics.jsonl") for run in runs)
    assert [r.failures for r in theirs] == [()] * 4
    assert [r.adjustment for r in theirs] == [r.adjustment for r in ours]
    assert [r.adjustment is not None for r in theirs] == [False, True, True, False]
    assert [r.updated for r in theirs] == [0, 0, 2, 2]
    assert (runs[0] / "model.safetensors").read_bytes() == (runs[1] / "model.safetensors").read_bytes()
