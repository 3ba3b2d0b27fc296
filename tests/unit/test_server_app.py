"""How many devices a run waits for."""

import pytest

from hedgerow.config import AggregationSettings, Experiment
from hedgerow.errors import ConfigError
from hedgerow.server.app import least_devices

EXPERIMENT = Experiment(aggregation=AggregationSettings(min_replies=2))


def test_a_run_waits_for_a_whole_cohort_unless_it_is_told_otherwise() -> None:
    assert least_devices({}, EXPERIMENT) == EXPERIMENT.fleet.cohort == 10
    assert least_devices({"min-devices": 2}, EXPERIMENT) == 2
    assert least_devices({"min-devices": 50}, EXPERIMENT) == 50


@pytest.mark.parametrize("found", [1, 0, -3, True, 2.5, "3"])
def test_a_number_with_which_no_round_could_succeed_is_refused(found: object) -> None:
    with pytest.raises(ConfigError, match=r"min-devices: found .*; at least 2, as many as aggregation\.min_replies"):
        least_devices({"min-devices": found}, EXPERIMENT)
