"""Steps that are really taken to calibrate predictions, and how they are remembered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hedgerow.budget import Calibration, Candidate, candidates, predict
from hedgerow.client import calibrating, stepping
from hedgerow.client.calibrating import Calibrator, calibrations, small_steps
from hedgerow.client.stepping import Step, steps, tried_steps
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
    """Takes no step, but says that each took `more` bytes beyond what is computed, but for those `refused`."""

    def __init__(self, network: Traced, *, more: int, refused: Sequence[int] = ()) -> None:
        self.network, self.more, self.refused, self.asked = network, more, refused, 0
        self.experiments: list[Experiment] = []

    def __call__(self, experiments: Sequence[Experiment], **_: object) -> list[Step | None]:
        self.asked += 1
        self.experiments = list(experiments)
        return [None if n in self.refused else self.step(one) for n, one in enumerate(experiments)]

    def step(self, experiment: Experiment) -> Step:
        kept = dict.fromkeys(self.network.sizes, 1)
        computed = ledger_of(self.network, kept, plan_of(experiment, native=experiment.training.kernels == "native"))
        sizes = {name: size + self.more for name, size in computed.phases.items()}
        return Step(**sizes, scratch=0, kept=kept)


def taking(monkeypatch: pytest.MonkeyPatch, network: Traced, *, more: int = 5, refused: Sequence[int] = ()) -> Steps:
    taken = Steps(network, more=more, refused=refused)
    monkeypatch.setattr(calibrating, "tried_steps", taken)
    return taken


def calibration(
    network: Traced, experiment: Experiment = EXPERIMENT, *, budget: int | None = None, measure: bool = True
) -> Calibration | None:
    (found,) = calibrations([experiment], network, input_shape=SHAPE, classes=3, budget=budget, measure=measure)
    return found


def test_what_was_measured_once_is_remembered(network: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = taking(monkeypatch, network, more=1000)
    assert calibration(network, measure=False) is None, "nothing is remembered yet"
    first, second = calibration(network), calibration(network)
    assert first is not None
    assert first == second == calibration(network, measure=False)
    assert first.of_phase("backward", 32) == 1000
    assert taken.asked == 1


def test_another_storage_is_measured_anew(network: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = taking(monkeypatch, network)
    calibration(network)
    rounded = EXPERIMENT.training.model_copy(update={"activations": "int8"})
    calibration(network, EXPERIMENT.model_copy(update={"training": rounded}))
    assert taken.asked == 2


@pytest.mark.parametrize(
    "change",
    [
        {"forward": float("nan")},
        {"forward": -1},
        {"forward": "1000"},
        {"backward": None},
        {"update": 1 << 60},
        {"kept": {"0.weight": 1}},
        {"kept": 3},
    ],
)
def test_a_file_that_holds_no_steps_of_this_network_is_measured_anew(
    network: Traced, monkeypatch: pytest.MonkeyPatch, cache: Path, change: dict[str, Any]
) -> None:
    taken = taking(monkeypatch, network)
    known = calibration(network)
    (file,) = cache.glob("*.json")
    content = json.loads(file.read_text())
    content["decision"]["steps"][1] |= change
    file.write_text(json.dumps(content))
    assert calibration(network) == known
    assert taken.asked == 2
    file.write_text('{"decision": {"fixed": {"backward": 1}, "each": {}}}')
    assert calibration(network) == known
    assert taken.asked == 3


@pytest.mark.parametrize("name", ["processor", "version"])
def test_what_another_machine_or_version_measured_is_not_used(
    network: Traced, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    taken = taking(monkeypatch, network)
    calibration(network)
    monkeypatch.setattr(calibrating, name, lambda *_: "another")
    calibration(network)
    assert taken.asked == 2


def test_what_did_not_fit_is_tried_again_with_more_memory_only(
    network: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = taking(monkeypatch, network, refused=[1])
    for budget, asked in ((1000, 1), (900, 1), (1200, 1), (1300, 2), (1300, 2), (None, 3), (None, 3), (10**9, 3)):
        assert calibration(network, budget=budget) is None
        assert taken.asked == asked


def test_the_batch_of_the_run_does_not_matter(network: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = taking(monkeypatch, network)
    calibration(network)
    larger = EXPERIMENT.training.model_copy(update={"batch_size": 64, "micro_batch": 4})
    calibration(network, EXPERIMENT.model_copy(update={"training": larger}))
    assert taken.asked == 1


def test_where_a_step_cannot_be_taken_there_is_no_calibration(network: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> list[Step | None]:
        raise ValueError("0 of 2 steps were taken and measured: out of memory")

    monkeypatch.setattr(calibrating, "tried_steps", fail)
    assert calibration(network) is None


def test_all_ways_to_train_are_measured_at_once(network: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = taking(monkeypatch, network, more=7, refused=[2])
    calibrator = Calibrator(EXPERIMENT, input_shape=SHAPE, classes=3)
    ways = candidates(EXPERIMENT, native=False, levels=[0, 1])
    found = {one: calibrator(network, one) for one in ways}
    assert taken.asked == 1
    # Three ways to hold activations, blocks that run again or not, and two sizes of each.
    assert len(taken.experiments) == 12
    assert len({(one.training.activations, one.training.recompute) for one in taken.experiments}) == 6
    assert all(one.weights.momentum == EXPERIMENT.weights.momentum for one in taken.experiments)
    refused = taken.experiments[2].training
    for one, what in found.items():
        if (one.activations, one.recompute) == (refused.activations, refused.recompute):
            assert what is None
        else:
            assert what is not None
            assert what.of_phase("forward", 16) == 7
    stranger = Candidate.of(EXPERIMENT.model_copy(update={"training": TrainingSettings(kernels="native")}))
    assert calibrator(network, stranger) is None


def test_a_calibrator_that_may_not_measure_only_remembers(network: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, own = taking(monkeypatch, network), Candidate.of(EXPERIMENT)
    assert Calibrator(EXPERIMENT, input_shape=SHAPE, classes=3, measure=False)(network, own) is None
    assert taken.asked == 0
    assert Calibrator(EXPERIMENT, input_shape=SHAPE, classes=3)(network, own) is not None
    assert Calibrator(EXPERIMENT, input_shape=SHAPE, classes=3, measure=False)(network, own) is not None
    assert taken.asked == 1


def test_small_steps_have_one_part_and_kernels_by_name() -> None:
    training = EXPERIMENT.training.model_copy(update={"kernels": "auto", "micro_batch": 4})
    found = [one.training for one in small_steps(EXPERIMENT.model_copy(update={"training": training}))]
    assert [(one.batch_size, one.micro_batch) for one in found] == [(2, None), (4, None)]
    assert {one.kernels for one in found} <= {"native", "dense"}


def test_steps_are_taken_in_a_process_of_their_own_and_predicted(network: Traced) -> None:
    (found,) = steps([EXPERIMENT], input_shape=SHAPE, classes=3)
    assert sum(found.kept.values()) == pytest.approx(0.2 * network.weights, rel=0.05)
    predicted = predict(network, found.kept, plan_of(EXPERIMENT, native=False))
    assert found.peak == pytest.approx(predicted.step_bytes, rel=0.05)


def test_a_step_that_cannot_be_taken_leaves_the_others(network: Traced) -> None:
    unknown = EXPERIMENT.model_copy(update={"model": ModelSettings.model_construct(name="nothing")})
    first, second = tried_steps([unknown, EXPERIMENT], input_shape=SHAPE, classes=3, budget=10**8)
    assert first is None
    assert second is not None
    assert second.kept.keys() == network.sizes.keys()


def test_a_step_that_is_wanted_and_cannot_be_taken_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "tried_steps", lambda *_, **__: [None])
    with pytest.raises(ValueError, match="0 of 1 steps were taken and measured"):
        list(steps([EXPERIMENT], input_shape=SHAPE, classes=3))


def test_a_process_that_ends_early_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without threads to set, it ends before the first step.
    monkeypatch.setattr("torch.get_num_threads", lambda: "many")
    with pytest.raises(ValueError, match=r"0 of 1 steps were taken and measured: ValueError: .*many"):
        tried_steps([EXPERIMENT], input_shape=SHAPE, classes=3)
