"""Settings of budgets, and of classes of devices."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.config import DeviceClass, Experiment, FleetSettings
from hedgerow.config.load import load_experiment, parse_override
from hedgerow.config.run_config import experiment_in
from hedgerow.errors import ConfigError

TWO = 'fleet.devices=[{name="small",share=0.25,memory="8MB"},{name="large",share=0.75,memory="64MB"}]'


def loaded(*texts: str) -> Experiment:
    return load_experiment(overrides=[parse_override(text) for text in texts])


def fleet(clients: int, *shares: float) -> FleetSettings:
    devices = tuple(DeviceClass(name=f"c{n}", share=share, memory="8MB") for n, share in enumerate(shares))
    return FleetSettings(clients=clients, cohort=1, devices=devices)


def test_classes_are_read_as_a_file_has_them() -> None:
    experiment = loaded("budget.plan=true", TWO)
    assert [(d.name, d.share, d.memory_bytes) for d in experiment.fleet.devices] == [
        ("small", 0.25, 8_000_000),
        ("large", 0.75, 64_000_000),
    ]
    assert experiment.fleet.device_counts == (5, 15)
    assert experiment_in({"experiment": experiment.model_dump_json()}) == experiment


def test_who_plans_nothing_is_named_as_before() -> None:
    plain = loaded()
    assert plain.digest() == loaded("budget.plan=false", "budget.levels=[1]", "fleet.devices=[]").digest()
    assert plain.digest() != loaded("budget.plan=true").digest()


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        ((TWO,), "budget.plan is false"),
        (("budget.levels=[1.0, 0.5]",), "budget.levels has 2 parts of the network, but budget.plan is false"),
        (("budget.hard=true",), "budget.plan is false"),
        (("budget.hard=true", "budget.plan=true"), 'set it to "native" or "dense"'),
        (("budget.plan=true", "budget.levels=[0.5]"), "begin with 1"),
        (("budget.plan=true", "budget.levels=[1.0, 0.0]"), "stay above 0"),
        (("budget.plan=true", "budget.levels=[1.0, 0.9]"), "budget.levels has 0.9 after 1; make each at most 0.8"),
        (("budget.plan=true", "budget.levels=[1.0, 0.5, 0.6]"), "budget.levels has 0.6 after 0.5"),
        (("budget.plan=true", f"budget.levels={[0.8**n for n in range(9)]}"), "budget.levels"),
        (("budget.plan=true", TWO.replace("0.75", "0.5")), "shares of fleet.devices add up to 0.75"),
        (("budget.plan=true", TWO.replace("large", "small")), "names a class twice"),
        (("budget.plan=true", TWO.replace("8MB", "much")), "found 'much'"),
        (
            ("budget.plan=true", TWO, "fleet.clients=1", "fleet.cohort=1"),
            "class 'small' of fleet.devices has no client",
        ),
    ],
)
def test_a_mistake_is_named_in_one_sentence(texts: tuple[str, ...], part: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(part)):
        loaded(*texts)


def test_eight_levels_are_as_many_as_there_may_be() -> None:
    levels = [0.8**n for n in range(8)]
    assert loaded("budget.plan=true", f"budget.levels={levels}").budget.levels == tuple(levels)


@pytest.mark.parametrize(
    ("clients", "shares", "counts"),
    [
        (10, (0.3, 0.7), (3, 7)),
        (5, (0.5, 0.5), (3, 2)),
        (7, (0.333333, 0.333333, 0.333334), (2, 2, 3)),
        (4, (0.1, 0.9), None),
    ],
)
def test_clients_are_dealt_out_by_largest_remainders(
    clients: int, shares: tuple[float, ...], counts: tuple[int, ...] | None
) -> None:
    if counts is None:
        with pytest.raises(ValueError, match="no client among 4"):
            fleet(clients, *shares)
    else:
        assert fleet(clients, *shares).device_counts == counts


@settings(max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(240, 2000))
def test_every_client_has_one_class_and_no_class_is_a_whole_client_off(parts: list[int], clients: int) -> None:
    shares = [part / sum(parts) for part in parts]
    counts = fleet(clients, *shares).device_counts
    assert sum(counts) == clients
    assert all(abs(count - clients * share) < 1.000001 for count, share in zip(counts, shares, strict=True))
