"""`/metrics` and `/healthz`, for honest and for bad clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from hedgerow.errors import RunError
from hedgerow.telemetry.http import Health, HttpService, serve_http
from hedgerow.telemetry.prometheus import RunMetrics


@contextlib.contextmanager
def service(health: Health | None = None, *, seconds: float = 10.0) -> Iterator[HttpService]:
    with serve_http(RunMetrics().registry, port=0, health=lambda: health or Health(), seconds=seconds) as running:
        yield running


def get(running: HttpService, path: str, method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(running.host, running.port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read()
    finally:
        connection.close()


def raw(running: HttpService) -> socket.socket:
    return socket.create_connection((running.host, running.port), timeout=20)


def handlers() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_the_metrics_come_in_prometheus_own_format() -> None:
    with service() as running:
        assert running.port > 0
        status, kind, body = get(running, "/metrics")
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert b"\nhedgerow_rounds_total 0.0\n" in body
        assert get(running, "/metrics", Accept="application/openmetrics-text")[2].endswith(b"# EOF\n")


def test_a_run_that_lives_is_healthy_and_says_how_it_stands() -> None:
    with service(Health(facts={"state": "training", "round": 3})) as running:
        status, kind, body = get(running, "/healthz?verbose")
        assert (status, kind) == (200, "application/json")
        assert json.loads(body) == {"status": "ok", "state": "training", "round": 3}


def test_a_run_that_failed_is_not_healthy_and_says_why() -> None:
    with service(Health(failure="the disk is full", facts={"round": 3})) as running:
        status, _, body = get(running, "/healthz")
        assert status == 503
        assert json.loads(body) == {"status": "failed", "reason": "the disk is full", "round": 3}


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/../metrics", "/healthz/x"])
def test_there_is_nothing_else(path: str) -> None:
    with service() as running:
        assert get(running, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_nothing_can_be_sent_to_it(method: str) -> None:
    with service() as running:
        assert get(running, "/metrics", method)[0] == 501


def test_a_health_that_cannot_be_told_is_logged_and_ends_that_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> Health:
        raise RuntimeError("no")

    with serve_http(RunMetrics().registry, port=0, health=broken) as running:
        with pytest.raises(http.client.RemoteDisconnected):
            get(running, "/healthz")
        assert get(running, "/metrics")[0] == 200
    assert [record.exc_text is not None or record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\xff" * 100 + b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
    ],
)
def test_no_request_brings_it_down(request_bytes: bytes) -> None:
    with service() as running:
        with raw(running) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(request_bytes)
            while connection.recv(1 << 16):
                pass
        assert get(running, "/healthz")[0] == 200


def test_who_says_nothing_is_hung_up_on_and_holds_nobody_up() -> None:
    with service(seconds=0.2) as running, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw(running)) for _ in range(5)]
        assert get(running, "/healthz")[0] == 200
        for connection in silent:
            assert connection.recv(1) == b"", "the other end closed it"


def test_who_sends_one_byte_after_the_other_is_hung_up_on_too() -> None:
    with service(seconds=0.5) as running, raw(running) as connection:
        connection.settimeout(0.05)
        for _ in range(400):
            try:
                connection.sendall(b"a")
                if connection.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it listened for 20 s")


def test_too_many_connections_cost_the_oldest_and_not_the_newest() -> None:
    with service() as running, contextlib.ExitStack() as stack:
        connections = [stack.enter_context(raw(running)) for _ in range(100)]
        assert get(running, "/healthz")[0] == 200
        assert connections[0].recv(1) == b""
        assert handlers() <= 40
        connections[-1].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert connections[-1].recv(100).startswith(b"HTTP/1.0 200")


def test_stopping_ends_open_connections_and_frees_the_port() -> None:
    with service() as running, raw(running) as connection:
        assert get(running, "/healthz")[0] == 200
        running.stop()
        assert connection.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            raw(running)
        serve_http(RunMetrics().registry, port=running.port).stop()


def test_an_address_that_cannot_be_used_says_so() -> None:
    with service() as running, pytest.raises(RunError, match=r"port \d+ cannot be used for metrics on 127\.0\.0\.1"):
        serve_http(RunMetrics().registry, port=running.port)
    for host in ("203.0.113.7", "no.such.host.invalid", "a" * 100):
        with pytest.raises(RunError, match="cannot be used"):
            serve_http(RunMetrics().registry, port=0, host=host)
    with pytest.raises(RunError, match="port 70000 cannot be used"):
        serve_http(RunMetrics().registry, port=70000)


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_it_listens_on_ipv6_too() -> None:
    try:
        running = serve_http(RunMetrics().registry, host="::1", port=0)
    except RunError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with running:
        assert get(running, "/healthz")[0] == 200
