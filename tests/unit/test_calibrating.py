"""Steps that are really taken to calibrate predictions, and how they are remembered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hedgerow.budget.prediction import Calibration, predict
from hedgerow.client import calibrating
from hedgerow.client.calibrating import Step, calibrated, small_steps, steps
from hedgerow.config import Experiment, ModelSettings, PruningSettings, TrainingSettings
from hedgerow.ledger import Traced, ledger_of, plan_of, traced
from hedgerow.models import build_model

SHAPE = (1, 6, 6)
EXPERIMENT = Experiment(
    model=ModelSettings(name="mlp"),
    representation="weights",
    pruning=PruningSettings(density=0.2, saliency="random", rule="uniform"),
    training=TrainingSettings(kernels="dense", batch_size=8),
)


@pytest.fixture(scope="module")
def network() -> Traced:
    return traced(build_model("mlp", input_shape=SHAPE, classes=3, seed=0), SHAPE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hedgerow" / "paths"


class Steps:
    """Takes no step, but says that each took `more` bytes beyond what is computed."""

    def __init__(self, network: Traced, *, more: int) -> None:
        self.network, self.more, self.asked = network, more, 0

    def __call__(self, experiments: Sequence[Experiment], **_: object) -> Iterator[Step]:
        self.asked += 1
        kept = dict.fromkeys(self.network.sizes, 1)
        for experiment in experiments:
            computed = ledger_of(self.network, kept, plan_of(experiment, native=False))
            sizes = {name: size + self.more for name, size in computed.phases.items()}
            yield Step(**sizes, scratch=0, kept=kept)


def calibration(network: Traced, experiment: Experiment = EXPERIMENT) -> Calibration | None:
    return calibrated(experiment, network, input_shape=SHAPE, classes=3)


def test_what_was_measured_once_is_remembered(network: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Steps(network, more=1000)
    monkeypatch.setattr(calibrating, "steps", taken)
    first, second = calibration(network), calibration(network)
    assert first is not None
    assert first == second
    assert first.of_phase("backward", 32) == 1000
    assert taken.asked == 1


def test_another_storage_and_a_damaged_file_are_measured_anew(
    network: Traced, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    taken = Steps(network, more=5)
    monkeypatch.setattr(calibrating, "steps", taken)
    calibration(network)
    rounded = EXPERIMENT.training.model_copy(update={"activations": "int8"})
    calibration(network, EXPERIMENT.model_copy(update={"training": rounded}))
    assert taken.asked == 2
    for file in cache.glob("*.json"):
        file.write_text('{"decision": {"fixed": {"backward": NaN}, "each": {}}}')
    assert calibration(network) is not None
    assert taken.asked == 3


def test_the_batch_of_the_run_does_not_matter(network: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Steps(network, more=5)
    monkeypatch.setattr(calibrating, "steps", taken)
    calibration(network)
    larger = EXPERIMENT.training.model_copy(update={"batch_size": 64, "micro_batch": 4})
    calibration(network, EXPERIMENT.model_copy(update={"training": larger}))
    assert taken.asked == 1


def test_where_a_step_cannot_be_taken_there_is_no_calibration(network: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Iterator[Step]:
        raise ValueError("0 of 2 steps were taken and measured: out of memory")

    monkeypatch.setattr(calibrating, "steps", fail)
    assert calibration(network) is None


def test_small_steps_have_one_part_and_kernels_by_name() -> None:
    training = EXPERIMENT.training.model_copy(update={"kernels": "auto", "micro_batch": 4})
    found = [one.training for one in small_steps(EXPERIMENT.model_copy(update={"training": training}))]
    assert [(one.batch_size, one.micro_batch) for one in found] == [(2, None), (4, None)]
    assert {one.kernels for one in found} <= {"native", "dense"}


def test_steps_are_taken_in_a_process_of_their_own_and_predicted(network: Traced) -> None:
    (found,) = steps([EXPERIMENT], input_shape=SHAPE, classes=3)
    assert sum(found.kept.values()) == round(0.2 * network.weights)
    predicted = predict(network, found.kept, plan_of(EXPERIMENT, native=False))
    assert found.peak == pytest.approx(predicted.step_bytes, rel=0.05)


def test_a_process_that_ends_early_says_why() -> None:
    unknown = EXPERIMENT.model_copy(update={"model": ModelSettings.model_construct(name="nothing")})
    with pytest.raises(ValueError, match=r"0 of 1 steps were taken and measured: .+"):
        list(steps([unknown], input_shape=SHAPE, classes=3))
