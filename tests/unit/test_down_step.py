"""Steps of the kept weights that travel down, over the rounds."""

from typing import Any

import numpy as np
import pytest

from hedgerow.assembly import exchange_of, mask_of
from hedgerow.codec import Section
from hedgerow.config import Experiment
from hedgerow.schedules import down_step, step_scale
from hedgerow.server.bench import Bench
from tests.unit.test_answer import experiment_with


def experiment_of(**wire: Any) -> Experiment:
    settings = {"down": "uniform", "down_step": 0.5, **wire}
    return experiment_with(rounds=10, representation="weights", wire=settings, training={"final_step": 0.04})


def test_the_step_stays_unless_it_is_to_fall() -> None:
    assert [down_step(experiment_of(), round=n) for n in (1, 5, 10, 11)] == [0.5] * 4


def test_it_falls_with_the_square_root_of_the_step_size() -> None:
    experiment = experiment_of(down_schedule="falling")
    # The cosine is at its start, its half, and 9/10 of its way, below which it does not get.
    found = [down_step(experiment, round=n) for n in (1, 6, 10)]
    assert found == pytest.approx([0.5, 0.5 * np.sqrt(0.52), 0.5 * np.sqrt(0.04 + 0.96 * 0.0244717)], rel=1e-5)
    assert down_step(experiment, round=11) == found[-1], "what comes after the last round is as exact as that"
    assert step_scale(experiment, round=10) == pytest.approx((found[-1] / 0.5) ** 2)


def test_a_device_reads_the_steps_of_any_round() -> None:
    experiment = experiment_of(down_schedule="falling")
    bench = Bench.of(experiment)
    state = bench.start(mask_of(experiment, bench.initial, bench.dataset.input_shape))
    device, layers = exchange_of(experiment, bench.initial), list(state.mask.layer_kept().values())
    errors, base = [], None
    for number in (1, 6, 10):
        exchange = bench.at(experiment, round=number).exchange
        version = exchange.version(number, state.mask.digest, kept=state.kept, floats=state.floats, layers=layers)
        sections: dict[int, Section] = {one.kind: one for one in exchange.encode(version, base=base, layers=layers)}
        read = device.decode(sections, round=number, mask_digest=state.mask.digest, base=base, layers=layers)
        assert device.starts(read)[0].tobytes() == exchange.starts(version)[0].tobytes()
        errors.append(float(np.abs(exchange.starts(version)[0] - state.kept).max()))
        base = read
    assert errors[0] > errors[1] > errors[2] > 0
    assert bench.at(experiment_of(), round=5) is bench
