"""How the process that trains plans its memory, and keeps to it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

from hedgerow.assembly import dataset_of, exchange_of, mask_of, model_of
from hedgerow.budget import GUARD, Calibration, Candidate, class_of
from hedgerow.client import app as client_app
from hedgerow.client.answer import Workshop
from hedgerow.client.memory import ClientState
from hedgerow.client.planning import Room, exhausted, following_guard, more_guarded, room_of, warm
from hedgerow.client.source import Source, source_in
from hedgerow.codec import Header, decode_payload, encode_payload
from hedgerow.config import Experiment
from hedgerow.config.load import load_experiment, parse_override
from hedgerow.data import load_dataset
from hedgerow.errors import BudgetError, OverrunError, PayloadError
from hedgerow.exchange import Measures, plan_request, read_plan
from hedgerow.pruning import prunable_tensors
from hedgerow.sparse import float_tensors, read_vector
from hedgerow.telemetry.memory import Resident
from hedgerow.v1 import payload_pb2 as pb
from hedgerow.wire.flower import assign_message_id, content_of, identify_process

SMALL = Source(client=0, part=0, parts=None)
CLASSES = 'fleet.devices=[{name="small",share=0.5,memory="8MB"},{name="large",share=0.5,memory="64MB"}]'


def loaded(*texts: str) -> Experiment:
    settings = ("model.name=lenet5", "pruning.rule=erk", "pruning.saliency=random", "training.kernels=dense", *texts)
    return load_experiment(overrides=[parse_override(text) for text in (*settings, "training.epochs=1")])


class Setting:
    """A client of the digits, and the request of round 1 that brings it the mask."""

    def __init__(self, *texts: str) -> None:
        self.experiment = loaded("budget.plan=true", *texts)
        dataset = dataset_of(self.experiment)
        model = model_of(self.experiment, dataset)
        self.mask = mask_of(self.experiment, model, dataset.input_shape)
        exchange = exchange_of(self.experiment, model)
        weights = {name: weight.detach() for name, weight in prunable_tensors(model).items()}
        start = exchange.representation.initial(weights, self.mask)
        layers = tuple(self.mask.layer_kept().values())
        floats = read_vector(float_tensors(model))
        version = exchange.version(1, self.mask.digest, kept=start, floats=floats, layers=layers)
        self.header = Header(bytes.fromhex(self.experiment.digest()), 1, self.mask.digest)
        header = replace(self.header, tensors=exchange.architecture.tensors())
        sections = [exchange.encode_mask(self.mask), *exchange.encode(version, base=None, layers=layers)]
        self.request = encode_payload(header, sections)
        self.architecture = exchange.architecture
        self.workshop = Workshop(self.experiment)

    def payload(self, room: Room | None) -> bytes:
        return self.workshop.answer(self.request, client=0, state=ClientState(), room=room).payload

    def said(self, payload: bytes) -> list[tuple[int, bytes]]:
        """All but what is measured."""
        _, sections = decode_payload(payload, limit=10**8)
        return [(kind, section.data) for kind, section in sections.items() if kind != pb.KIND_COUNTS]


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting("representation=weights", "budget.levels=[1.0, 0.5]")


def tight(setting: Setting) -> Room:
    """Room for everything but what was asked for."""
    asked = setting.workshop.builder.planner.found([setting.mask.layer_kept()], Room(10**9, 1.0))
    assert asked.budget == 10**9
    return Room(getattr(asked, "asked_bytes") - 1, 1.0)  # noqa: B009  # of a plan


def test_a_roomy_client_replies_bit_for_bit_what_it_would_without_a_plan(setting: Setting) -> None:
    assert setting.said(setting.payload(Room(10**9))) == setting.said(setting.payload(None))


def test_a_tight_client_trains_by_its_plan(setting: Setting) -> None:
    room = tight(setting)
    plan = setting.workshop.builder.planner.required(setting.mask.layer_kept(), room)
    assert plan.chosen != Candidate.of(setting.experiment)
    said = setting.said(setting.payload(room))
    built = setting.workshop.builder.built
    assert built is not None
    assert built.experiment == plan.chosen.applied(setting.experiment)
    assert [kind for kind, _ in said] == [kind for kind, _ in setting.said(setting.payload(None))]


def test_a_device_plans_with_what_its_machine_was_measured_to_take(setting: Setting) -> None:
    kept = setting.mask.layer_kept()
    computed = setting.workshop.builder.planner.required(kept, Room(10**9))

    def calibrate(*_: object) -> Calibration:
        return Calibration(fixed={"forward": 5_000_000})

    workshop = Workshop(setting.experiment, calibrator=lambda _: calibrate)
    measured = workshop.builder.planner.required(kept, Room(10**9))
    assert 4_000_000 < measured.predicted - computed.predicted <= 5_000_000
    room = Room(computed.asked_bytes, 1.0)
    assert setting.workshop.builder.planner.required(kept, room).chosen == computed.asked
    with pytest.raises(BudgetError, match="are too few"):
        workshop.builder.planner.required(kept, room)


def test_only_a_device_of_its_own_is_measured_and_only_if_it_plans() -> None:
    planning, dataset = loaded("budget.plan=true"), load_dataset("digits")
    own = replace(SMALL, data="digits", memory=7_000_000)
    assert client_app._calibrator(planning, own, dataset) is not None
    assert client_app._calibrator(planning, SMALL, None) is None, (
        "its plans decide the model, the same on every machine"
    )
    assert client_app._calibrator(loaded(), own, dataset) is None
    assert client_app._calibrator(planning, replace(own, measure=False), dataset) is None


def test_one_process_changes_between_the_plans_of_its_clients(setting: Setting) -> None:
    alone = setting.said(setting.payload(None))
    setting.payload(tight(setting))
    assert setting.said(setting.payload(None)) == alone


def test_a_client_with_too_little_memory_refuses_and_says_what_would_do(setting: Setting) -> None:
    with pytest.raises(BudgetError, match=r"1 MB are too few for lenet5; \S+ MB would do .* join with --memory \d+MB"):
        setting.payload(Room(10**6))


def test_a_client_is_asked_for_its_level_and_says_one_that_fits(setting: Setting) -> None:
    whole = setting.mask.layer_kept()
    levels = [whole, {name: max(1, count // 2) for name, count in whole.items()}]
    experiment = bytes.fromhex(setting.experiment.digest())
    request = plan_request(experiment, 1, architecture=setting.architecture, levels=levels)

    def asked(room: Room | None) -> tuple[pb.Task, object]:
        state = ClientState(rounds=5)
        answer = setting.workshop.answer(request, client=0, state=state, room=room)
        assert answer.state == state, "who is asked for a plan remembers nothing of it"
        header, sections = decode_payload(answer.payload, limit=1000)
        return header.task, read_plan(sections, levels=2)

    task, plan = asked(Room(10**9))
    assert task == pb.TASK_PLAN
    assert (getattr(plan, "level"), getattr(plan, "budget")) == (0, 10**9)  # noqa: B009
    _, refused = asked(Room(10**6))
    assert getattr(refused, "level") is None  # noqa: B009
    assert getattr(refused, "least") > 10**6  # noqa: B009
    with pytest.raises(PayloadError, match="task 3 is not known"):
        asked(None)


def test_an_allocation_that_fails_ends_the_request_and_leaves_more_to_spare(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr("hedgerow.client.training_task.train", fail)
    with pytest.raises(OverrunError, match="1 GB of memory were not enough") as caught:
        setting.payload(Room(10**9, 2.0))
    assert caught.value.guard == pytest.approx(2.3)
    assert setting.workshop.builder.built is None, "what it had made is gone"
    with pytest.raises(RuntimeError, match="memory"):
        setting.payload(None)
    monkeypatch.undo()
    assert setting.payload(Room(10**9, 2.3))


def test_what_a_request_held_is_measured_and_told(setting: Setting) -> None:
    resident = Resident()
    answer = setting.workshop.answer(
        setting.request, client=0, state=ClientState(), room=Room(10**9), resident=resident
    )
    assert answer.held is not None
    measures = Measures.read(decode_payload(answer.payload, limit=10**8)[1])
    assert measures.held_bytes == np.float32(answer.held)
    unknown = Measures.read(decode_payload(setting.payload(Room(10**9)), limit=10**8)[1])
    assert unknown.held_bytes == 0


def test_samples_of_a_simulated_client_are_in_no_budget(setting: Setting) -> None:
    found = [setting.workshop.samples.copied_bytes(part) for part in range(setting.experiment.fleet.clients)]
    train = setting.workshop.dataset.train
    assert sum(found) == train.images.nbytes + train.labels.nbytes
    assert min(found) > 0
    assert setting.workshop.samples.copied_bytes(len(found)) == 0, "there is no such part"
    alone = Workshop(setting.experiment, dataset=setting.workshop.dataset, parts=1)
    assert alone.samples.copied_bytes(0) == 0, "nothing is copied"

    class Told(Resident):
        aside = 0

        def begin(self, *, aside: int = 0) -> None:
            self.aside = aside

    told = Told()
    setting.workshop.answer(setting.request, client=3, state=ClientState(), room=Room(10**9), resident=told)
    assert told.aside == found[3]


def test_a_wrong_prediction_is_noticed_and_the_next_plan_leaves_more_to_spare(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside it the step of such a small network is next to nothing.
    monkeypatch.setattr("hedgerow.budget.deciding._REQUEST", 0)
    kept = setting.mask.layer_kept()
    asked = setting.workshop.builder.planner.required(kept, Room(10**9, 1.0))
    room = Room(asked.asked_bytes, 1.0)
    assert setting.workshop.builder.planner.required(kept, room).chosen == Candidate.of(setting.experiment), (
        "it just fits"
    )

    class Swollen(Resident):
        def held(self) -> int:
            return asked.asked_bytes + 1

    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})
    base = client_app._Base(None, room.budget, Swollen())
    monkeypatch.setattr(client_app, "_workshop", lambda *_: (setting.workshop, base))
    monkeypatch.setattr(client_app, "experiment_in", lambda _: setting.experiment)
    monkeypatch.setattr(client_app, "source_in", lambda *_, **__: replace(SMALL, memory=room.budget))
    monkeypatch.setattr(client_app, "GUARD", 1.0)
    identify_process()
    message = Message(content_of(setting.request), dst_node_id=2, message_type="train", group_id="1")
    assign_message_id(message)
    assert client_app.train(message, context).has_content()
    guard = client_app._guard_in(context)
    assert guard == more_guarded(1.0)
    assert setting.workshop.builder.planner.required(kept, Room(room.budget, guard)).chosen != asked.asked


@pytest.mark.parametrize(("held", "guard"), [(None, 1.05), (0, 1.05), (100, 1.05), (101, 1.05 * 1.15)])
def test_only_what_held_more_than_there_was_leaves_more_to_spare(held: int | None, guard: float) -> None:
    assert following_guard(Room(100, 1.05), held) == pytest.approx(guard)


def test_what_says_that_there_is_no_memory_is_told_from_other_failures() -> None:
    for make in (lambda: torch.empty(1 << 60), lambda: np.empty(1 << 55)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            make()
        assert exhausted(caught.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    assert not exhausted(other.value)
    assert not exhausted(ValueError("Cannot allocate memory"))


def test_a_guard_grows_and_ends_somewhere() -> None:
    guard = GUARD
    for _ in range(100):
        assert more_guarded(guard) >= guard
        guard = more_guarded(guard)
    assert guard == more_guarded(guard)


def test_what_a_client_may_use_is_its_own_word_its_class_or_what_is_free() -> None:
    experiment = loaded("budget.plan=true", CLASSES, "fleet.clients=4", "fleet.cohort=2")
    assert room_of(loaded(), SMALL, free=5) is None, "nobody plans"
    for client in range(4):
        found = class_of(experiment, client)
        assert found is not None
        assert room_of(experiment, replace(SMALL, client=client), free=5) == Room(found.memory_bytes)
    assert room_of(experiment, replace(SMALL, memory=7), free=5, guard=1.2) == Room(7, 1.2)
    assert room_of(experiment, replace(SMALL, data="digits"), free=5) == Room(5), "a device of its own has no class"
    assert room_of(experiment, replace(SMALL, client=4), free=5) == Room(5), "one too many"


def test_a_nodes_memory_is_in_its_configuration() -> None:
    assert source_in({"data": "digits", "memory": 96_000_000}).memory == 96_000_000
    assert source_in({"data": "digits"}).memory is None


@pytest.mark.parametrize(("said", "found"), [({}, True), ({"measure": False}, False), ({"measure": "false"}, False)])
def test_a_node_may_say_that_its_machine_is_not_to_be_measured(said: dict[str, object], found: bool) -> None:
    assert source_in({"data": "digits", **said}).measure is found


def test_warming_up_draws_nothing() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    warm()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_guard_outlives_the_process_and_no_other_client_hears_of_it() -> None:
    record = client_app._record_of(ClientState(rounds=3), guard=1.5)
    context = Context(run_id=1, node_id=2, node_config={}, state=RecordDict({"hedgerow": record}), run_config={})
    assert client_app._guard_in(context) == 1.5
    assert client_app._state_in(context) == ClientState(rounds=3)
    plain = client_app._record_of(ClientState(rounds=3))
    assert "guard" not in plain
    empty = Context(run_id=1, node_id=2, node_config={}, state=RecordDict({"hedgerow": plain}), run_config={})
    assert client_app._guard_in(empty) == GUARD


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this limit")
def test_under_a_limit_an_allocation_fails_and_after_it_does_not() -> None:
    program = """
import torch
from hedgerow.client.planning import base_bytes, exhausted, limited, tighten
tighten()
base = base_bytes()
with limited(base + 50_000_000):
    small = torch.zeros(5_000_000)
    try:
        torch.zeros(25_000_000)
    except RuntimeError as error:
        assert exhausted(error), error
    else:
        raise AssertionError("100 MB were not refused")
assert torch.zeros(25_000_000).sum() == 0
with limited(None):
    assert torch.zeros(25_000_000).sum() == 0
print("done")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr
