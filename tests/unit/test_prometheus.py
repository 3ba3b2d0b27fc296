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
from hedgerow.assembly import representation_of
from hedgerow.codec import PackedBits, Section, section_label
from hedgerow.codec.ordered import HalfKind
from hedgerow.codec.topk import encode_top_k
from hedgerow.codec.values import ValueFormat
from hedgerow.config import Experiment
from hedgerow.errors import RunError
from hedgerow.exchange import Architecture, Exchange
from hedgerow.privacy import seeded_words
from hedgerow.telemetry import (
    AdjustmentRecord,
    CandidateRecord,
    Failure,
    LevelRecord,
    Measured,
    PhaseBytes,
    PlanRecord,
    RecalibrationRecord,
    RoundRecord,
    SectionBytes,
    SelectionRecord,
)
from hedgerow.telemetry.prometheus import RUN_STATES, SECTIONS, FleetMetrics, RunMetrics, serve_metrics
from hedgerow.v1 import payload_pb2 as pb
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
    cohort=5,
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


def selection(*losses: float | None, winner: int = 0, name: str = "synflow/global") -> SelectionRecord:
    return SelectionRecord(
        candidates=tuple(
            CandidateRecord(name=name, loss=loss, kept=10, layer_density={"a.weight": 0.25}) for loss in losses
        ),
        winner=winner,
        replies=(4, 3),
        failures=(Failure(client="client-0002", reason="x", kind="mismatch"),),
        bytes_up=1000,
        bytes_down=7000,
    )


def test_a_selection_shows_each_candidate_and_counts_its_messages() -> None:
    metrics = RunMetrics()
    metrics.observe(RECORD.model_copy(update={"selection": selection(2.5, 2.25, None, winner=1, name="a\x00b")}))
    value = metrics.registry.get_sample_value
    assert value("hedgerow_candidate_loss_nats", {"candidate": "1", "name": "a b"}) == 2.5
    assert value("hedgerow_candidate_loss_nats", {"candidate": "2", "name": "a b"}) == 2.25
    assert math.isnan(value("hedgerow_candidate_loss_nats", {"candidate": "3", "name": "a b"}) or 0)
    assert value("hedgerow_candidate_selected") == 2
    assert value("hedgerow_message_bytes_total", {"direction": "up"}) == 1100
    assert value("hedgerow_message_bytes_total", {"direction": "down"}) == 7200
    assert value("hedgerow_entropy_bytes_total", {"direction": "up"}) == 1090
    assert value("hedgerow_replies_total", {"result": "folded"}) == 2 + 4 + 3
    assert value("hedgerow_replies_total", {"result": "failed"}) == 2
    assert value("hedgerow_failed_replies_total", {"kind": "mismatch"}) == 1


def test_no_pool_is_too_large_for_the_metrics() -> None:
    metrics = RunMetrics()
    metrics.observe(RECORD.model_copy(update={"selection": selection(*[1.0] * 70, winner=69, name="x" * 5000)}))
    (family,) = (f for f in metrics.registry.collect() if f.name == "hedgerow_candidate_loss_nats")
    assert [sample.labels["candidate"] for sample in family.samples] == [str(place) for place in range(1, 65)]
    assert {len(sample.labels["name"]) for sample in family.samples} == {100}
    assert metrics.registry.get_sample_value("hedgerow_candidate_selected") == 70


def test_adjustments_and_recalibrations_are_counted() -> None:
    metrics = RunMetrics()
    adjustment = AdjustmentRecord(
        block=1, pruned={"a.weight": 30, "b.weight": 12}, grown={"a.weight": 30, "b.weight": 12}
    )
    recalibration = RecalibrationRecord(replies=4, bytes_up=500, bytes_down=900)
    metrics.observe(RECORD)
    metrics.observe(RECORD.model_copy(update={"adjustment": adjustment, "recalibration": recalibration}))
    metrics.observe(RECORD.model_copy(update={"adjustment": adjustment}))
    value = metrics.registry.get_sample_value
    assert value("hedgerow_adjustments_total") == 2
    assert value("hedgerow_pruned_weights_total") == 84
    assert value("hedgerow_grown_weights_total") == 84
    assert value("hedgerow_recalibrations_total") == 1
    assert value("hedgerow_message_bytes_total", {"direction": "down"}) == 3 * 200 + 900


def test_parts_of_the_network_are_counted_and_devices_that_are_refused() -> None:
    metrics = RunMetrics()
    parts = tuple(LevelRecord(level=level, kept=100 >> level, replies=level + 1, examples=10) for level in (0, 1, 2, 9))
    failure = Failure(client="client-0002", reason="x", kind="metrics")
    plans = PlanRecord(
        levels={0: 2, 1: 1}, refused=3, least_bytes=8, failures=(failure,), bytes_up=1000, bytes_down=2000
    )
    metrics.restore(RECORD.model_copy(update={"levels": parts, "plans": plans}))
    value = metrics.registry.get_sample_value
    assert value("hedgerow_refused_devices") == 0, "who was refused before is asked anew"
    metrics.observe(RECORD.model_copy(update={"levels": parts, "plans": plans}))
    metrics.observe(RECORD.model_copy(update={"levels": parts}))
    assert [value("hedgerow_level_replies_total", {"level": level}) for level in ("0", "1", "2", "7", "other")] == [
        *(2, 4, 6, 0),
        20,
    ]
    assert [value("hedgerow_level_kept_weights", {"level": level}) for level in ("0", "1", "2")] == [100, 50, 25]
    assert value("hedgerow_refused_devices") == 3
    assert value("hedgerow_message_bytes_total", {"direction": "up"}) == 2 * 100 + 1000
    assert value("hedgerow_replies_total", {"result": "folded"}) == 2 * 2 + 6
    assert value("hedgerow_failed_replies_total", {"kind": "metrics"}) == 1


def test_what_is_not_known_yet_is_not_a_number() -> None:
    value = RunMetrics().registry.get_sample_value
    for name in (
        "accuracy_ratio",
        "loss_nats",
        "density_ratio",
        "mask_churn_ratio",
        "candidate_selected",
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
        "hedgerow_updates_total",
        "hedgerow_message_bytes_total",
        "hedgerow_entropy_bytes_total",
        "hedgerow_section_bytes_total",
        "hedgerow_section_entropy_bytes_total",
        "hedgerow_device_detached_total",
        "hedgerow_refused_connections_total",
        "hedgerow_rejected_replies_total",
    }


def test_the_known_sections_are_those_that_the_codec_writes() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=40).astype(np.float32)
    patterns = [
        generator.random(4000) < 0.5,
        generator.random(4000) < 0.1,
        generator.random(100_000) < 0.001,
        np.arange(4000) % 16 < 8,
    ]
    written = [codec.counts_section(values)]
    for bits in patterns:
        packed = PackedBits.from_bools(bits)
        written += [codec.mask_section(packed, shapes=[(bits.size,)]), codec.plain_mask_section(packed)]
        written.append(codec.mask_delta_section(packed, PackedBits.from_bools(np.zeros_like(bits))))
        written += [codec.signs_section(kind, packed, groups=[bits.size]) for kind in (pb.KIND_SIGNS, pb.KIND_FLIPS)]
    for coded_as in (pb.CODEC_FLOAT32, pb.CODEC_FLOAT16, pb.CODEC_BFLOAT16):
        largest = encode_top_k(np.array([2]), np.array([0.5], dtype=np.float32), support=4, codec=coded_as)
        written.append(Section.of(pb.KIND_TOP_K, largest, count=4))
    symbols = np.arange(12, dtype=np.uint8) % 3
    written.append(codec.levels_section(pb.KIND_FLIPS, symbols % 2, alphabet=2))
    for kind in (pb.KIND_DRIFT, pb.KIND_VOTES):
        written.append(codec.levels_section(kind, symbols, alphabet=3))
        written.append(codec.plain_levels_section(kind, symbols, alphabet=3))
    for kind in (pb.KIND_WEIGHTS, pb.KIND_FLOATS):
        formats: tuple[ValueFormat, ...] = ("fp32", "fp16", "bf16", "int8", "uniform")
        coded = [codec.encode_values(values, format=f, groups=[40], base=0 * values).coded for f in formats]
        halves: tuple[HalfKind, ...] = ("fp16", "bf16")
        for half in halves:
            ordered = codec.to_ordered(values, kind=half)
            coded.append(codec.encode_ordered(ordered, kind=half, base=ordered, groups=[40]))
        written += [Section.of(kind, one, count=40) for one in coded]
    assert {section_label(section) for section in written} == set(SECTIONS)


@pytest.mark.parametrize("coder", ["entropy", "plain"])
@pytest.mark.parametrize("down", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("up", ["fp32", "fp16", "bf16", "int8", "uniform"])
def test_whatever_an_experiment_sends_is_known(coder: str, down: str, up: str) -> None:
    architecture = Architecture({"w": (300,)}, {"b": (40,)}, (False,))
    generator = np.random.default_rng(0)
    kept, floats = (generator.uniform(-1, 1, count).astype(np.float32) for count in (300, 40))
    found = set()
    for settings in (
        {"representation": "weights"},
        {"aggregation": {"signs": "drift"}},
        {"aggregation": {"signs": "drift"}, "signs": {"abstain": 0.8, "voters": "largest"}},
        {"aggregation": {"signs": "vote"}},
        {"aggregation": {"signs": "mean"}},
    ):
        experiment = Experiment.model_validate({"wire": {"coder": coder, "down": down, "up": up}, **settings})
        exchange = Exchange.of(experiment, architecture=architecture, representation=representation_of(experiment))
        old, new = (
            exchange.version(round, bytes(16), kept=kept * np.float32(1 / round), floats=floats, layers=[300])
            for round in (1, 2)
        )
        sections = [section for base in (None, old) for section in exchange.encode(new, base=base, layers=[300])]
        said = exchange.reply(
            kept,
            floats,
            version=new,
            layers=[300],
            memory=(None, None),
            generator=generator,
            draw=seeded_words(generator),
        )
        found |= {section_label(section) for section in [*sections, *(one.section for one in said)]}
    assert found <= set(SECTIONS)
    assert len(found) >= 5


def test_requests_of_changes_are_counted_beside_the_others() -> None:
    metrics = RunMetrics()
    metrics.observe(RECORD.model_copy(update={"cohort": 9, "late": 2, "updated": 4}))
    metrics.observe(RECORD.model_copy(update={"cohort": 5, "late": 0, "updated": 0}))
    value = metrics.registry.get_sample_value
    # 7 and 5 of them replied or failed.
    assert value("hedgerow_updates_total", {"sent": "delta"}) == 4
    assert value("hedgerow_updates_total", {"sent": "whole"}) == 3 + 5


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


# No label begins so; a short word of Hypothesis' own may be one, as "role" is.
@given(st.lists(st.text(max_size=5).map("?{}".format), min_size=1))
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
    metrics.observe(RECORD.model_copy(update={"selection": selection(2.5, 2.25)}))
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
