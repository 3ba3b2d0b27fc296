"""`hedgerow simulate` as its user sees it: real processes, real kills."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from hedgerow.artifact import load_artifact
from hedgerow.assembly import dataset_of, model_of
from hedgerow.config import Experiment, load_experiment
from hedgerow.server.evaluation import evaluate
from hedgerow.telemetry import read_records
from tests.e2e.command import TINY, hedgerow, lasting, only_run, start

BATCH = "--set=training.batch_size=8"
ALONE = "--workers=1"
"""Each further worker takes as long to start as such a run to train."""
SIGNS = (*TINY, "--recipe=hidenseek")
"""The others are of the default recipe, which trains weights."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("finished")
    out, _ = hedgerow("simulate", *SIGNS, "--workers=2", cwd=cwd)
    assert "done: runs" in out
    return only_run(cwd)


LONG = ("simulate", *TINY, "--rounds=40")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is long enough to be stopped, which nobody did."""
    cwd = tmp_path_factory.mktemp("long")
    hedgerow(*LONG, ALONE, cwd=cwd)
    return only_run(cwd)


def test_a_run_leaves_all_its_files_and_nothing_else(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoint.safetensors",
        "experiment.toml",
        "lock",
        "metrics.jsonl",
        "model.safetensors",
        "paths.json",
        "report.html",
    ]
    experiment = load_experiment(finished / "experiment.toml")
    assert experiment.digest() == finished.name
    assert experiment.rounds == 3


def test_the_records_say_what_travelled(finished: Path) -> None:
    records = read_records(finished / "metrics.jsonl")
    assert [r.round for r in records] == [0, 1, 2, 3]
    kept = records[0].kept
    assert kept == round(0.1 * (64 * 300 + 300 * 100 + 100 * 10))
    floats = 4 * (300 + 100) + 10  # scale, shift, mean, variance of two norms; one bias
    for record in records[1:]:
        assert record.replies == record.cohort == 3
        # 45 % of the weights vote, a bit each; changes of floats take two or so; envelope and headers are the rest.
        content = (0.45 * kept + 2 * floats) / 8
        assert 3 * 0.8 * content <= record.bytes_up <= 3 * (1.2 * content + 250)
        assert record.entropy_up <= record.bytes_up
        assert record.entropy_down <= record.bytes_down
        measured = record.measured
        assert measured.client_phase_bytes is not None
        assert 0 < measured.client_phase_bytes.update < measured.client_phase_bytes.backward
        assert measured.client_peak_bytes == measured.client_phase_bytes.peak
        assert measured.client_ledger_bytes is not None
        assert measured.client_peak_bytes == pytest.approx(measured.client_ledger_bytes.peak, rel=0.5)
    assert records[1].bytes_down > records[1].bytes_up, "the first requests bring the mask"


def test_the_same_command_again_says_that_it_is_done(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir() if path.suffix in (".jsonl", ".safetensors")}
    out, _ = hedgerow("simulate", *SIGNS, cwd=finished.parents[1])
    assert out.startswith("already done: runs")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_same_seed_gives_the_same_bits_with_any_number_of_workers(finished: Path, tmp_path: Path) -> None:
    hedgerow("simulate", *SIGNS, ALONE, cwd=tmp_path)
    assert lasting(only_run(tmp_path)) == lasting(finished)


def test_another_seed_gives_another_model(finished: Path, tmp_path: Path) -> None:
    hedgerow("simulate", *SIGNS, "--seed=1", ALONE, cwd=tmp_path)
    assert lasting(only_run(tmp_path))[1] != lasting(finished)[1]


def test_the_model_file_is_read_without_hedgerow(finished: Path) -> None:
    with safe_open(finished / "model.safetensors", framework="np") as file:
        metadata = json.loads(file.metadata()["hedgerow"])
        assert metadata["seed"] == 0
        assert metadata["experiment"]["pruning"]["density"] == 0.1
        dense = {}
        for name, shape in metadata["shapes"].items():
            bits = np.unpackbits(file.get_tensor(f"{name}.mask"), count=int(np.prod(shape))).astype(bool)
            signs = np.unpackbits(file.get_tensor(f"{name}.signs"), count=int(bits.sum())).astype(bool)
            dense[name] = np.zeros(int(np.prod(shape)), np.float32)
            dense[name][bits] = np.where(signs, 1, -1) * file.get_tensor(f"{name}.magnitude")
    loaded = load_artifact(finished / "model.safetensors")
    for name, weight in dense.items():
        np.testing.assert_array_equal(loaded[name].numpy().reshape(-1), weight)
        assert np.count_nonzero(weight)


def test_weights_in_the_model_file_are_read_without_hedgerow(long: Path) -> None:
    loaded = load_artifact(long / "model.safetensors")
    with safe_open(long / "model.safetensors", framework="np") as file:
        metadata = json.loads(file.metadata()["hedgerow"])
        assert metadata["experiment"]["recipe"] == "hedgerow"
        for name, shape in metadata["shapes"].items():
            bits = np.unpackbits(file.get_tensor(f"{name}.mask"), count=int(np.prod(shape))).astype(bool)
            weight = np.zeros(int(np.prod(shape)), np.float32)
            weight[bits] = file.get_tensor(f"{name}.values")
            np.testing.assert_array_equal(loaded[name].numpy().reshape(-1), weight)
            assert np.count_nonzero(weight)


def test_the_delivered_model_has_the_accuracy_of_the_last_record(finished: Path) -> None:
    experiment = load_experiment(finished / "experiment.toml")
    dataset = dataset_of(experiment)
    model = model_of(experiment, dataset)
    model.load_state_dict(load_artifact(finished / "model.safetensors"))
    last = read_records(finished / "metrics.jsonl")[-1]
    assert evaluate(model, dataset, batch_size=500).accuracy == last.accuracy


def test_the_report_holds_the_result(finished: Path) -> None:
    accuracy = read_records(finished / "metrics.jsonl")[-1].accuracy
    assert accuracy is not None
    text = (finished / "report.html").read_text()
    assert f"{100 * accuracy:.2f}" in text
    assert "<svg" in text


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_goes_on_and_ends_the_same(kind: signal.Signals, long: Path, tmp_path: Path) -> None:
    process = start(*LONG, "--workers=2", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/checkpoint.safetensors")) or len(read_records(_metrics(tmp_path))) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(kind)
    _, err = process.communicate(timeout=60)
    if kind != signal.SIGKILL:
        assert process.returncode == 130
        assert "the same command goes on from there" in err
        assert "Traceback" not in err
    done = read_records(_metrics(tmp_path))[-1].round
    assert 3 <= done < 40, "it was stopped on the way"
    out, _ = hedgerow(*LONG, "--workers=2", cwd=tmp_path)
    assert "resuming after round" in out
    assert lasting(only_run(tmp_path)) == lasting(long)


def _metrics(cwd: Path) -> Path:
    return only_run(cwd) / "metrics.jsonl"


def test_fedavg_learns_the_digits(tmp_path: Path) -> None:
    hedgerow("simulate", "--recipe=fedavg", *TINY, "--density=1", "--rounds=10", BATCH, ALONE, cwd=tmp_path)
    records = read_records(_metrics(tmp_path))
    first, last = records[0].accuracy, records[-1].accuracy
    assert first is not None
    assert last is not None
    assert first < 0.3
    assert last > 0.8
    weights = 64 * 300 + 300 * 100 + 100 * 10
    assert records[-1].bytes_up > 3 * 4 * weights


@pytest.mark.parametrize("aggregation", ["drift", "innovation", "mean", "vote"])
@pytest.mark.parametrize("magnitude", ["constant", "random"])
def test_signs_learn_in_every_variant(aggregation: str, magnitude: str, tmp_path: Path) -> None:
    hedgerow(
        "simulate",
        *SIGNS,
        "--rounds=12",
        f"--set=aggregation.signs={aggregation}",
        "--set=signs.abstain=0",
        "--set=aggregation.gain=0.3",
        f"--set=signs.magnitude={magnitude}",
        "--set=training.epochs=3",
        BATCH,
        ALONE,
        cwd=tmp_path,
    )
    last = read_records(_metrics(tmp_path))[-1]
    assert last.accuracy is not None
    assert last.accuracy > 0.4, "far above chance"
    assert (last.client_flip_rate is None) == (aggregation == "drift")


def test_frozen_signs_without_trained_norms_stay_at_chance(tmp_path: Path) -> None:
    hedgerow("simulate", *SIGNS, "--set=signs.step=0", "--set=signs.norm_learning_rate=0", ALONE, cwd=tmp_path)
    records = read_records(_metrics(tmp_path))
    assert {r.flip_rate for r in records[1:]} == {0.0}
    assert records[-1].accuracy is not None
    assert records[-1].accuracy < 0.3


def test_experiment_files_and_own_functions_work(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np, torch\n"
        "def data():\n"
        "    rng = np.random.default_rng(0)\n"
        "    y = rng.integers(0, 2, 80)\n"
        "    x = (rng.random((80, 1, 6, 6)) + y[:, None, None, None]).astype(np.float32)\n"
        "    return x[:60], y[:60], x[60:], y[60:]\n"
        "def model(input_shape, classes):\n"
        "    size = int(np.prod(input_shape))\n"
        "    nn = torch.nn\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.ReLU(), nn.Linear(16, classes))\n"
    )
    (tmp_path / "experiment.toml").write_text(
        'recipe = "fedavg"\nrounds = 8\n[fleet]\nclients = 4\ncohort = 2\n'
        '[data]\nname = "mine:data"\npartition = "iid"\n'
        '[model]\nname = "mine:model"\n[training]\nbatch_size = 4\nepochs = 5\n[pruning]\ndensity = 0.5\n'
    )
    out, _ = hedgerow("simulate", "experiment.toml", ALONE, cwd=tmp_path)
    assert "304 of 608 weights kept" in out
    accuracy = read_records(_metrics(tmp_path))[-1].accuracy
    assert accuracy is not None
    assert accuracy > 0.9


def test_many_clients_take_no_more_memory_than_few(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def data():\n"
        "    rng = np.random.default_rng(0)\n"
        "    y = rng.integers(0, 4, 4000)\n"
        "    x = rng.integers(0, 256, (4000, 1, 8, 8)).astype(np.uint8)\n"
        "    return x[:3900], y[:3900], x[3900:], y[3900:]\n"
    )
    peaks = []
    for clients, cohort in ((10, 5), (1000, 100)):
        cwd = tmp_path / str(clients)
        cwd.mkdir()
        (cwd / "mine.py").write_text((tmp_path / "mine.py").read_text())
        sizes = (f"--set=fleet.clients={clients}", f"--set=fleet.cohort={cohort}", "--set=data.partition=iid")
        hedgerow("simulate", *TINY, "--data=mine:data", "--rounds=2", *sizes, ALONE, cwd=cwd)
        last = read_records(_metrics(cwd))[-1]
        assert last.replies == cohort
        assert last.measured.coordinator_peak_bytes is not None
        peaks.append(last.measured.coordinator_peak_bytes)
    assert peaks[1] - peaks[0] < 32_000_000


def test_recipes_are_listed(tmp_path: Path) -> None:
    out, _ = hedgerow("recipes", "--models", cwd=tmp_path)
    assert "hidenseek" in out
    assert "fedavg" in out
    assert "resnet18" in out
    assert [line.split()[0] for line in out.splitlines() if line.endswith("; the default")] == ["hedgerow"]


def test_defaults_make_a_valid_experiment() -> None:
    assert load_experiment().recipe == "hedgerow"
    assert Experiment().digest() != Experiment(rounds=7).digest()


def test_torch_has_the_pinned_version() -> None:
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text().split("torch==")[1].split()[0]
    assert torch.__version__.split("+")[0] == pinned
