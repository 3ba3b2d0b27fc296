"""Which way to train a device takes, and why."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.budget import Calibration, Candidate, DevicePlan, Refusal, candidates, class_of, solve
from hedgerow.budget.deciding import Calibrate, Decider, estimated_levels
from hedgerow.budget.penalties import penalty_of, time_of
from hedgerow.budget.words import candidate_text, ladder_lines, plan_lines, plan_record, refusal_text
from hedgerow.config import Experiment
from hedgerow.config.load import load_experiment, parse_override
from hedgerow.ledger import Traced
from hedgerow.models import build_model
from hedgerow.pruning import prunable_tensors
from hedgerow.units import size_text

MB = 1_000_000
CLASSES = 'fleet.devices=[{name="small",share=0.3,memory="8MB"},{name="large",share=0.7,memory="64MB"}]'


def loaded(*texts: str) -> Experiment:
    return load_experiment(recipe="hidenseek", overrides=[parse_override(text) for text in texts])


def way(micro_batch: int = 8, *, recompute: bool = False, momentum: bool = True, level: int = 0) -> Candidate:
    return Candidate(
        level=level,
        kernels="dense",
        activations="exact",
        micro_batch=micro_batch,
        recompute=recompute,
        momentum=momentum,
    )


ASKED, PARTS, AGAIN, PLAIN = way(), way(4), way(recompute=True), way(momentum=False)
SIZES = {ASKED: 40 * MB, PARTS: 30 * MB, AGAIN: 20 * MB, PLAIN: 10 * MB}
COSTS = {ASKED: (0.0, 1.0), PARTS: (0.1, 1.1), AGAIN: (0.0, 1.3), PLAIN: (0.5, 1.0)}


def solved(budget: int, *, guard: float = 1.0) -> DevicePlan | Refusal:
    return solve(list(SIZES), SIZES.__getitem__, budget, cost=COSTS.__getitem__, guard=guard)


@pytest.mark.parametrize(
    ("megabytes", "chosen"), [(100, ASKED), (40, ASKED), (39, AGAIN), (30, AGAIN), (19, PLAIN), (10, PLAIN)]
)
def test_the_way_that_costs_least_of_those_that_fit_is_taken(megabytes: int, chosen: Candidate) -> None:
    found = solved(megabytes * MB)
    assert isinstance(found, DevicePlan)
    assert (found.chosen, found.asked, found.predicted) == (chosen, ASKED, SIZES[chosen])
    assert (found.asked_bytes, found.penalty) == (40 * MB, COSTS[chosen][0])


def test_where_nothing_fits_the_least_that_would_do_is_said() -> None:
    assert solved(9 * MB) == Refusal(smallest=PLAIN, budget=9 * MB, least=10 * MB)
    assert solved(10 * MB, guard=1.01) == Refusal(smallest=PLAIN, budget=10 * MB, least=11 * MB)


def test_a_guard_leaves_something_to_spare() -> None:
    found = solved(41 * MB, guard=1.05)
    assert isinstance(found, DevicePlan)
    assert found.chosen == AGAIN


def test_of_equal_penalties_time_decides_and_then_memory() -> None:
    asked, slow, wide, narrow = way(16), way(8), way(4), way(2)
    sizes = {asked: 9 * MB, slow: 1 * MB, wide: 3 * MB, narrow: 2 * MB}
    costs = {asked: (0.0, 1.0), slow: (0.2, 2.0), wide: (0.2, 1.5), narrow: (0.2, 1.5)}
    found = solve(list(sizes), sizes.__getitem__, 5 * MB, cost=costs.__getitem__, guard=1.0)
    assert isinstance(found, DevicePlan)
    assert found.chosen == narrow


@settings(max_examples=60)
@given(st.data())
def test_no_other_way_that_fits_costs_less(data: st.DataObject) -> None:
    ways = candidates(loaded("representation=weights", "training.kernels=dense"), native=False)
    ways = [ways[0], *data.draw(st.lists(st.sampled_from(ways[1:]), unique=True, max_size=12))]
    sizes = {one: data.draw(st.integers(1, 60)) * MB // 2 for one in ways}
    costs = {one: (float(data.draw(st.integers(0, 3))), float(data.draw(st.integers(1, 3)))) for one in ways}
    budget = data.draw(st.integers(1, 30)) * MB
    found = solve(ways, sizes.__getitem__, budget, cost=costs.__getitem__, guard=1.0)
    fitting = [one for one in ways if sizes[one] <= budget]
    if isinstance(found, Refusal):
        assert not fitting
        assert sizes[found.smallest] == min(sizes.values())
        again = solve(ways, sizes.__getitem__, found.least, cost=costs.__getitem__, guard=1.0)
        assert isinstance(again, DevicePlan), "the least that would do does"
        less = solve(ways, sizes.__getitem__, found.least - MB, cost=costs.__getitem__, guard=1.0)
        assert isinstance(less, Refusal), "and a megabyte less does not"
    elif ways[0] in fitting:
        assert found.chosen == ways[0]
    else:
        assert found.chosen in fitting
        best = min((*costs[one], sizes[one]) for one in fitting)
        assert (*costs[found.chosen], sizes[found.chosen]) == best


def test_the_settings_own_way_is_the_first_and_changes_nothing() -> None:
    for texts in ((), ("representation=weights",), ("training.micro_batch=4", "training.activations=int8")):
        experiment = loaded(*texts)
        first = candidates(experiment, native=True)[0]
        assert first == Candidate.of(experiment)
        assert first.applied(experiment) is experiment


def test_no_way_does_less_than_the_settings_ask_for() -> None:
    experiment = loaded("training.micro_batch=4", "training.activations=int8", "training.recompute=true")
    found = candidates(experiment, native=True)
    assert {one.micro_batch for one in found} == {4, 2}
    assert {one.activations for one in found} == {"int8", "int4"}
    assert {one.recompute for one in found} == {True}
    assert {one.momentum for one in found} == {False}, "signs have no momentum"
    assert {one.kernels for one in found if one != found[0]} == {"native", "dense"}
    assert {one.kernels for one in candidates(loaded("training.kernels=dense"), native=True)} == {"dense"}
    assert {one.activations for one in candidates(loaded("training.activations=topk"), native=True)} == {"topk"}


def test_a_way_becomes_settings() -> None:
    experiment = loaded("representation=weights", "weights.momentum=0.5", "weights.learning_rate=0.02")
    small = Candidate(kernels="native", activations="int4", micro_batch=4, recompute=True, momentum=False)
    made = small.applied(experiment)
    assert made.training.model_dump() == {
        **experiment.training.model_dump(),
        "kernels": "native",
        "activations": "int4",
        "micro_batch": 4,
        "recompute": True,
    }
    assert made.weights.momentum == 0
    assert made.weights.learning_rate == pytest.approx(0.04)
    steep = small.applied(loaded("representation=weights", "weights.momentum=0.9", "weights.learning_rate=0.02"))
    assert steep.weights.learning_rate == pytest.approx(0.06), "no more than 3 times"
    assert Candidate.of(made) == small


def test_penalties_are_what_the_table_says() -> None:
    experiment = loaded("representation=weights")

    def points(one: Candidate, *, of: Experiment = experiment, fraction: float = 1.0) -> float:
        return penalty_of(one, experiment=of, density=0.2, fraction=fraction)

    assert points(Candidate.of(experiment)) == 0
    assert [points(way(size)) for size in (16, 8, 4, 2)] == [0.0, 0.1, 0.2, 0.4]
    assert points(way(16, recompute=True)) == 0
    assert points(way(16, momentum=False)) == 0.5
    assert points(way(2), of=loaded("model.norm=none")) == 0, "no statistics that a part could spoil"
    assert points(way(16), fraction=0.5) == pytest.approx(0.75), "half way between two halvings of the density"
    assert points(way(16), fraction=0.25) == pytest.approx(2.0)
    assert time_of(way(16, recompute=True), experiment=experiment, density=0.5) == pytest.approx(4 / 3, abs=1e-6)
    assert time_of(way(16), experiment=experiment, density=0.2) == 1.5, "dense kernels, where few weights are kept"
    assert time_of(way(16), experiment=experiment, density=0.05) == 3.0, "and where very few are"
    native = loaded("representation=weights", "training.kernels=native", "training.batch_size=32")
    sizes = [replace(Candidate.of(native), micro_batch=size) for size in (16, 8)]
    times = [time_of(size, experiment=native, density=0.05) for size in sizes]
    assert times == [1.0, 2.1], "eight samples leave half of the kernels' lanes idle"


@settings(max_examples=30)
@given(st.sampled_from([(), ("training.micro_batch=4",), ("training.activations=int8",), ("representation=weights",)]))
def test_nothing_costs_less_than_what_was_asked_for(texts: tuple[str, ...]) -> None:
    experiment = loaded(*texts)
    for one in candidates(experiment, native=True):
        assert penalty_of(one, experiment=experiment, density=0.1) >= 0


def test_classes_have_as_many_clients_as_their_shares_say() -> None:
    experiment = loaded("budget.plan=true", CLASSES, "fleet.clients=20")
    named = [device.name for client in range(20) if (device := class_of(experiment, client)) is not None]
    assert (named.count("small"), named.count("large")) == (6, 14)
    assert named == [getattr(class_of(experiment, client), "name", "") for client in range(20)]
    assert named != sorted(named), "they are shuffled"
    other = [
        getattr(class_of(loaded("budget.plan=true", CLASSES, "seed=1"), client), "name", "") for client in range(20)
    ]
    assert sorted(other) == sorted(named)
    assert other != named


def tiny(*texts: str, calibrate: Calibrate | None = None) -> Decider:
    experiment = loaded("model.name=mlp", "representation=weights", "pruning.density=0.2", *texts)
    model = build_model("mlp", input_shape=(1, 8, 8), classes=10, norm="batch", seed=0, hollow=True)
    levels = estimated_levels(experiment, model)
    return Decider(experiment, model, input_shape=(1, 8, 8), levels=levels, native=False, calibrate=calibrate)


def test_what_was_measured_puts_predictions_right_and_nothing_else() -> None:
    asked: list[Candidate] = []

    def calibrate(network: Traced, candidate: Candidate) -> Calibration | None:
        assert network.weights == computed.weights
        asked.append(candidate)
        if candidate.activations == "int8":
            return None
        return Calibration(fixed=dict.fromkeys(("forward", "backward", "update"), 9000), each={"backward": 100})

    computed, measured = tiny(), tiny(calibrate=calibrate)
    for one in computed.candidates:
        step = computed.step(one)
        assert (step.step_bytes, step.calibrated) == (computed.ledger(one).peak, False)
        more = 0 if one.activations == "int8" else 9000
        phases = {
            name: size + more + (100 * one.micro_batch if more and name == "backward" else 0)
            for name, size in step.phases.items()
        }
        assert measured.step(one).phases == phases
        assert measured.step(one).calibrated == (more > 0)
        request = measured.request_bytes(one)
        assert request == computed.request_bytes(one)
        assert measured.predict(one) - request == max(*phases.values(), measured.reading_bytes(one))
        assert measured.cost(one) == computed.cost(one)
    assert {one.kernels for one in asked} == {"dense"}, "kernels are named, and there are no others"
    assert len(asked) == len(computed.candidates), "each is asked about once"


def test_a_request_holds_four_floats_a_kept_weight_beside_the_step() -> None:
    decider = tiny("budget.plan=true", "budget.levels=[1.0, 0.5]")
    for one in (decider.candidates[0], decider.candidates[-1]):
        assert decider.request_bytes(one) == 6_000_000 + 3 * 8192 + 16 * decider.kept(one.level)
    assert decider.candidates[-1].level == 1


def test_where_training_is_next_to_nothing_the_mask_is_what_takes_the_memory() -> None:
    texts = ("representation=weights", "pruning.density=0.01", "training.kernels=native", "training.batch_size=2")
    experiment = loaded(*texts)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 512), nn.ReLU(), nn.Linear(512, 10))
    levels = estimated_levels(experiment, model)
    decider = Decider(experiment, model, input_shape=(3, 32, 32), levels=levels)
    found = decider.decide(10**8)
    assert isinstance(found, DevicePlan)
    assert decider.weights == 3072 * 512 + 512 * 10
    reading = decider.weights + decider.ledger(found.chosen).lasting
    assert decider.step(found.chosen).step_bytes < reading
    assert found.predicted == reading + decider.request_bytes(found.chosen)
    assert f": reading the mask {size_text(reading)}, the request " in plan_lines(found, decider)[1]


def test_a_hollow_network_is_decided_about_and_stays_hollow() -> None:
    model = build_model("lenet5", input_shape=(1, 8, 8), classes=10, norm="batch", seed=0, hollow=True)
    full = build_model("lenet5", input_shape=(1, 8, 8), classes=10, norm="batch", seed=0)
    experiment = loaded("model.name=lenet5")
    found = [
        Decider(experiment, one, input_shape=(1, 8, 8), levels=estimated_levels(experiment, one), native=False)
        for one in (model, full)
    ]
    assert [found[0].predict(one) for one in found[0].candidates[:6]] == [
        found[1].predict(one) for one in found[1].candidates[:6]
    ]
    assert all(weight.is_meta for weight in prunable_tensors(model).values())


def test_a_roomy_device_does_what_is_asked_and_a_tight_one_does_not() -> None:
    decider = tiny()
    roomy, refused = decider.decide(10**9), decider.decide(1)
    assert isinstance(roomy, DevicePlan)
    assert roomy.chosen == Candidate.of(decider.experiment)
    assert isinstance(refused, Refusal)
    tight = decider.decide(refused.least)
    assert isinstance(tight, DevicePlan)
    assert tight.predicted <= refused.least


def test_levels_keep_their_fraction_of_each_tensor() -> None:
    experiment = loaded("budget.plan=true", "budget.levels=[1.0, 0.5, 0.25]", "pruning.rule=erk", "pruning.density=0.2")
    model = nn.Sequential(nn.Linear(40, 20), nn.Linear(20, 10))
    whole, half, quarter = estimated_levels(experiment, model)
    assert sum(whole.values()) == 200
    assert half == {name: (count + 1) // 2 for name, count in whole.items()}
    assert all(4 * kept in range(whole[name] - 2, whole[name] + 3) for name, kept in quarter.items())


def test_a_smaller_part_of_the_network_is_the_last_resort() -> None:
    decider = tiny("budget.plan=true", "budget.levels=[1.0, 0.5]")
    alone = tiny().decide(1)
    assert isinstance(alone, Refusal)
    found = decider.decide(1)
    assert isinstance(found, Refusal)
    assert found.smallest.level == 1
    assert decider.predict(found.smallest) < alone.least


def test_a_choice_is_explained() -> None:
    decider = tiny()
    sizes = {one: decider.predict(one) for one in decider.candidates}
    # The most that what was asked for does not fit into.
    found = decider.decide(sizes[decider.candidates[0]] - 1, guard=1.0)
    assert isinstance(found, DevicePlan)
    text = "\n".join(plan_lines(found, decider))
    assert text.startswith(f"fits {size_text(found.budget)}: all kept weights, ")
    assert "as asked it would take" in text
    assert candidate_text(found.chosen, decider.experiment) in text


def test_what_was_asked_for_needs_no_excuse() -> None:
    decider = tiny()
    found = decider.decide(10**9)
    assert isinstance(found, DevicePlan)
    text = "\n".join(plan_lines(found, decider))
    assert text.startswith(
        "fits 1 GB: all kept weights, exact activations, 16 samples at once, momentum, fastest kernels"
    )
    assert "as asked" not in text
    assert "not needed: " in text


def test_words_for_ways_to_train_are_fixed() -> None:
    experiment = loaded("representation=weights", "budget.plan=true", "budget.levels=[1.0, 0.5, 0.25, 0.125, 0.1]")
    small = Candidate(level=3, kernels="native", activations="int4", micro_batch=2, recompute=True, momentum=False)
    assert candidate_text(small, experiment) == (
        "an eighth of the kept weights, int4 activations, 2 samples at once, blocks run again, no momentum, "
        "native kernels"
    )
    smallest = Candidate(level=4, kernels="dense", activations="topk", micro_batch=2, recompute=False, momentum=True)
    assert candidate_text(smallest, experiment) == (
        "0.1 of the kept weights, the largest 0.3 of activations, 2 samples at once, momentum, dense kernels"
    )
    refusal = Refusal(smallest=small, budget=20 * MB, least=31 * MB)
    assert refusal_text(refusal, experiment, advice="give --memory {least} or more") == (
        "memory: 20 MB are too few for conv4; 31 MB would do with an eighth of the kept weights, int4 activations, 2 "
        "samples at once, blocks run again, no momentum, native kernels; give --memory 31MB or more"
    )


def test_the_ladder_only_goes_down() -> None:
    decider = tiny()
    lines = ladder_lines(decider, chosen=decider.candidates[0])
    assert lines[0].startswith("> ")
    assert all(line.startswith("  ") for line in lines[1:])
    assert len(lines) > 3
    record = plan_record(decider.decide(10**9), decider)
    assert record["chosen"] == record["asked"]
    assert record["chosen"]["predicted_bytes"] == record["predicted_bytes"]
    refused = plan_record(decider.decide(1), decider)
    assert (refused["fits"], refused["budget_bytes"]) == (False, 1)
    assert refused["smallest"]["predicted_bytes"] <= refused["least_bytes"]


def test_the_same_question_has_the_same_answer() -> None:
    ways, sizes = list(SIZES), dict(SIZES)
    for seed in range(3):
        random.Random(seed).shuffle(ways)
        found = solve([ASKED, *[w for w in ways if w != ASKED]], sizes.__getitem__, 35 * MB, cost=COSTS.__getitem__)
        assert isinstance(found, DevicePlan)
        assert found.chosen == AGAIN


def test_a_request_that_looks_for_gradients_takes_what_that_does_where_it_is_more() -> None:
    plain, grows = tiny(), tiny("adjustment.every=1", "adjustment.batch_size=4096")
    (asked, *_), (also, *_) = plain.candidates, grows.candidates
    assert plain.growth_bytes(asked) == 0
    assert grows.growth_bytes(also) > plain.ledger(asked).peak
    assert grows.predict(also) == grows.growth_bytes(also) + grows.request_bytes(also)
    few = tiny("adjustment.every=1", "adjustment.batch_size=2")
    assert 0 < few.growth_bytes(few.candidates[0]) < grows.growth_bytes(also)
