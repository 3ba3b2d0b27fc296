"""Who is asked to look at whole networks, where some devices have memory for a part only."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from hedgerow.client.answer import Workshop
from hedgerow.codec import decode_payload, encode_payload
from hedgerow.config import Experiment
from hedgerow.errors import BudgetError, TooFewRepliesError
from hedgerow.exchange import NodePlan, plan_reply
from hedgerow.seeds import numpy_generator
from hedgerow.server.bench import Bench
from hedgerow.server.budgets import require_memory
from hedgerow.server.fleet import Request
from hedgerow.server.pool import candidate_pool
from hedgerow.server.progress import Observer
from hedgerow.server.roomy import Roomy, roomy
from hedgerow.server.selection import select
from hedgerow.v1 import payload_pb2 as pb
from tests.budgets import memory_for_levels
from tests.device_fleet import FIRST, Devices
from tests.unit.test_answer import experiment_with

LIMIT = 10**7
NODES = range(FIRST, FIRST + 8)


def planning(**settings: object) -> Experiment:
    return experiment_with(
        representation="weights",
        fleet={"clients": 8, "cohort": 3},
        budget={"plan": True, "levels": [1.0, 0.5]},
        training={"kernels": "dense"},
        **settings,
    )


@dataclass
class Planning(Devices):
    """Devices of which some have memory for the whole; the others would do with 30 bytes. They look at it really."""

    able: frozenset[int] = frozenset()

    def answer(self, request: Request) -> bytes:
        header = decode_payload(request.payload, limit=LIMIT)[0]
        if header.task != pb.TASK_PLAN:
            return super().answer(request)
        assert len(header.levels) == 1
        plan = NodePlan(level=None, budget=10, predicted=0, least=30)
        if request.node in self.able:
            plan = NodePlan(level=0, budget=100, predicted=90, least=0)
        return encode_payload(header.of_reply(), [plan_reply(plan)])


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.of(planning())


def found(bench: Bench, able: set[int]) -> tuple[Roomy, Planning]:
    devices = Planning(Workshop(planning()), able=frozenset(able))
    kept = dict.fromkeys(bench.exchange.architecture.prunable, 2)
    return (
        roomy(NODES, kept, experiment=planning(), exchange=bench.exchange, fleet=devices, observer=Observer()),
        devices,
    )


def test_a_cohort_is_asked_at_a_time_until_enough_have_memory(bench: Bench) -> None:
    order = [NODES[place] for place in numpy_generator(planning().seed, "cohort", 0).permutation(8)]
    roomy, devices = found(bench, {order[1], order[3], order[5], order[7]})
    assert list(roomy.nodes) == sorted([order[1], order[3], order[5]])
    assert [set(asked) for asked in devices.asked] == [set(order[:3]), set(order[3:6])]
    assert roomy.bytes_down == sum(len(payload) for asked in devices.asked for payload in asked.values())
    assert roomy.bytes_up > 0


def test_all_are_asked_where_few_have_memory_and_a_few_do(bench: Bench) -> None:
    roomy, devices = found(bench, {FIRST + 4})
    assert list(roomy.nodes) == [FIRST + 4]
    assert sum(map(len, devices.asked)) == 8


def test_where_nobody_has_memory_for_a_whole_network_it_is_said_what_to_do(bench: Bench) -> None:
    with pytest.raises(TooFewRepliesError, match=r"make selection\.candidates 0, or add devices with 30 B"):
        found(bench, set())


SELECTION = {"candidates": 2, "pool": ["random/erk"], "fraction": 0.5}


def test_devices_with_too_little_memory_take_no_part_in_the_choice_of_a_mask() -> None:
    experiment = planning(selection=SELECTION)
    bench = Bench.of(experiment)
    pool = candidate_pool(experiment, bench, Observer())
    able = {FIRST + 1, FIRST + 2, FIRST + 6}
    devices = Planning(Workshop(experiment), able=frozenset(able))
    chosen = select(pool, experiment=experiment, bench=bench, fleet=devices, observer=Observer())
    assert chosen.record.replies == (3, 3)
    assert chosen.record.failures == ()
    asked = [set(exchange) for exchange in devices.asked]
    assert asked[-2:] == [able, able]
    assert chosen.record.bytes_down == sum(len(p) for exchange in devices.asked for p in exchange.values())


def test_a_simulation_whose_classes_have_memory_for_parts_only_has_nobody_to_choose() -> None:
    experiment = planning(model={"name": "conv4"}, pruning={"density": 0.8, "rule": "erk"}, selection=SELECTION)
    whole, part, _ = memory_for_levels(experiment)
    sizes = {"large": whole, "small": part}

    def classes(*names: str) -> Experiment:
        devices = [{"name": name, "share": 1 / len(names), "memory": sizes[name]} for name in names]
        fleet = {**experiment.fleet.model_dump(), "devices": devices}
        return Experiment.model_validate({**experiment.model_dump(), "fleet": fleet})

    require_memory(classes("large", "small"), bench=Bench.of(experiment))
    with pytest.raises(BudgetError, match=r"no class of fleet\.devices has memory for more than a part; give one"):
        require_memory(classes("small"), bench=Bench.of(experiment))
