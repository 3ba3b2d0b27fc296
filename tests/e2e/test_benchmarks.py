"""The benchmarks run from end to end in their small version."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.budget.lines import FLEETS, budgets, class_experiment, experiment_of, plans
from benchmarks.budget.lines import LINES as BUDGET_LINES
from benchmarks.compare.lines import QUICK_LINES as COMPARE_LINES
from benchmarks.faults.fuzz import valid_reply
from benchmarks.faults.mutants import mutant_frames, mutant_reply
from benchmarks.faults.rows import Outcome, Row, table
from benchmarks.processes import Children, wait_until
from benchmarks.selection.compared import compared
from benchmarks.selection.lines import POOL, QUICK_LINES, Run, candidates, pool_line
from benchmarks.sparse.networks import Case, dense_copy, mask_of, model_of
from benchmarks.sparse.rows import target_table, targets
from benchmarks.sparse.timing import in_turns
from benchmarks.wire.decoders import Decoder
from benchmarks.wire.fuzz_child import Line, Trials, tracing
from benchmarks.wire.mutations import LONGEST, mutated

from hedgerow.codec.varints import varint
from hedgerow.errors import PayloadError
from hedgerow.native.library import status
from hedgerow.pruning import prunable_tensors
from hedgerow.v1.fleet_pb2 import Transfer
from hedgerow.wire.transfers import Body, frames_of

ROOT = Path(__file__).parents[2]
# The wire's figures are named by rate, codec, message or run.
_WIRE = {
    r"^flips\.[0-9.]+\.zstd_\w+_mb_s\w*$": "flips.RATE.zstd_…",
    r"^flips\.[0-9.]+\.": "flips.RATE.",
    r"^masks\.[a-z0-9-]+\.[0-9.]+\.(?:\w+(?=_best$))?": "masks.KIND.DENSITY.",
    r"^(masks\.KIND\.DENSITY\.)_best$": r"\1…_best",
    r"^values\.(?:fp16|int8|uniform-[0-9.]+)\.": "values.FORMAT.",
    r"^votes\.\w+\.": "votes.LINE.",
    r"^message\.\w+\.": "message.WHAT.",
    r"^runs\.(?:coded|one-bit)-[0-9.]+\.": "runs.LINE.",
    r"^(runs\..+)-[0-9.]+$": r"\1-DENSITY",
}
# Those of the choice among masks by data set, density and line.
_SELECTION = {
    r"^(?:fashion-mnist|cifar10-jpeg|digits)\.[0-9]\.[0-9]+\.": "DATA.DENSITY.",
    r"^DATA\.DENSITY\.[a-z-]+_over_[a-z-]+\.": "DATA.DENSITY.A_over_B.",
    r"^DATA\.DENSITY\.[a-z-]+\.": "DATA.DENSITY.LINE.",
    r"^(DATA\..+)\.[0-9]+$": r"\1.SEED",
    r"^memory\.growth\.(?:small|large)\.": "memory.growth.SIZE.",
}

# Those of budgets by network, storage, data set, line or size.
_BUDGET = {
    r"^prediction\.\w+\.(?:exact|int8|int4|topk)\.": "prediction.MODEL.STORAGE.",
    r"^limit\.(?:mlp|conv4|resnet18|mobilenetv2)\.": "limit.MODEL.",
    r"^fedmef\.(?:fashion-mnist|cifar10-jpeg|digits)\.": "fedmef.DATA.",
    r"^fedmef\.DATA\.(?:rigl|fedmef)[a-z-]*\.": "fedmef.DATA.LINE.",
    r"^(?:classes|parts)\.": "FLEET.",
    r"^FLEET\.budget\.\w+\.": "FLEET.budget.SIZE.",
    r"^FLEET\.(?:mixed|small|large)\.": "FLEET.LINE.",
    r"^((?:fedmef\.DATA|FLEET)\.LINE\.accuracy)\.[0-9]+$": r"\1.SEED",
}

# Those of all recipes by data set, line or piece.
_COMPARE = {
    r"^compare\.(?:fashion-mnist|cifar10-jpeg|digits)\.": "compare.DATA.",
    r"^compare\.DATA\.hedgerow_over_fedpm\..+$": "compare.DATA.hedgerow_over_fedpm.…",
    r"^compare\.DATA\.ablation\.[a-z-]+\..+$": "compare.DATA.ablation.LINE.…",
    r"^compare\.DATA\.addition\.[a-z-]+\..+$": "compare.DATA.addition.LINE.…",
    r"^compare\.DATA\.(?!hedgerow\.beaten_by$|hedgerow_over_|ablation\.|addition\.)[a-z-]+\.": "compare.DATA.LINE.",
    r"^(compare\.DATA\.LINE\.accuracy)\.[0-9]+$": r"\1.SEED",
}


def bench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def explained(name: str) -> bool:
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    # Reasons and kinds are those of the metrics; the broadcast has the figures of the empty round.
    stem = re.sub(r"(rejected)\.\w+$", r"\1.", name.replace("broadcast.", "empty_round."))
    # Of the sparse steps, by model, mask and density.
    stem = re.sub(r"^(resnet18|conv4|mobilenetv2)\.(uniform|erk)\.[0-9.]+\.", "CASE.", stem)
    stem = re.sub(r"^(\w+)\.(resnet18|conv4|mobilenetv2)\.", r"\1.MODEL.", stem)
    for known, written in (_WIRE | _SELECTION | _BUDGET | _COMPARE).items():
        stem = re.sub(known, written, stem)
    return f"`{stem}" in readme


@pytest.mark.slow
def test_the_quick_version_prints_its_table_and_writes_flat_figures(tmp_path: Path) -> None:
    done = bench("recipes", "--quick", "--json", tmp_path / "figures.json", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, int | float) for value in figures.values())
    assert figures["fedavg.bytes_both"] > 10 * figures["hidenseek-0.05.bytes_both"]
    assert figures["frozen-0.05.accuracy"] < 0.3, "the control stays at chance"
    for line in ("fedavg", "hidenseek-0.05", "one-bit-0.2", "float-0.05", "one-client-float-0.05"):
        assert f"| `{line}` |" in done.stdout
    assert (tmp_path / "runs" / "recipes-quick.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_rounds_are_measured_beside_those_of_stock_flower(tmp_path: Path) -> None:
    done = bench("fleet", "--quick", "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, int | float) for value in figures.values())
    ours, theirs = figures["empty_round.hedgerow_ms_median"], figures["empty_round.flower_ms_median"]
    assert figures["empty_round.ratio.flower_over_hedgerow"] == pytest.approx(theirs / ours)
    assert figures["many.devices"] == 100
    assert figures["many.coordinator_bytes_peak"] < 1_000_000_000
    assert [name for name in figures if not explained(name)] == []
    assert "| empty round, 1 KB down and up, median |" in done.stdout


@pytest.mark.slow
def test_nothing_is_lost_or_counted_twice_by_faults(tmp_path: Path) -> None:
    done = bench("faults", "--quick", "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["faults.failed"], figures["faults.lost"], figures["faults.counted_twice"]) == (0, 0, 0)
    assert figures["faults.identical"] == 3
    assert figures["fuzz.frames.true"] + figures["fuzz.frames.failed"] == figures["fuzz.frames.payloads"]
    refused = sum(count for name, count in figures.items() if name.startswith("fuzz.messages.rejected."))
    assert figures["fuzz.accepted"] + refused == figures["fuzz.messages.payloads"]
    assert [name for name in figures if not explained(name)] == []
    assert "| kill -9 the coordinator: taking replies |" in done.stdout


@pytest.mark.slow
def test_joined_devices_end_with_the_model_of_a_simulation_through_kills(tmp_path: Path) -> None:
    done = bench("kills", "--quick", "--json", tmp_path / "figures.json", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["kills.identical"], figures["kills.replies_lost"], figures["kills.rounds"]) == (1, 0, 4)
    assert figures["kills.accuracy.joined"] == figures["kills.accuracy.simulated"] > 0.8, "chance is 0.1"
    assert [name for name in figures if not explained(name)] == []


@pytest.mark.slow
def test_steps_of_kept_weights_are_timed_beside_dense_ones(tmp_path: Path) -> None:
    done = bench("sparse", "--quick", "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, int | float) for value in figures.values())
    line = "conv4.uniform.0.05"
    assert figures[f"{line}.ratio"] == pytest.approx(figures[f"{line}.dense_ms"] / figures[f"{line}.ours_ms"])
    assert figures[f"{line}.ratio"] > 1.5, "far from the target even for a machine that is busy"
    assert figures[f"{line}.lasting_bytes"] < figures[f"{line}.ours_bytes"] < figures[f"{line}.dense_bytes"]
    assert figures["gradients.conv4.floats.ours"] < 1e-5
    assert figures["gradients.conv4.signs.ours"] < 1e-5
    assert [name for name in figures if not explained(name)] == []
    assert "| Conv-4 | uniform | 0.05 |" in done.stdout


@pytest.mark.slow
def test_what_travels_is_measured_beside_its_entropy(tmp_path: Path) -> None:
    done = bench("wire", "--quick", "--json", tmp_path / "figures.json", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, int | float) for value in figures.values())
    assert (figures["fuzz.crashes"], figures["fuzz.hangs"], figures["wire.missed"]) == (0, 0, 0)
    assert figures["fuzz.inputs"] == figures["fuzz.valid"] + figures["fuzz.refused"] >= 4000
    assert all(figures[f"flips.{rate}.share"] >= 0.999 for rate in (0.001, 0.1, 0.4)), "below the bound of random bits"
    assert figures["flips.0.1.zstd_share"] > figures["flips.0.1.share"]
    assert figures["message.delta.entropy"] < figures["message.whole.entropy"]
    assert figures["runs.ratio.bytes_both-0.05"] < 0.5
    assert [name for name in figures if not explained(name)] == []
    assert "| flips at 0.001: size / entropy |" in done.stdout


@pytest.mark.slow
def test_selection_and_adjustment_are_measured_beside_static_masks(tmp_path: Path) -> None:
    done = bench("selection", "--quick", "--json", tmp_path / "figures.json", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, int | float) for value in figures.values())
    assert (figures["selection.missed"], figures["exact.topk.mismatches"]) == (0, 0)
    assert figures["exact.pooling.error"] < 1e-5 < figures["exact.pooling.averaged_error"]
    assert figures["memory.growth.large.search_bytes"] == figures["memory.growth.small.search_bytes"]
    of = {line: {key: figures[f"digits.0.1.{line}.{key}"] for key in ("accuracy", "kept")} for line in QUICK_LINES}
    assert all(line["accuracy"] > 0.6 for line in of.values()), "chance is 0.1"
    assert len({line["kept"] for line in of.values()}) == 1, "an adjustment keeps as many weights"
    adjusted = {line for line in QUICK_LINES if figures[f"digits.0.1.{line}.adjustments"] == 2}
    assert adjusted == {line for line in QUICK_LINES if figures[f"digits.0.1.{line}.exchanged"] > 0}
    assert adjusted == {"fedtiny", "fedtiny-public"}
    pool = [of[line]["accuracy"] for line in candidates(quick=True)]
    chosen = pool[int(figures["digits.0.1.selected.winner.0"])]
    assert sorted(pool, reverse=True)[int(figures["digits.0.1.selected.rank.0"]) - 1] == chosen
    gain = 100 * (pool[int(figures["digits.0.1.fedtiny.winner.0"])] - sum(pool) / len(pool))
    assert figures["digits.0.1.choice_over_pool.points"] == pytest.approx(gain)
    assert [name for name in figures if not explained(name)] == []
    assert f"| `fedtiny` - `synflow` | {figures['digits.0.1.fedtiny_over_synflow.points']:.2f} |" in done.stdout
    assert (tmp_path / "runs" / "selection-quick.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_budgets_are_predicted_kept_to_and_trained_with(tmp_path: Path) -> None:
    done = bench("budget", "--quick", "--json", tmp_path / "figures.json", "--out", tmp_path / "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, int | float) for value in figures.values())
    assert figures["prediction.worst"] >= figures["prediction.mean"] > 0
    assert figures["reading.conv4.step_bytes"] > 0
    assert (figures["limit.conv4.survived"], figures["budget.missed"]) == (1, 0), done.stdout
    peaks = {line: figures[f"fedmef.digits.{line}.peak_bytes"] for line in ("rigl-nsconv", "fedmef")}
    assert figures["fedmef.digits.less_memory"] == pytest.approx(1 - peaks["fedmef"] / peaks["rigl-nsconv"])
    assert figures["fedmef.digits.less_memory"] > 0
    if status().available:
        # Of dense weights and their gradients the activations are a smaller part.
        steps = {line: figures[f"fedmef.digits.{line}.training_bytes"] for line in peaks}
        assert 1 - steps["fedmef"] / steps["rigl-nsconv"] > 0.2, "the peak is that of its search"
    assert len({figures[f"fedmef.digits.{line}.kept"] for line in peaks}) == 1, "adjustments keep as many"
    sizes = [figures[f"parts.budget.{size}.bytes"] for size in ("small", "medium", "large")]
    assert sizes == [sizes[0], 2 * sizes[0], 4 * sizes[0]]
    assert figures["parts.budget.small.level"] > figures["parts.budget.large.level"] == 0
    assert figures["parts.small.kept"] < figures["parts.mixed.kept"] == figures["parts.large.kept"]
    assert 0 < figures["parts.small.held_bytes"] < figures["parts.large.held_bytes"]
    assert figures["parts.small.held_bytes"] <= sizes[0]
    gain = 100 * (figures["parts.mixed.accuracy"] - figures["parts.small.accuracy"])
    assert figures["parts.mixed_minus_small"] == pytest.approx(gain)
    assert [name for name in figures if not explained(name)] == []
    assert "| `fedmef` |" in done.stdout


@pytest.mark.slow
def test_recipes_and_a_recipe_without_a_piece_are_measured_beside_each_other(tmp_path: Path) -> None:
    options = ("compare", "--quick", "--json", tmp_path / "figures.json", "--out", tmp_path / "runs")
    done = bench(*options)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(isinstance(value, int | float) for value in figures.values())
    assert (figures["compare.failed"], figures["compare.missed"]) == (0, 0), done.stdout
    of = {
        line: {key: figures[f"compare.digits.{line}.{key}"] for key in ("accuracy", "bytes_both", "peak_bytes", "kept")}
        for line in COMPARE_LINES
    }
    assert of["fedavg"]["accuracy"] > 0.8, "chance is 0.1"
    dense, ours, moving = of["fedavg"], of["hedgerow"], of["with-adjustment"]
    assert figures["compare.digits.hedgerow.fewer_bytes"] == pytest.approx(dense["bytes_both"] / ours["bytes_both"])
    assert figures["compare.digits.hedgerow.less_memory"] == pytest.approx(dense["peak_bytes"] / ours["peak_bytes"])
    assert figures["compare.digits.hedgerow.fewer_bytes"] > 10
    assert ours["kept"] == moving["kept"] < dense["kept"], "an adjustment keeps as many weights"
    assert ours["bytes_both"] < moving["bytes_both"], "gradients and what a mask gains and loses travel too"
    points = 100 * (moving["accuracy"] - ours["accuracy"])
    assert figures["compare.digits.addition.with-adjustment.points"] == pytest.approx(points)
    assert [name for name in figures if not explained(name)] == []
    assert f"| `with-adjustment` | {points:+.2f} |" in done.stdout
    assert (tmp_path / "runs" / "compare-quick.png").read_bytes().startswith(b"\x89PNG")
    again = bench(*options)
    assert "4 done before" in again.stdout, "what is finished is not run again"


def test_dynamic_lines_differ_only_in_what_they_are_about() -> None:
    for quick in (False, True):
        found = {line: experiment_of(line, data={}, seed=1, quick=quick) for line in BUDGET_LINES}
        for one in found.values():
            assert one.representation == "weights"
            assert (one.data, one.fleet, one.evaluation) == (found["rigl"].data, found["rigl"].fleet, one.evaluation)
            assert (one.pruning, one.rounds, one.seed) == (found["rigl"].pruning, found["rigl"].rounds, 1)
            assert one.adjustment.every == found["rigl"].adjustment.every
        assert [found[line].model.norm for line in BUDGET_LINES] == ["batch", "nsconv", "nsconv", "nsconv"]
        assert [found[line].training.activations for line in BUDGET_LINES] == ["exact", "exact", "topk", "topk"]
        assert [found[line].extrusion.penalty > 0 for line in BUDGET_LINES] == [False, False, True, False]


def test_classes_have_memory_of_one_two_and_four_and_as_many_clients_each() -> None:
    mixed, small, large = (
        class_experiment(FLEETS["parts"], line, data={"data.name": "digits"}, seed=0, quick=False, smallest=10**7).fleet
        for line in ("mixed", "small", "large")
    )
    assert [device.memory_bytes for device in mixed.devices] == [10**7, 2 * 10**7, 4 * 10**7]
    assert mixed.device_counts == (4, 4, 4)
    assert [device.memory_bytes for device in (*small.devices, *large.devices)] == [10**7, 4 * 10**7]
    assert small.device_counts == large.device_counts == (12,)


def test_the_smallest_memory_is_just_enough_for_what_a_fleet_asks_of_it() -> None:
    levels = {}
    for name, fleet in FLEETS.items():
        smallest = budgets(fleet, data={}, quick=True)
        found = plans(fleet, data={}, quick=True, smallest=smallest)
        assert [plan.budget for plan in found.values()] == [smallest, 2 * smallest, 4 * smallest]
        assert all(plan.predicted <= plan.budget for plan in found.values())
        levels[name] = [plan.chosen.level for plan in found.values()]
    assert levels["classes"] == [0, 0, 0]
    assert levels["parts"][0] > levels["parts"][2] == 0


def test_static_lines_are_made_as_the_candidates_are() -> None:
    for quick in (False, True):
        selection = Run(line="fedtiny", density=0.1, seed=0).experiment({}, quick=quick).selection
        own = selection.pool[: selection.candidates]
        assert [pool_line(name) for name in own] == candidates(quick=quick)
    assert pool_line("random/erk~") is None


def test_differences_of_lines_are_paired_by_seed() -> None:
    static = {line: {0: 0.5, 1: 0.8} for line in POOL}
    figures = compared({**static, "fedtiny": {0: 0.52, 1: 0.81}, "selected": {0: 0.4, 1: 0.92}}, pool=list(POOL))
    assert figures["fedtiny_over_synflow.points"] == pytest.approx(1.5)
    assert figures["fedtiny_over_synflow.spread"] == pytest.approx(0.5**0.5), "2 and 1 points"
    assert figures["fedtiny_over_synflow.least"] == pytest.approx(1)
    assert figures["selected_over_pool.points"] == pytest.approx(1)
    assert "selected-trial_over_pool.points" not in figures


def test_a_decoder_that_crashes_or_hangs_is_counted_and_its_input_kept(tmp_path: Path) -> None:
    trials = Trials(tmp_path, found=(Decoder("bad", careless, (b"good",)),))
    try:
        for data in (b"good", b"", b"refuse", b"hang"):
            trials.run(0, data)
    finally:
        trials.close()
    assert trials.counts == {"inputs": 4, "valid": 1, "crashes": 1, "refused": 1, "hangs": 1}
    assert sorted(path.read_bytes() for path in tmp_path.glob("*.input")) == [b"\0", b"\0hang"]


def careless(data: bytes) -> None:
    if data == b"refuse":
        raise PayloadError("no")
    while data == b"hang":
        pass
    assert data[0]


def test_lines_that_an_input_reaches_are_known() -> None:
    once, twice = set[Line](), set[Line]()
    with tracing(once):
        varint(1)
    with tracing(twice):
        varint(1 << 40)
    assert once < twice


def test_damage_is_seeded_and_bounded() -> None:
    seeds = [b"", b"abc", bytes(range(256)) * 16]
    first = [mutated(seeds[k % 3], seeds, random.Random(k)) for k in range(500)]
    assert first == [mutated(seeds[k % 3], seeds, random.Random(k)) for k in range(500)]
    assert max(map(len, first)) <= LONGEST
    assert len(set(first)) > 300


def test_a_figure_below_its_target_is_said_to_be_missed() -> None:
    figures = {"resnet18.erk.0.05.ratio": 2.99, "conv4.uniform.0.05.ratio": 3.0, "memory.speed": 1.0}
    assert [target.reached(figures) for target in targets(figures)] == [False, True, False]
    assert target_table(figures).count("**missed**") == 2


def test_two_steps_are_timed_in_turns_and_the_first_of_each_does_not_count() -> None:
    calls: list[str] = []
    pair = in_turns(lambda: calls.append("a"), lambda: calls.append("b"), turns=2)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert pair.ratio == pytest.approx(pair.first / pair.second)


def test_the_dense_reference_computes_with_kept_weights_only() -> None:
    case = Case("conv4", "uniform", 0.05)
    model = model_of(case)
    mask = mask_of(case, model)
    expected = {name: weight.detach() * mask[name] for name, weight in prunable_tensors(model).items()}
    dense = dense_copy(model, mask)
    for name, weight in expected.items():
        used = dense.get_submodule(name.removesuffix(".weight")).weight
        assert isinstance(used, torch.Tensor)
        assert torch.equal(used, weight)


def test_a_row_of_the_fault_table_fails_when_anything_is_not_as_it_has_to_be() -> None:
    good = Outcome(0, 0, {"late": 1}, True)
    assert Row("a", "b", good).passed
    assert Row("a", "b", replace(good, identical=None)).passed
    for changed in ({"lost": 1}, {"twice": 1}, {"identical": False}, {"problem": "it is blue"}):
        row = Row("a", "b", replace(good, **changed))
        assert not row.passed
        assert "**failed**" in table([row])


def test_mutants_are_seeded_and_never_what_they_were_made_of() -> None:
    reply = valid_reply()
    first = [mutant_reply(reply, random.Random(seed)) for seed in range(200)]
    assert first == [mutant_reply(reply, random.Random(seed)) for seed in range(200)]
    assert reply not in first
    assert len(set(first)) > 100
    whole = list(frames_of(Transfer(id="a" * 32, round=1, attempt=1), Body(reply)))
    assert all(mutant_frames("a" * 32, 1, reply, random.Random(seed)) != whole for seed in range(200))


def test_what_a_benchmark_started_is_gone_when_it_ends(tmp_path: Path) -> None:
    # The child of a child, in a session of its own, as Flower's daemons have them.
    program = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); time.sleep(600)"
    with Children(tmp_path) as children:
        children.start([sys.executable, "-c", program], name="parent")
        wait_until(lambda: len(children.left()) == 2, "both run", seconds=30)
    assert children.left() == []


def test_the_names_in_the_json_are_explained() -> None:
    for name in (
        "accuracy",
        "bits_up_per_kept_weight",
        "entropy_share_up",
        "client_peak_bytes",
        "gap.points.one_client",
    ):
        assert explained(name)


def test_an_unknown_benchmark_lists_those_that_exist() -> None:
    done = bench("nothing")
    assert done.returncode == 2
    assert "there are recipes" in done.stderr
    assert "recipes" in bench().stdout
