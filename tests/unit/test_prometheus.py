"""A run as Prometheus metrics."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hedgerow.errors import RunError
from hedgerow.telemetry import Failure, Measured, RoundRecord
from hedgerow.telemetry.prometheus import RunMetrics, serve_metrics

MEASURED = Measured(
    seconds=2.5, evaluation_seconds=0.5, client_seconds=3.0, client_peak_bytes=1000, coordinator_peak_bytes=None
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
    failures=(Failure(client="client-0001", reason="x"),),
    bytes_up=100,
    bytes_down=200,
    entropy_up=90.0,
    entropy_down=150.0,
    measured=MEASURED,
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
