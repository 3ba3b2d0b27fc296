"""Statistics of the network between two rounds: what they change, and what nobody is told of them."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hedgerow.assembly import mask_of
from hedgerow.client.answer import Workshop
from hedgerow.codec import decode_payload
from hedgerow.config import Experiment
from hedgerow.files import unsealed
from hedgerow.recalibration import collect, statistics_positions
from hedgerow.server.bench import Bench
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.history import History, MemoryHistory
from hedgerow.server.progress import Observer
from hedgerow.server.recalibrating import Recalibrated, recalibrate
from hedgerow.server.rounds import Round, play_round
from hedgerow.server.state import RoundState
from hedgerow.v1 import payload_pb2 as pb
from tests.device_fleet import FIRST, Devices
from tests.unit.test_answer import experiment_with

LIMIT = 10**7


class Run:
    """Rounds of three real devices, and statistics between them."""

    def __init__(self, **changes: Any) -> None:
        tree: dict[str, Any] = {
            "representation": "weights",
            "training": {"kernels": "dense"},
            "fleet": {"clients": 8, "cohort": 3},
            "wire": {"down": "bf16"},
            "evaluation": {"recalibrate": True, "fraction": 0.3},
        }
        self.experiment: Experiment = experiment_with(**{**tree, **changes})
        self.bench, self.workshop = Bench.of(self.experiment), Workshop(self.experiment)

    def first(self) -> RoundState:
        return self.bench.start(mask_of(self.experiment, self.bench.initial, self.bench.dataset.input_shape))

    def devices(self, **named: Any) -> Devices:
        return Devices(self.workshop, count=3, **named)

    def play(self, state: RoundState, devices: Devices, *, history: History | None = None) -> Round:
        return play_round(
            state,
            experiment=self.experiment,
            exchange=self.bench.exchange,
            fleet=devices,
            observer=Observer(),
            history=history,
        )

    def recalibrate(
        self, played: Round, devices: Devices, *, history: History | None = None, observer: Observer | None = None
    ) -> Recalibrated:
        return recalibrate(
            played.state,
            cohort=sorted(played.fold.clients),
            experiment=self.experiment,
            bench=self.bench,
            fleet=devices,
            observer=Observer() if observer is None else observer,
            history=MemoryHistory(most=8) if history is None else history,
        )


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


def nothing(request: Request) -> Iterable[Reply]:
    return [Reply(request.node, None, "no power", {}, len(request.payload), 0)]


def test_the_statistics_are_those_of_the_cohorts_batches_and_nothing_else_changes(run: Run) -> None:
    devices, history = run.devices(), MemoryHistory(most=8)
    played = run.play(run.first(), devices, history=history)
    before = played.state.floats.copy()
    found = run.recalibrate(played, devices, history=history)
    means, variances = statistics_positions(run.bench.initial)
    others = np.setdiff1d(np.arange(before.size), np.concatenate([means, variances]))
    np.testing.assert_array_equal(found.state.floats[others], before[others])
    assert (found.state.floats[means] != before[means]).any()
    assert found.state == replace(played.state, floats=found.state.floats)
    np.testing.assert_array_equal(played.state.floats, before)

    # What devices looked at is the network as it travels, in bfloat16.
    state, exchange = played.state, run.bench.exchange
    kept, floats = exchange.starts(
        exchange.version(
            2, state.mask.digest, kept=state.kept, floats=state.floats, layers=list(state.mask.layer_kept().values())
        )
    )
    assert (kept != state.kept).any()
    lookers = [run.workshop._looker(run.workshop.samples.of(k), round=2, client=k) for k in range(3)]
    network = run.bench.network(replace(state, kept=kept, floats=floats))
    expected = collect(network, (images for looker in lookers for images, _ in looker.batches()))
    np.testing.assert_allclose(found.state.floats[means], expected.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.state.floats[variances], expected.variance, rtol=1e-5, atol=1e-5)


def test_the_record_says_who_answered_and_what_it_cost(run: Run) -> None:
    devices = run.devices()
    played = run.play(run.first(), devices)
    record = run.recalibrate(played, devices).record
    assert record is not None
    assert record.replies == 3
    assert record.bytes_down == sum(map(len, devices.asked[1].values()))
    # 400 channels, a mean and a variance of 4 bytes each, and a number of samples.
    assert 3 * 3204 < record.bytes_up < 3 * 3204 + 3 * 100


def test_who_fails_is_left_out(run: Run) -> None:
    devices = run.devices(instead={(1, FIRST + 1): nothing})
    played = run.play(run.first(), devices)
    found = run.recalibrate(played, devices)
    assert found.record is not None
    assert found.record.replies == 2
    assert (found.state.floats != played.state.floats).any()
    assert found.state.held == dict.fromkeys(range(FIRST, FIRST + 3), 1)


def test_where_nobody_answers_the_state_stays_as_it_was(run: Run) -> None:
    devices = run.devices(instead={(1, node): nothing for node in range(FIRST, FIRST + 3)})
    played = run.play(run.first(), devices)
    found = run.recalibrate(played, devices)
    assert found.record is None
    assert found.state is played.state


def test_a_network_without_batch_norms_is_left_alone() -> None:
    run = Run(model={"name": "mlp", "norm": "none"})
    devices, heard = run.devices(), []

    class Listener(Observer):
        def selecting(self, step: str, clients: int) -> None:
            heard.append(step)

    played = run.play(run.first(), devices)
    found = run.recalibrate(played, devices, observer=Listener())
    assert found.record is None
    assert found.state is played.state
    assert len(devices.asked) == 1, "nobody was asked"
    assert heard == []


def test_devices_remember_nothing_of_it(run: Run) -> None:
    devices = run.devices()
    played = run.play(run.first(), devices)
    before = dict(devices.states)
    run.recalibrate(played, devices)
    assert devices.states == before
    assert devices.rounds == [1, 2]


@pytest.mark.parametrize("wire", [{"down": "bf16"}, {"down": "fp32"}, {"down": "bf16", "coder": "plain"}])
def test_the_next_round_is_told_rightly_to_who_was_recalibrated(wire: dict[str, str]) -> None:
    run = Run(wire=wire)
    told, devices = MemoryHistory(most=8), run.devices()
    played = run.play(run.first(), devices, history=told)
    found = run.recalibrate(played, devices, history=told)
    headers = [decode_payload(payload, limit=LIMIT)[0] for payload in devices.asked[1].values()]
    remembers = run.bench.exchange.remembers
    assert [header.base for header in headers] == [1 if remembers else 0] * 3
    assert all(header.task == pb.TASK_RECALIBRATE for header in headers)
    # One of them goes away before the next round, and one that lost all it had is asked like the others.
    devices.states.pop(FIRST + 2)
    state = replace(found.state, held={n: v for n, v in found.state.held.items() if n != FIRST + 2})
    following = run.play(state, devices, history=told)
    headers = [decode_payload(payload, limit=LIMIT)[0] for payload in devices.asked[2].values()]
    assert [header.base for header in headers] == ([1, 1, 0] if remembers else [0, 0, 0])
    assert following.fold.clients == set(range(FIRST, FIRST + 3))

    exchange = run.bench.exchange
    version = exchange.version(
        2, state.mask.digest, kept=state.kept, floats=state.floats, layers=list(state.mask.layer_kept().values())
    )
    for node in devices.states if remembers else ():
        payload = unsealed(devices.states[node].version)
        assert payload is not None
        header, sections = decode_payload(payload, limit=LIMIT)
        layers = list(state.mask.layer_kept().values())
        held = exchange.decode(sections, round=2, mask_digest=header.mask_digest, base=None, layers=layers)
        assert (held.kept.tobytes(), held.floats.tobytes()) == (version.kept.tobytes(), version.floats.tobytes())
