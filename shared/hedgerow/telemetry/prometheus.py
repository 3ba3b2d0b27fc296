"""A run as Prometheus metrics. Nothing else in hedgerow imports prometheus_client."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from hedgerow.errors import RunError
from hedgerow.telemetry.records import RoundRecord

__all__ = ["RunMetrics", "serve_metrics"]

_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class RunMetrics:
    """The metrics of one run, in a registry of their own.

    >>> metrics = RunMetrics()
    >>> metrics.registry.get_sample_value("hedgerow_rounds_total")
    0.0
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of = self.registry
        self._rounds = Counter("hedgerow_rounds_total", "Rounds finished by this process.", registry=of)
        self._round = Gauge("hedgerow_round", "Number of the last finished round.", registry=of)
        self._duration = Histogram(
            "hedgerow_round_duration_seconds",
            "Duration of a round, evaluation included.",
            registry=of,
            buckets=_SECONDS,
        )
        self._accuracy = Gauge("hedgerow_accuracy_ratio", "Accuracy on the test samples.", registry=of)
        self._loss = Gauge("hedgerow_loss_nats", "Cross-entropy on the test samples.", registry=of)
        self._train_loss = Gauge("hedgerow_train_loss_nats", "Cross-entropy of the last cohort.", registry=of)
        self._density = Gauge("hedgerow_layer_density_ratio", "Kept fraction of a layer.", ["layer"], registry=of)
        self._kept = Gauge("hedgerow_kept_weights", "Number of kept weights.", registry=of)
        self._flips = Gauge("hedgerow_sign_flip_ratio", "Signs that the last round changed.", registry=of)
        self._replies = Counter("hedgerow_replies_total", "Replies of clients.", ["result"], registry=of)
        self._bytes = Counter("hedgerow_message_bytes_total", "Encoded messages.", ["direction"], registry=of)
        self._entropy = Counter(
            "hedgerow_entropy_bytes_total", "Shannon bound of the messages.", ["direction"], registry=of
        )
        self._peak = Gauge(
            "hedgerow_client_peak_memory_bytes", "Largest measured peak in the last cohort.", registry=of
        )

    def observe(self, record: RoundRecord) -> None:
        """Takes in a finished round."""
        self._rounds.inc()
        self._round.set(record.round)
        self._duration.observe(record.measured.seconds)
        optional: tuple[tuple[float | None, Callable[[float], None]], ...] = (
            (record.accuracy, self._accuracy.set),
            (record.loss, self._loss.set),
            (record.train_loss, self._train_loss.set),
            (record.flip_rate, self._flips.set),
            (record.measured.client_peak_bytes, self._peak.set),
        )
        for value, put in optional:
            if value is not None:
                put(value)
        self._kept.set(record.kept)
        for layer, density in record.layer_density.items():
            self._density.labels(layer).set(density)
        self._replies.labels("folded").inc(record.replies)
        self._replies.labels("failed").inc(len(record.failures))
        for direction, length, bound in (
            ("up", record.bytes_up, record.entropy_up),
            ("down", record.bytes_down, record.entropy_down),
        ):
            self._bytes.labels(direction).inc(length)
            self._entropy.labels(direction).inc(bound)


def serve_metrics(metrics: RunMetrics, *, port: int) -> Callable[[], None]:
    """Serves `/metrics` over HTTP on this machine's loopback address.

    Returns:
        A function that ends the service.

    Raises:
        RunError: the port cannot be used.
    """
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=metrics.registry)
    except OSError as error:
        raise RunError(f"port {port} cannot be used for metrics ({error.strerror}); choose another one") from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
