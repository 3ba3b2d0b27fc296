"""A run and its devices as Prometheus metrics."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hedgerow import codec
from hedgerow.codec.payload import section_label
from hedgerow.errors import RunError
from hedgerow.telemetry import Failure, Measured, PhaseBytes, RoundRecord, SectionBytes
from hedgerow.telemetry.prometheus import RUN_STATES, SECTIONS, FleetMetrics, RunMetrics, serve_metrics
from tests.waiting import free_port

MEASURED = Measured(
    seconds=2.5,
    evaluation_seconds=0.5,
    client_seconds=3.0,
    client_peak_bytes=1000,
    coordinator_peak_bytes=None,
    client_phase_bytes=PhaseBytes(forward=800, backward=1000, update=200),
    client_ledger_bytes=PhaseBytes(forward=810, backward=990, update=210),
    native_share=0.75,
)
RECORD = RoundRecord(
    round=3,
    accuracy=0.75,
    density=0.1,
    layer_density={"a.weight": 0.25},
    kept=10,
    cohort=3,
    replies=2,
    examples=40,
    late=2,
    failures=(Failure(client="client-0001", reason="x", kind="not_finite"),),
    bytes_up=100,
    bytes_down=200,
    entropy_up=90.0,
    entropy_down=150.0,
    sections_up={"signs/bits": SectionBytes(bytes=60, entropy=50.5)},
    sections_down={"mask/gaps_zstd": SectionBytes(bytes=120, entropy=80.0)},
    mask_churn=0.125,
    measured=MEASURED,
)


def test_counters_add_up_and_gauges_hold_the_last_value() -> None:
    metrics = RunMetrics()
    metrics.observe(RECORD)
    metrics.observe(RECORD.model_copy(update={"round": 4, "accuracy": None}))
    value = metrics.registry.get_sample_value
    assert value("hedgerow_rounds_total") == 2
    assert value("hedgerow_round") == 4
    assert value("hedgerow_accuracy_ratio") == 0.75, "a round without evaluation leaves it"
    assert value("hedgerow_message_bytes_total", {"direction": "up"}) == 200
    assert value("hedgerow_entropy_bytes_total", {"direction": "down"}) == 300
    assert value("hedgerow_replies_total", {"result": "failed"}) == 2
    assert value("hedgerow_layer_density_ratio", {"layer": "a.weight"}) == 0.25
    assert value("hedgerow_round_duration_seconds_sum") == 5.0
    assert value("hedgerow_client_peak_memory_bytes") == 1000
    assert value("hedgerow_client_phase_memory_bytes", {"phase": "forward"}) == 800
    assert value("hedgerow_client_phase_memory_bytes", {"phase": "backward"}) == 1000
    assert value("hedgerow_client_phase_memory_bytes", {"phase": "update"}) == 200
    assert value("hedgerow_client_ledger_memory_bytes") == 990
    assert value("hedgerow_native_weights_ratio") == 0.75
    assert value("hedgerow_mask_churn_ratio") == 0.125
    assert value("hedgerow_late_replies_total") == 4
    assert value("hedgerow_failed_replies_total", {"kind": "not_finite"}) == 2
    up = {"direction": "up", "section": "signs", "codec": "bits"}
    assert value("hedgerow_section_bytes_total", up) == 120
    assert value("hedgerow_section_entropy_bytes_total", up) == 101
    down = {"direction": "down", "section": "mask", "codec": "gaps_zstd"}
    assert value("hedgerow_section_bytes_total", down) == 240


def test_what_is_not_known_yet_is_not_a_number() -> None:
    value = RunMetrics().registry.get_sample_value
    for name in (
        "accuracy_ratio",
        "loss_nats",
        "density_ratio",
        "mask_churn_ratio",
        "client_peak_memory_bytes",
        "client_ledger_memory_bytes",
        "native_weights_ratio",
    ):
        found = value(f"hedgerow_{name}")
        assert found is not None
        assert math.isnan(found), name
    backward = value("hedgerow_client_phase_memory_bytes", {"phase": "backward"})
    assert backward is not None
    assert math.isnan(backward)


def test_the_rounds_of_an_earlier_process_are_shown_and_not_counted() -> None:
    metrics = RunMetrics()
    metrics.restore(RECORD)
    value = metrics.registry.get_sample_value
    assert value("hedgerow_round") == 3
    assert value("hedgerow_accuracy_ratio") == 0.75
    assert value("hedgerow_rounds_total") == 0
    assert value("hedgerow_message_bytes_total", {"direction": "up"}) == 0


def both() -> tuple[RunMetrics, FleetMetrics]:
    metrics = RunMetrics()
    return metrics, FleetMetrics(metrics.registry, state=lambda: "training")


def counters(registry: CollectorRegistry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.name.startswith("hedgerow_")
    }


def test_every_label_value_that_can_occur_is_there_from_the_start() -> None:
    metrics, fleet = both()
    before = counters(metrics.registry)
    assert set(before.values()) == {0.0}
    metrics.observe(RECORD)
    fleet.detached(0, cause="silent")
    fleet.refused("identity")
    fleet.rejected("wrong_digest")
    after = counters(metrics.registry)
    assert set(after) == set(before)
    assert {name for (name, _), value in after.items() if value} == {
        "hedgerow_rounds_total",
        "hedgerow_replies_total",
        "hedgerow_failed_replies_total",
        "hedgerow_late_replies_total",
        "hedgerow_message_bytes_total",
        "hedgerow_entropy_bytes_total",
        "hedgerow_section_bytes_total",
        "hedgerow_section_entropy_bytes_total",
        "hedgerow_device_detached_total",
        "hedgerow_refused_connections_total",
        "hedgerow_rejected_replies_total",
    }


def test_the_known_sections_are_those_that_the_codec_writes() -> None:
    bits, floats = np.random.default_rng(0).random(1000) < 0.5, np.zeros(3, np.float32)
    few = np.zeros(100_000, np.bool_)
    few[::1000] = True
    written = [
        codec.mask_section(bits),
        codec.mask_section(few),
        codec.signs_section(bits),
        codec.votes_section(np.zeros(3, np.uint8), levels=3),
        codec.weights_section(floats),
        codec.floats_section(floats),
    ]
    assert {section_label(section) for section in written} == set(SECTIONS)


def test_devices_are_counted_as_they_come_and_go() -> None:
    metrics, fleet = both()
    fleet.attached(1)
    fleet.attached(2, reconnect=True)
    fleet.detached(1, cause="lost")
    fleet.queue(7)
    value = metrics.registry.get_sample_value
    assert value("hedgerow_devices_attached") == 1
    assert value("hedgerow_device_reconnects_total") == 1
    assert value("hedgerow_device_detached_total", {"cause": "lost"}) == 1
    assert value("hedgerow_requests_outstanding") == 7
    assert [value("hedgerow_run_state", {"state": state}) for state in RUN_STATES] == [0, 0, 1, 0, 0]
    if sys.platform == "linux":
        assert (value("process_resident_memory_bytes") or 0) > 1e6


@given(st.lists(st.text(max_size=5), min_size=1))
def test_labels_that_nobody_knows_are_all_other(texts: list[str]) -> None:
    metrics, fleet = both()
    before = set(counters(metrics.registry))
    for text in texts:
        fleet.detached(0, cause=text)
        fleet.refused(text)
        fleet.rejected(text)
    assert set(counters(metrics.registry)) == before
    assert metrics.registry.get_sample_value("hedgerow_refused_connections_total", {"reason": "other"}) == len(texts)
    sections = {f"{number}{text}": SectionBytes(bytes=1, entropy=1.0) for number, text in enumerate(texts)}
    metrics.observe(RECORD.model_copy(update={"sections_up": sections}))
    other = {"direction": "up", "section": "other", "codec": "other"}
    assert set(counters(metrics.registry)) - before == {
        (f"hedgerow_section_{name}bytes_total", tuple(sorted(other.items()))) for name in ("", "entropy_")
    }


@given(st.lists(st.floats(), min_size=1))
def test_counters_never_go_backwards_and_are_always_numbers(amounts: list[float]) -> None:
    metrics, _ = both()
    before = counters(metrics.registry)
    for amount in amounts:
        section = SectionBytes.model_construct(bytes=3, entropy=amount)
        update = {"entropy_up": amount, "entropy_down": amount, "sections_up": {"signs/bits": section}}
        metrics.observe(RECORD.model_copy(update=update))
        after = counters(metrics.registry)
        assert all(after[key] >= before[key] for key in before)
        before = after


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_finds_no_fault_in_the_exposition() -> None:
    metrics, fleet = both()
    metrics.observe(RECORD)
    fleet.attached(3, reconnect=True)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(metrics.registry), capture_output=True, timeout=60
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_metrics_are_served_until_stopped() -> None:
    metrics, port = RunMetrics(), free_port()
    metrics.observe(RECORD)
    stop = serve_metrics(metrics, port=port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
        assert families["hedgerow_round"].samples[0].value == 3
        with pytest.raises(RunError, match=f"port {port} cannot be used"):
            serve_metrics(metrics, port=port)
    finally:
        stop()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1)
