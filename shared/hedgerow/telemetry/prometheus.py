"""A run and its devices as Prometheus metrics. Nothing outside this package imports prometheus_client.

What is not known yet is NaN, so that no alert takes it for a value; counters start at 0 with every label value that
can occur, so that `rate` sees the first increase. Labels come from fixed lists: what is not in them is `other`.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import version
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from hedgerow.errors import FailureKind
from hedgerow.telemetry.http import serve_http
from hedgerow.telemetry.records import RoundRecord, SectionBytes, SelectionRecord
from hedgerow.units import clean_text
from hedgerow.wire.transfers import Damage

__all__ = ["FAILURES", "RUN_STATES", "SECTIONS", "FleetMetrics", "RunMetrics", "serve_metrics"]

FAILURES = get_args(FailureKind)
_BITS = ("bits", "bits_rans", "gaps_rans", "bits_zstd")
_UP = ("float32", "float16", "bfloat16", "int8_block", "uniform")
_DOWN = ("ordered16", "ordered_bfloat16")
SECTIONS = tuple(
    f"{kind}/{codec}"
    for kind, codecs in {
        "mask": ("bits", "gaps_zstd", "mask_rans"),
        "mask_delta": _BITS,
        "signs": _BITS,
        "flips": (*_BITS, "symbols_rans"),
        "drift": ("symbols_rans", "bytes_zstd"),
        "votes": ("symbols_rans", "bytes_zstd"),
        "weights": (*_UP, *_DOWN),
        "floats": (*_UP, *_DOWN),
        "top_k": ("float32", "float16", "bfloat16"),
        "counts": ("float32",),
    }.items()
    for codec in codecs
)
"""Kinds of sections with the codecs that they travel in, as in `RoundRecord.sections_up`."""
DETACHED = ("finished", "replaced", "evicted", "stopping", "silent", "lost")
REFUSED = ("identity", "revoked", "evicted", "role", "protocol", "hello")
REJECTED = (*get_args(Damage), "duplicate", "unrequested", "late")
RUN_STATES = ("waiting", "pruning", "training", "finished", "failed")
_OTHER = "other"
_DIRECTIONS = ("up", "down")
_PHASES = ("forward", "backward", "update")
_LEVELS = tuple(map(str, range(8)))
_CANDIDATES = 64
_NAME = 100  # letters of a candidate's name, which is from the configuration
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class RunMetrics:
    """The metrics of one run, in a registry of their own.

    >>> metrics = RunMetrics()
    >>> metrics.registry.get_sample_value("hedgerow_rounds_total")
    0.0
    """

    def __init__(self) -> None:
        self.registry = of = CollectorRegistry()
        Info("hedgerow", "The version that runs.", registry=of).info({"version": version("hedgerow")})
        self._rounds = Counter("hedgerow_rounds_total", "Rounds finished by this process.", registry=of)
        self._round = Gauge("hedgerow_round", "Number of the last finished round.", registry=of)
        self._last = Gauge(
            "hedgerow_last_round_timestamp_seconds",
            "When a round was last finished; before the first, when this process began.",
            registry=of,
        )
        self._last.set(time.time())
        self._duration = Histogram(
            "hedgerow_round_duration_seconds",
            "Duration of a round, evaluation included.",
            registry=of,
            buckets=_SECONDS,
        )
        self._accuracy = self._unknown("hedgerow_accuracy_ratio", "Accuracy on the test samples.")
        self._loss = self._unknown("hedgerow_loss_nats", "Cross-entropy on the test samples.")
        self._train_loss = self._unknown("hedgerow_train_loss_nats", "Cross-entropy of the last cohort.")
        self._density = self._unknown("hedgerow_density_ratio", "Kept fraction of all prunable weights.")
        self._layers = Gauge("hedgerow_layer_density_ratio", "Kept fraction of a layer.", ["layer"], registry=of)
        self._kept = self._unknown("hedgerow_kept_weights", "Number of kept weights.")
        self._churn = self._unknown("hedgerow_mask_churn_ratio", "Kept weights that grew in the last round.")
        self._candidates = Gauge(
            "hedgerow_candidate_loss_nats",
            "Loss on the devices of a candidate for the first mask; candidates are counted from 1.",
            ["candidate", "name"],
            registry=of,
        )
        self._selected = self._unknown("hedgerow_candidate_selected", "The candidate that was chosen, counted from 1.")
        self._adjustments = Counter("hedgerow_adjustments_total", "Rounds that adjusted the mask.", registry=of)
        self._pruned = Counter("hedgerow_pruned_weights_total", "Weights that adjustments pruned.", registry=of)
        self._grown = Counter("hedgerow_grown_weights_total", "Weights that grew in adjustments.", registry=of)
        self._recalibrations = Counter(
            "hedgerow_recalibrations_total", "Times that devices measured the statistics of batch-norm.", registry=of
        )
        self._flips = self._unknown("hedgerow_sign_flip_ratio", "Signs that the last round changed.")
        self._peak = self._unknown("hedgerow_client_peak_memory_bytes", "Largest measured peak in the last cohort.")
        self._phases = Gauge(
            "hedgerow_client_phase_memory_bytes",
            "Largest measured peak in the last cohort, by phase of a step.",
            ["phase"],
            registry=of,
        )
        self._ledger = self._unknown("hedgerow_client_ledger_memory_bytes", "What the peak was computed to be.")
        self._native = self._unknown(
            "hedgerow_native_weights_ratio", "Kept weights that native sparse kernels compute with, in the last cohort."
        )
        self._replies = Counter("hedgerow_replies_total", "Replies of clients.", ["result"], registry=of)
        self._failed = Counter(
            "hedgerow_failed_replies_total", "Clients that did not deliver, by what was wrong.", ["kind"], registry=of
        )
        self._updates = Counter(
            "hedgerow_updates_total",
            "Requests that brought what changed since a version that the device held, or the whole.",
            ["sent"],
            registry=of,
        )
        for sent in ("delta", "whole"):
            self._updates.labels(sent)
        self._level_replies = Counter(
            "hedgerow_level_replies_total",
            "Replies of clients, by the part of the network that they train; 0 is the whole.",
            ["level"],
            registry=of,
        )
        self._level_kept = Gauge(
            "hedgerow_level_kept_weights", "Number of kept weights of a part of the network.", ["level"], registry=of
        )
        self._too_small = Gauge(
            "hedgerow_refused_devices", "Devices that said that they have too little memory.", registry=of
        )
        self._late = Counter(
            "hedgerow_late_replies_total", "Stragglers: clients whose round ended without them.", registry=of
        )
        self._bytes = Counter("hedgerow_message_bytes_total", "Encoded messages.", ["direction"], registry=of)
        self._entropy = Counter(
            "hedgerow_entropy_bytes_total", "Shannon bound of the messages.", ["direction"], registry=of
        )
        labels = ["direction", "section", "codec"]
        self._section = Counter(
            "hedgerow_section_bytes_total", "Sections of messages, as encoded.", labels, registry=of
        )
        self._section_entropy = Counter(
            "hedgerow_section_entropy_bytes_total", "Shannon bound of the sections.", labels, registry=of
        )
        for result in ("folded", "failed"):
            self._replies.labels(result)
        _prepare(self._failed, FAILURES)
        _prepare(self._level_replies, _LEVELS)
        for name in _PHASES:
            self._phases.labels(name).set(math.nan)
        for direction in _DIRECTIONS:
            self._bytes.labels(direction)
            self._entropy.labels(direction)
            for name in SECTIONS:
                self._section.labels(direction, *name.split("/"))
                self._section_entropy.labels(direction, *name.split("/"))

    def restore(self, record: RoundRecord) -> None:
        """Shows the last round of an earlier process; counts nothing."""
        self._round.set(record.round)
        measured = record.measured
        ledger, phases = measured.client_ledger_bytes, measured.client_phase_bytes
        optional: tuple[tuple[Gauge, float | None], ...] = (
            (self._accuracy, record.accuracy),
            (self._loss, record.loss),
            (self._train_loss, record.train_loss),
            (self._flips, record.flip_rate),
            (self._peak, measured.client_peak_bytes),
            (self._ledger, None if ledger is None else ledger.peak),
            (self._native, measured.native_share),
            *((self._phases.labels(name), None if phases is None else getattr(phases, name)) for name in _PHASES),
        )
        for gauge, value in optional:
            if value is not None:
                gauge.set(value)
        self._kept.set(record.kept)
        self._density.set(record.density)
        self._churn.set(record.mask_churn)
        for layer, density in record.layer_density.items():
            self._layers.labels(layer).set(density)
        for part in record.levels:
            self._level_kept.labels(_known(str(part.level), _LEVELS)).set(part.kept)
        if record.selection is not None:
            self._select(record.selection)

    def observe(self, record: RoundRecord) -> None:
        """Takes in a finished round."""
        self.restore(record)
        self._rounds.inc()
        self._last.set(time.time())
        self._duration.observe(record.measured.seconds)
        self._replies.labels("folded").inc(record.replies)
        failures = record.failures
        if record.selection is not None:
            self._replies.labels("folded").inc(sum(record.selection.replies))
            failures += record.selection.failures
        if record.plans is not None:
            self._replies.labels("folded").inc(sum(record.plans.levels.values()) + record.plans.refused)
            self._too_small.inc(record.plans.refused)
            failures += record.plans.failures
        for part in record.levels:
            _labelled(self._level_replies, str(part.level), _LEVELS).inc(part.replies)
        self._replies.labels("failed").inc(len(failures))
        for failure in failures:
            _labelled(self._failed, failure.kind, FAILURES).inc()
        if record.adjustment is not None:
            self._adjustments.inc()
            _add(self._pruned, record.adjustment.weights)
            _add(self._grown, sum(record.adjustment.grown.values()))
        if record.recalibration is not None:
            self._recalibrations.inc()
            self._replies.labels("folded").inc(record.recalibration.replies)
        self._late.inc(record.late)
        self._updates.labels("delta").inc(record.updated)
        self._updates.labels("whole").inc(record.cohort - record.late - record.updated)
        for direction, length, bound, sections in (
            ("up", record.all_bytes_up, record.all_entropy_up, record.sections_up),
            ("down", record.all_bytes_down, record.all_entropy_down, record.sections_down),
        ):
            _add(self._bytes.labels(direction), length)
            _add(self._entropy.labels(direction), bound)
            self._add_sections(direction, sections)

    def _select(self, selection: SelectionRecord) -> None:
        self._selected.set(selection.winner + 1)
        for place, candidate in enumerate(selection.candidates[:_CANDIDATES], start=1):
            loss = math.nan if candidate.loss is None else candidate.loss
            self._candidates.labels(str(place), clean_text(candidate.name, _NAME)).set(loss)

    def _add_sections(self, direction: str, sections: Mapping[str, SectionBytes]) -> None:
        for name, size in sections.items():
            kind, codec = name.split("/") if name in SECTIONS else (_OTHER, _OTHER)
            _add(self._section.labels(direction, kind, codec), size.bytes)
            _add(self._section_entropy.labels(direction, kind, codec), size.entropy)

    def _unknown(self, name: str, text: str) -> Gauge:
        gauge = Gauge(name, text, registry=self.registry)
        gauge.set(math.nan)
        return gauge


class FleetMetrics:
    """The metrics of the attached devices, and of the coordinator's process (`process_resident_memory_bytes` …).

    Args:
        registry: where they go, usually that of the `RunMetrics`.
        state: tells how the run stands, one of `RUN_STATES`; asked at each scrape. Not shown when None.
    """

    def __init__(self, registry: CollectorRegistry, *, state: Callable[[], str] | None = None) -> None:
        of = registry
        ProcessCollector(registry=of)
        self._attached = Gauge("hedgerow_devices_attached", "Devices whose stream is open.", registry=of)
        self._reconnects = Counter("hedgerow_device_reconnects_total", "Devices that came back.", registry=of)
        self._detached = Counter("hedgerow_device_detached_total", "Streams that ended.", ["cause"], registry=of)
        self._refused = Counter(
            "hedgerow_refused_connections_total", "Connections that were not let in.", ["reason"], registry=of
        )
        self._rejected = Counter(
            "hedgerow_rejected_replies_total", "Replies that were thrown away on arrival.", ["reason"], registry=of
        )
        self._queue = Gauge("hedgerow_requests_outstanding", "Requests that wait for their replies.", registry=of)
        _prepare(self._detached, DETACHED)
        _prepare(self._refused, REFUSED)
        _prepare(self._rejected, REJECTED)
        if state is not None:
            gauge = Gauge("hedgerow_run_state", "1 for the state that the run is in.", ["state"], registry=of)
            for name in RUN_STATES:
                gauge.labels(name).set_function(functools.partial(_is, state, name))

    def attached(self, devices: int, *, reconnect: bool = False) -> None:
        """A device attached, and now so many are."""
        self._attached.set(devices)
        if reconnect:
            self._reconnects.inc()

    def detached(self, devices: int, *, cause: str) -> None:
        """A stream ended, and so many devices are still attached."""
        self._attached.set(devices)
        _labelled(self._detached, cause, DETACHED).inc()

    def refused(self, reason: str) -> None:
        """Somebody was not let in."""
        _labelled(self._refused, reason, REFUSED).inc()

    def rejected(self, reason: str) -> None:
        """A reply was thrown away."""
        _labelled(self._rejected, reason, REJECTED).inc()

    def queue(self, requests: int) -> None:
        """So many requests wait for their replies."""
        self._queue.set(requests)


def serve_metrics(metrics: RunMetrics, *, port: int) -> Callable[[], None]:
    """Serves `/metrics` and `/healthz` over HTTP on this machine's loopback address.

    Returns:
        A function that ends the service.

    Raises:
        RunError: the port cannot be used.
    """
    return serve_http(metrics.registry, port=port).stop


def _is(state: Callable[[], str], name: str) -> float:
    return float(state() == name)


def _prepare(counter: Counter, values: Iterable[str]) -> None:
    for value in (*values, _OTHER):
        counter.labels(value)


def _labelled(counter: Counter, value: str, known: Collection[str]) -> Counter:
    return counter.labels(_known(value, known))


def _known(value: str, known: Collection[str]) -> str:
    return value if value in known else _OTHER


def _add(counter: Counter, amount: float) -> None:
    # One NaN would stay in a counter for ever, and a negative amount is an error in the middle of a run.
    if math.isfinite(amount) and amount > 0:
        counter.inc(amount)
