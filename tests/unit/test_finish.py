"""Signs that end in float: which round trains what, what the switch makes of a state, and who is sent what there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hedgerow.artifact import load_artifact
from hedgerow.assembly import mask_of, model_of
from hedgerow.client.answer import Workshop
from hedgerow.client.memory import ClientState
from hedgerow.client.planning import Room
from hedgerow.codec import Header, decode_payload, encode_payload, has_mask
from hedgerow.config import Experiment, FinishSettings
from hedgerow.errors import PayloadError
from hedgerow.exchange import NodePlan, plan_reply, plan_request, read_plan
from hedgerow.ledger import plan_of
from hedgerow.privacy import gaussian_epsilon, votes_epsilon
from hedgerow.schedules import step_scale
from hedgerow.server import coordinator
from hedgerow.server.bench import Bench, description
from hedgerow.server.coordinator import coordinate
from hedgerow.server.evaluation import evaluate
from hedgerow.server.finish import begun
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.guarantee import guarantee
from hedgerow.server.levels import levelled
from hedgerow.server.progress import Observer
from hedgerow.server.run_folder import RunFolder
from hedgerow.server.state import RoundState
from hedgerow.server.summary import summary
from hedgerow.telemetry import RoundRecord
from hedgerow.v1 import payload_pb2 as pb
from tests.device_fleet import FIRST, Devices, said
from tests.unit.test_answer import experiment_with
from tests.unit.test_rounds import KilledError, killed_after

LIMIT = 10**7
SIGNS, FLOATS = "signs", "weights"
ROUNDS = {"rounds": 5, "finish": {"rounds": 2}}


def finishing(**changes: Any) -> Experiment:
    """Three rounds of signs and two in float, of three devices that train two steps."""
    tree: dict[str, Any] = {
        **ROUNDS,
        "training": {"kernels": "dense", "steps": 2},
        "wire": {"down": "bf16", "up": "uniform"},
        **changes,
    }
    return experiment_with(**tree)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"representation": "weights"}, "only signs end in float; set it to 0, or representation to"),
        ({"representation": "supermask"}, "only signs end in float; set it to 0, or representation to"),
        ({"rounds": 2}, "so none would train signs; set it to 1 or less, or representation to"),
        ({"privacy": {"vote_epsilon": 1.0}}, "set it to 0, or set privacy.clip and privacy.noise"),
        (
            {"finish": {"up": "fp16"}},
            "finish.up is 'fp16', but finish.rounds and finish.share are 0, .*; set one of them, or leave up out",
        ),
        ({"finish": {"down": "fp16"}}, "finish.down is 'fp16', but finish.rounds and finish.share are 0"),
        ({"finish": {"rounds": 2, "share": 0.5}}, "finish.rounds is 2 and .*share is 0.5, .* set one of them to 0"),
        (
            {"representation": "supermask", "finish": {"share": 0.5}},
            "finish.share is 0.5, but representation is 'supermask'",
        ),
    ],
)
def test_what_does_not_go_with_a_finish_is_refused(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Experiment.model_validate({**ROUNDS, **changes})


def test_a_finish_goes_with_adjustments_before_it_and_with_noise() -> None:
    for until, every in ((3, 0), (4, 1)):
        experiment = Experiment.model_validate({**ROUNDS, "adjustment": {"every": 1, "until": until}})
        assert [experiment.at(number).adjustment.every for number in (3, 4, 5)] == [1, every, every]
    Experiment.model_validate({**ROUNDS, "privacy": {"vote_epsilon": 1.0, "clip": 1.0, "noise": 0.5}})


def test_weights_have_nothing_to_finish() -> None:
    experiment = Experiment.model_validate({"rounds": 5, "finish": {"share": 0.5}, "representation": "weights"})
    assert experiment.finish_rounds == 0
    assert all(experiment.at(number) is experiment for number in range(6))
    assert len(experiment.stretches) == 1


@pytest.mark.parametrize(("rounds", "share", "first"), [(10, 0.25, 9), (10, 0.67, 5), (2, 0.67, 2), (1, 0.67, None)])
def test_a_finish_may_be_a_fraction_of_the_rounds(rounds: int, share: float, first: int | None) -> None:
    experiment = Experiment.model_validate({"rounds": rounds, "finish": {"share": share}})
    floats = [number for number in range(1, rounds + 1) if experiment.at(number).representation == "weights"]
    assert floats == ([] if first is None else list(range(first, rounds + 1)))


def test_the_last_rounds_have_the_settings_of_weights_and_the_others_those_of_the_experiment() -> None:
    experiment = finishing(
        finish={"rounds": 2, "up": "int8"}, adjustment={"every": 1, "until": 2, "blocks": 2}, weights={"momentum": 0.5}
    )
    assert all(experiment.at(number) is experiment for number in (0, 1, 3))
    last = experiment.at(4)
    assert (last.representation, last.wire.up, last.wire.down) == (FLOATS, "int8", "bf16")
    assert (last.adjustment.every, last.weights.momentum, last.training) == (0, 0.5, experiment.training)
    assert last == experiment.at(5) == experiment.at(6) == last.at(1), "after the last round too"
    assert [one.first_round for one in experiment.stretches] == [1, 4]
    assert [one.first_round for one in experiment_with().stretches] == [1]


def test_without_a_finish_nothing_has_another_name_or_size() -> None:
    plain = experiment_with(rounds=5)
    assert plain.at(5) is plain
    assert plain.digest() == experiment_with(rounds=5, finish={"rounds": 0}).digest()
    assert finishing().digest() != plain.digest()
    bench = Bench.of(plain)
    assert bench.at(plain, round=5) is bench


def test_step_sizes_fall_over_the_signs_and_again_over_the_floats() -> None:
    # 0.02 + 0.98 · (1 + cos(π · x)) / 2, by hand, with x = 0, 1/2.
    experiment = experiment_with(rounds=10, finish={"rounds": 2})
    assert [step_scale(experiment, round=n) for n in (1, 5, 9, 10)] == pytest.approx([1, 0.51, 1, 0.51])
    assert step_scale(experiment.at(10), round=10) == pytest.approx(0.51), "as a device asks"
    short = experiment_with(rounds=8)
    assert [step_scale(experiment, round=n) for n in range(1, 9)] == [step_scale(short, round=n) for n in range(1, 9)]


def test_what_is_guaranteed_counts_votes_before_the_finish_and_weights_in_it() -> None:
    private = finishing(privacy={"vote_epsilon": 1.0, "clip": 1.0, "noise": 2.0})
    votes, floats = guarantee(private, kept=10, rounds=5)
    whole = votes_epsilon(votes=10, rounds=3, epsilon=1.0, delta=1e-5)
    assert f"of 3 rounds ε = {whole:,.4g}" in votes
    # Three messages with one vector, two with two; the one with two says the most.
    each, all_of_them = (gaussian_epsilon(multiplier=2.0, rounds=count, delta=1e-5) for count in (2, 7))
    assert floats.startswith(f"changes of floats: ε = {each:,.4g} a message, {all_of_them:,.4g} of 5 rounds")


def bench_and_state(experiment: Experiment, *, plans: Mapping[int, int] | None = None) -> tuple[Bench, RoundState]:
    """What a run has after its third round, but for any training."""
    bench = Bench.of(experiment)
    state = bench.start(mask_of(experiment, bench.initial, bench.dataset.input_shape))
    exchange = bench.exchange
    state = levelled(
        state, experiment=experiment, architecture=exchange.architecture, representation=exchange.representation
    )
    theta = np.linspace(-1, 1, state.kept.size, dtype=np.float32)
    held = {FIRST: 3, FIRST + 1: 2, FIRST + 2: 3}
    return bench, replace(state, round=3, kept=theta, held=held, plans=plans or {})


@pytest.mark.parametrize("magnitude", ["constant", "random"])
def test_the_switch_begins_with_the_network_that_was_evaluated(magnitude: str) -> None:
    experiment = finishing(signs={"magnitude": magnitude})
    bench, state = bench_and_state(experiment)
    told = begun(state, experiment=experiment, bench=bench)
    sizes = np.concatenate([w.numpy() for w in _sizes(bench, state, magnitude)])
    assert told.kept.tolist() == np.where(state.kept >= 0, sizes, -sizes).tolist()
    assert (told.held, told.floats.tobytes()) == (state.held, state.floats.tobytes())
    last = bench.at(experiment, round=4)
    before, after = bench.network(state), last.network(told)
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other)


def _sizes(bench: Bench, state: RoundState, magnitude: str) -> Iterable[torch.Tensor]:
    weights = dict(bench.initial.named_parameters())
    for name, kept in state.mask.layer_kept().items():
        own = weights[name].detach()[state.mask[name]].abs()
        # √(2 / fan-in that is left), with as many outputs as the layer has.
        yield own if magnitude == "random" else torch.full((kept,), (2 * len(weights[name]) / kept) ** 0.5)


@pytest.mark.parametrize("number", [0, 1, 2, 4, 5])
def test_other_rounds_begin_with_what_the_one_before_came_to(number: int) -> None:
    experiment = finishing()
    bench, state = bench_and_state(experiment)
    state = replace(state, round=number, held={})
    assert begun(state, experiment=experiment, bench=bench) is state
    assert begun(state, experiment=experiment_with(), bench=bench) is state


def test_of_parts_the_largest_trained_one_is_the_network_and_nobodys_plan_holds() -> None:
    experiment = finishing(budget={"plan": True, "levels": [1.0, 0.5]})
    bench, state = bench_and_state(experiment, plans={FIRST: 1, FIRST + 1: 0})
    state = replace(state, trained=1)
    told = begun(state, experiment=experiment, bench=bench)
    last = bench.at(experiment, round=4)
    assert last.weights(told.best()).tobytes() == bench.weights(state.best()).tobytes()
    outside = ~told.nests[0]
    assert told.kept[outside].tobytes() == bench.weights(state)[outside].tobytes()
    # Who had a part is given its mask again, whatever it plans now; who had the whole still has it.
    assert (told.plans, told.held) == ({}, {FIRST + 1: 2, FIRST + 2: 3})


@dataclass
class Fleet(Devices):
    """Real devices, of which some are away in some rounds."""

    there: Mapping[int, Sequence[int]] = field(default_factory=dict)
    number: Callable[[], int] = lambda: 0

    def nodes(self) -> Sequence[int]:
        return self.there.get(self.number(), super().nodes())


@dataclass
class Finished:
    """What a run came to."""

    state: RoundState
    records: list[RoundRecord]
    devices: Devices


def played(
    experiment: Experiment,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    devices: Devices | None = None,
    live: bool = False,
) -> Finished:
    """Runs an experiment to its end; nothing is delivered but the state."""
    ends: list[RoundState] = []
    monkeypatch.setattr(coordinator, "deliver", lambda experiment, *, bench, state, folder: ends.append(state))
    devices = Devices(Workshop(experiment), count=3) if devices is None else devices
    with RunFolder(out, experiment) as folder:
        if isinstance(devices, Fleet):
            devices.number = lambda: folder.records()[-1].round + 1
        bench = Bench.of(experiment)
        coordinate(experiment, bench=bench, fleet=devices, folder=folder, observer=Observer(), live=live, least=3)
        return Finished(ends[-1], folder.records(), devices)


def lasting(found: Finished) -> list[Any]:
    """What is the same however often a run was stopped."""
    state = found.state
    records = [record.model_dump(exclude={"measured"}) for record in found.records]
    return [state.kept.tobytes(), state.floats.tobytes(), state.mask.digest, state.held, state.plans, records]


def kinds(sections: Iterable[str]) -> set[str]:
    return {label.partition("/")[0] for label in sections}


def test_a_finish_learns_and_its_rounds_send_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = finishing(pruning={"density": 0.1}, weights={"learning_rate": 0.1})
    found = played(experiment, tmp_path, monkeypatch)
    records = found.records
    assert [record.failures for record in records] == [()] * 6
    for record in records[1:]:
        floats = record.round > 3
        assert kinds(record.sections_up) == {"counts", "floats", FLOATS if floats else "flips"}
        assert kinds(record.sections_down) - {"mask"} == {"floats", FLOATS if floats else "votes"}
        assert (record.vote_margin is None) == (record.flip_rate is None) == floats
    # The first round in float is told as a whole, to devices that have the mask; the next one as a change.
    assert [record.updated for record in records] == [0, 0, 3, 3, 0, 3]
    accuracies = [record.accuracy for record in records]
    assert all(accuracy is not None for accuracy in accuracies)
    before, after = accuracies[3], accuracies[5]
    assert before is not None
    assert after is not None
    assert after > before + 0.05
    # Rounds of signs are those of a run that has no others.
    plain = experiment.model_copy(update={"rounds": 3, "finish": FinishSettings()})
    alone = played(plain, tmp_path, monkeypatch)
    assert [record.accuracy for record in alone.records] == accuracies[:4]
    assert [record.bytes_up for record in alone.records] == [record.bytes_up for record in records[:4]]


@pytest.mark.parametrize("down", ["bf16", "uniform"])
def test_masks_change_in_a_finish_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, down: str) -> None:
    changes: dict[str, Any] = {
        "pruning": {"density": 0.1},
        "adjustment": {"every": 1, "until": 5, "rate": 0.3},
        "wire": {"down": down, "up": "uniform"},
    }
    records = played(finishing(**changes), tmp_path, monkeypatch).records
    assert [record.failures for record in records] == [()] * 6
    assert [record.adjustment is not None for record in records] == [False, *[True] * 5]
    assert len({record.kept for record in records}) == 1
    for record in records[1:]:
        assert kinds(record.sections_up) == {"counts", "floats", "top_k", FLOATS if record.round > 3 else "flips"}
    # Each adjustment is told as a change.
    assert all("mask_delta" in kinds(record.sections_down) for record in records[2:])


PLACES = {
    "in the last round of signs": 7,
    "before the first in float": 9,
    "in it": 10,
    "after it": 12,
    "in the last": 14,
}
"""Replies before the end."""
BETWEEN = ("before the first in float", "after it")


@cache
def _undisturbed(folder: Path) -> list[Any]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return lasting(played(finishing(), folder, monkeypatch, live=True))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return _undisturbed(tmp_path_factory.mktemp("undisturbed"))


# What devices remember of a round that is begun anew without a journal goes back too, which these do not do.
@pytest.mark.parametrize(
    ("place", "live"), [*((place, True) for place in PLACES), *((place, False) for place in BETWEEN)]
)
def test_a_run_killed_around_the_switch_goes_on_and_ends_the_same(
    place: str, live: bool, undisturbed: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = Devices(Workshop(finishing()), count=3, before_reply=killed_after(PLACES[place]))
    with pytest.raises(KilledError):
        played(finishing(), tmp_path, monkeypatch, devices=devices, live=live)
    again = Devices(Workshop(finishing()), count=3, states=devices.states)
    assert lasting(played(finishing(), tmp_path, monkeypatch, devices=again, live=live)) == undisturbed


def test_who_was_away_across_the_switch_is_told_the_whole_and_who_is_new_the_mask_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = finishing(rounds=7, finish={"rounds": 4}, adjustment={"every": 2, "until": 2})
    one, two, three, four, five = range(FIRST, FIRST + 5)
    # The mask changes in round 2; rounds 4 to 7 are in float.
    there = {
        1: (one, two, three),
        2: (one, two, four),
        3: (one, two, four),
        4: (two, three, four),
        5: (one, three, four),
    }
    there |= {6: (one, three, five), 7: (two, three, five)}
    devices = Fleet(Workshop(experiment), count=5, there=there)
    found = played(experiment, tmp_path, monkeypatch, devices=devices)
    assert [record.failures for record in found.records] == [()] * 8
    told = {}
    for number, asked in zip(devices.rounds, devices.asked, strict=True):
        for node, payload in asked.items():
            header, sections = decode_payload(payload, limit=LIMIT)
            mask = "whole" if has_mask(sections) else "changed" if pb.KIND_MASK_DELTA in sections else "held"
            told[number, node] = (header.base, mask)
    assert told[3, one] == (2, "changed")
    assert [told[4, node] for node in (two, three, four)] == [(0, "held"), (0, "changed"), (0, "held")]
    assert [told[5, node] for node in (one, three, four)] == [(0, "held"), (4, "held"), (4, "held")]
    assert [told[6, node] for node in (one, three, five)] == [(5, "held"), (5, "held"), (0, "whole")]
    assert [told[7, node] for node in (two, three, five)] == [(4, "held"), (6, "held"), (6, "held")]


def test_a_change_since_a_round_of_signs_is_refused_by_the_device() -> None:
    experiment = finishing()
    bench, state = bench_and_state(experiment)
    workshop, digest = Workshop(experiment), bytes.fromhex(experiment.digest())
    layers = list(state.mask.layer_kept().values())
    signs, floats = bench.exchange, bench.at(experiment, round=4).exchange

    def request(number: int, *, base: int = 0) -> bytes:
        exchange = floats if number > 3 else signs
        known = begun(state, experiment=experiment, bench=bench) if number > 3 else state
        version = exchange.version(number, state.mask.digest, kept=known.kept, floats=state.floats, layers=layers)
        header = Header(digest, number, state.mask.digest, base=base, tensors=exchange.architecture.tensors())
        mask = [] if base else [exchange.encode_mask(state.mask)]
        return encode_payload(header, [*mask, *exchange.encode(version, base=version if base else None, layers=layers)])

    before = workshop.answer(request(3), client=0, state=ClientState()).state
    assert before.residuals[0] == b"", "votes leave nothing over"
    assert len(before.residuals[1]) == 4 * state.floats.size
    with pytest.raises(PayloadError):
        workshop.answer(request(4, base=3), client=0, state=before)
    after = workshop.answer(request(4), client=0, state=before)
    assert workshop.builder.exchange.since == 4
    assert [len(one) for one in after.state.residuals] == [4 * state.kept.size, 4 * state.floats.size]
    # What rounding left over of norms and biases goes into the first reply in float.
    forgetful = replace(before, residuals=(b"", b""))
    other = workshop.answer(request(4), client=0, state=forgetful)
    replies = [decode_payload(one.payload, limit=LIMIT)[1] for one in (after, other)]
    assert replies[0][pb.KIND_WEIGHTS] == replies[1][pb.KIND_WEIGHTS]
    assert replies[0][pb.KIND_FLOATS] != replies[1][pb.KIND_FLOATS]
    # A request of signs that comes late is answered as it was before.
    assert workshop.answer(request(3), client=0, state=ClientState()).state == before


def fits(level: int) -> Callable[[Request], Iterable[Reply]]:
    def reply(request: Request) -> Iterable[Reply]:
        header, _ = decode_payload(request.payload, limit=LIMIT)
        assert header.task == pb.TASK_PLAN
        plan = NodePlan(level=level, budget=100, predicted=90, least=0)
        return [said(request, encode_payload(header.of_reply(), [plan_reply(plan)]))]

    return reply


def test_devices_plan_anew_for_the_rounds_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = finishing(budget={"plan": True, "levels": [1.0, 0.5, 0.25]})
    # Exchanges: plans, rounds 1 to 3, plans, rounds 4 and 5.
    answers = {(0, 0): 0, (0, 1): 1, (0, 2): 2, (4, 0): 1, (4, 1): 1, (4, 2): 0}
    instead = {(place, FIRST + client): fits(level) for (place, client), level in answers.items()}
    devices = Devices(Workshop(experiment), count=3, instead=instead)
    found = played(experiment, tmp_path, monkeypatch, devices=devices)
    assert devices.rounds == [1, 1, 2, 3, 4, 4, 5]
    assert [record.plans is not None for record in found.records] == [False, True, False, False, True, False]
    assert found.state.plans == {}, "of one part, which is delivered"
    assert [[level.replies for level in record.levels] for record in found.records[1:]] == [
        *[[1, 1, 1]] * 3,
        *[[1, 2, 0]] * 2,
    ]
    assert [record.failures for record in found.records] == [()] * 6
    # All have another part than before, or are given the mask of a part again.
    asked = [decode_payload(payload, limit=LIMIT)[1] for payload in devices.asked[5].values()]
    assert [has_mask(sections) for sections in asked] == [True] * 3


def test_a_device_plans_for_momentum_in_float_and_for_none_before() -> None:
    experiment = finishing(budget={"plan": True})
    bench, state = bench_and_state(experiment)
    workshop, levels = Workshop(experiment), [state.mask.layer_kept()]
    plans = {}
    for number in (3, 4):
        asked = plan_request(
            bytes.fromhex(experiment.digest()), number, architecture=bench.exchange.architecture, levels=levels
        )
        answer = workshop.answer(asked, client=0, state=ClientState(), room=Room(10**9))
        plans[number] = read_plan(decode_payload(answer.payload, limit=LIMIT)[1], levels=1)
        chosen = workshop.builder.planner.required(levels[0], Room(10**9)).chosen
        assert chosen.momentum == (number == 4)
    states = [plan_of(one, native=False).state_bytes for one in experiment.stretches]
    assert states == [0, 4], "bytes a kept weight that the optimiser holds"
    assert plans[4].level == plans[3].level == 0
    assert plans[4].predicted != plans[3].predicted


@pytest.mark.parametrize("magnitude", ["constant", "random"])
def test_statistics_before_the_switch_are_of_the_network_in_float(
    magnitude: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = finishing(
        model={"name": "lenet5"},
        rounds=2,
        finish={"rounds": 1},
        signs={"magnitude": magnitude},
        evaluation={"recalibrate": True, "fraction": 0.1},
    )
    found = played(experiment, tmp_path, monkeypatch)
    assert [record.failures for record in found.records] == [()] * 3
    renewed = [record.recalibration for record in found.records[1:]]
    assert [None if one is None else one.replies for one in renewed] == [3, 3]


def test_a_run_delivers_the_finished_weights_and_says_so(tmp_path: Path) -> None:
    experiment = finishing(rounds=2, finish={"rounds": 1, "down": "fp32", "up": "fp16"})
    bench = Bench.of(experiment)
    assert description(experiment, bench).endswith("2 rounds, the last 1 in float")
    with RunFolder(tmp_path, experiment) as folder:
        devices = Devices(Workshop(experiment), count=3)
        coordinate(experiment, bench=bench, fleet=devices, folder=folder, observer=Observer())
        path, records, state = folder.path, folder.records(), folder.load()
    assert kinds(records[2].sections_up) == {"counts", "floats", FLOATS}
    assert "weights/float16" in records[2].sections_up
    assert state is not None
    assert len(np.unique(np.abs(state.kept))) > 100, "and not a size a layer"
    model = model_of(experiment, bench.dataset)
    model.load_state_dict(load_artifact(path / "model.safetensors"))
    assert evaluate(model, bench.dataset, batch_size=500).accuracy == records[-1].accuracy
    assert "signs, and from round 2 on float weights" in (path / "report.html").read_text()
    assert "in float since round 2" in summary(experiment, records, path, already_done=False)
