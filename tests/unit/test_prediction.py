"""What a step is predicted to take: what is computed, put right by two small steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benchmarks.budget.prediction import Point, figures_of, points
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hedgerow.budget.prediction import Calibration, Probe, predict
from hedgerow.client.calibrating import SIZES
from hedgerow.ledger import Plan, ledger_of, traced

NETWORK = traced(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), (4,))
KEPT = {"0.weight": 5, "2.weight": 2}
PLAN = Plan(samples=10, native=False)


def probe(samples: int, *, more: float) -> Probe:
    """A step that took `more` bytes than computed, in each phase."""
    computed = ledger_of(NETWORK, KEPT, replace(PLAN, samples=samples))
    return Probe(
        samples=samples, computed=computed, phases={name: int(size + more) for name, size in computed.phases.items()}
    )


def test_without_calibration_it_is_what_is_computed() -> None:
    computed, found = ledger_of(NETWORK, KEPT, PLAN), predict(NETWORK, KEPT, PLAN)
    assert (found.step_bytes, found.phases, found.lasting) == (computed.peak, computed.phases, computed.lasting)
    assert not found.calibrated


def test_what_grows_with_the_samples_is_carried_on() -> None:
    calibration = Calibration.of([probe(4, more=100 + 4 * 7), probe(2, more=100 + 2 * 7)])
    assert (calibration.fixed["backward"], calibration.each["backward"]) == (100, 7)
    found = predict(NETWORK, KEPT, PLAN, calibration)
    assert found.calibrated
    assert found.step_bytes == ledger_of(NETWORK, KEPT, PLAN).peak + 100 + 10 * 7


@pytest.mark.parametrize(("first", "second"), [(300, 100), (-300, -100), (-300, 100), (0, 0)])
def test_what_is_less_for_more_samples_is_not_carried_on(first: int, second: int) -> None:
    calibration = Calibration.of([probe(2, more=first), probe(4, more=second)])
    assert calibration.of_phase("forward", 2) == calibration.of_phase("forward", 1000) == second


def test_a_step_never_takes_less_than_what_lasts() -> None:
    calibration = Calibration(fixed={"backward": -1e9, "forward": -1e9, "update": -1e9})
    found = predict(NETWORK, KEPT, PLAN, calibration)
    assert found.step_bytes == found.lasting == ledger_of(NETWORK, KEPT, PLAN).lasting


@settings(max_examples=50, deadline=None)
@given(fixed=st.integers(0, 10**7), each=st.integers(1, 10**6), samples=st.integers(1, 512))
def test_any_line_is_found_again(fixed: int, each: int, samples: int) -> None:
    calibration = Calibration.of([probe(size, more=fixed + each * size) for size in SIZES])
    assert calibration.of_phase("backward", samples) == fixed + each * samples


@settings(max_examples=50, deadline=None)
@given(samples=st.integers(1, 64), first=st.integers(0, 12), second=st.integers(0, 6))
def test_more_samples_and_more_kept_weights_never_take_less(samples: int, first: int, second: int) -> None:
    def peak(samples: int, first: int, second: int) -> int:
        plan = replace(PLAN, samples=samples, compact=False, signs=True)
        return predict(NETWORK, {"0.weight": first, "2.weight": second}, plan).step_bytes

    here = peak(samples, first, second)
    assert here <= peak(samples + 1, first, second)
    assert here <= peak(samples, min(12, first + 1), min(6, second + 1))


def test_no_point_of_the_table_has_the_size_of_a_step_that_calibrates() -> None:
    every = points(quick=False)
    assert min(point.batch for point in every) > max(SIZES)
    assert {point.recompute for point in every} == {True, False}
    assert len({(point.model, point.storage) for point in every}) == 4 * 4


def test_figures_are_worst_and_mean_sizes_of_errors() -> None:
    point = Point(model="mlp", kernels="dense", storage="int8", density=0.1, batch=8, recompute=False)
    low = replace(point, measured=10_000_000, predicted=9_000_000, computed=5_000_000)
    # Of less than 4 MB an error is a share of 4 MB.
    small = replace(point, measured=1_000_000, predicted=1_200_000, computed=1_000_000)
    found = figures_of([low, small])
    assert found["prediction.mlp.int8.worst"] == found["prediction.worst"] == pytest.approx(0.1)
    assert found["prediction.mlp.int8.mean"] == pytest.approx((0.1 + 0.05) / 2)
    assert found["prediction.uncalibrated.worst"] == pytest.approx(0.5)
