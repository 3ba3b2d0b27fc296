"""`/metrics` and `/healthz` over HTTP, for Prometheus and for whatever keeps a coordinator alive.

Whoever reaches the port may try to hold it up, so every connection has its own thread, a size and a time that it may
not exceed, and the oldest one gives way when there are too many.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, MetricsHandler

from hedgerow.errors import RunError

__all__ = ["Health", "HttpService", "serve_http"]

_SECONDS = 10.0
"""That one connection may take."""
_REQUEST_BYTES = 1 << 14
"""Of a request, headers included."""
_CONNECTIONS = 32
"""At one time."""
_POLL_SECONDS = 0.1
"""How often it looks whether a connection took too long, and whether it should stop."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """How a run is.

    Attributes:
        failure: why it failed; None while it goes on, and when it ended well.
        facts: what else `/healthz` says, for example the round.
    """

    failure: str | None = None
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


class HttpService:
    """A running service; `host` and `port` are where it really listens."""

    def __init__(self, server: _Server) -> None:
        self.host, self.port = str(server.server_address[0]), int(server.server_address[1])
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_SECONDS,), name="hedgerow-http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends it, and whatever connections there are; doing so twice does no harm."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.end_connections()

    def __enter__(self) -> HttpService:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve_http(
    registry: CollectorRegistry,
    *,
    port: int,
    host: str = "127.0.0.1",
    health: Callable[[], Health] = Health,
    seconds: float = _SECONDS,
) -> HttpService:
    """Serves `/metrics` in Prometheus' text format, and `/healthz`: 200 with a little JSON, 503 when the run failed.

    Args:
        registry: the metrics, for example `RunMetrics().registry`.
        port: to listen on; 0 = any free one, see `HttpService.port`.
        host: to listen on.
        health: is asked at each request, from any thread.
        seconds: that one connection may take.

    Raises:
        RunError: the address cannot be used.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return HttpService(_Server(family, (str(address[0]), port), registry=registry, health=health, seconds=seconds))
    except (OSError, OverflowError, UnicodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise RunError(f"port {port} cannot be used for metrics on {host} ({reason}); choose another one") from None


class _Server(ThreadingHTTPServer):
    """Bounded in connections, and in the time that each of them takes."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        family: int,
        address: tuple[str, int],
        *,
        registry: CollectorRegistry,
        health: Callable[[], Health],
        seconds: float,
    ) -> None:
        self.address_family = family
        self.registry, self.health, self.seconds = registry, health, seconds
        self._lock = threading.Lock()
        # In the order in which they came.
        self._since: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The inherited one asks the name service for this host's name, which can take half a minute.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._since) >= _CONNECTIONS:
                oldest = next(iter(self._since))
                del self._since[oldest]
                _end(oldest)
            self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Ends the connections that took too long; called again and again."""
        self.end_connections(older_than=self.seconds)

    def end_connections(self, *, older_than: float = -1.0) -> None:
        """Their threads end as soon as they see it."""
        now = time.monotonic()
        with self._lock:
            for connection, since in self._since.items():
                if now - since > older_than:
                    _end(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs what is our own fault; a client that goes away, or that no address can be read from, is nobody's."""
        if not isinstance(sys.exception(), OSError | ValueError):
            _LOG.exception("a request over HTTP could not be answered")


class _Handler(MetricsHandler):
    server_version = "hedgerow"
    sys_version = ""

    def setup(self) -> None:
        self._served = cast(_Server, self.server)
        super().setup()
        self.connection.settimeout(self._served.seconds)
        self.registry = self._served.registry
        self.rfile = io.BufferedReader(_Bounded(self.rfile))

    def do_GET(self) -> None:  # noqa: N802  # the inherited name
        path = urlsplit(self.path).path
        if path == "/metrics":
            super().do_GET()
        elif path == "/healthz":
            self._tell_health(self._served.health())
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "there are /metrics and /healthz"})

    def _tell_health(self, health: Health) -> None:
        if health.failure is None:
            self._answer(HTTPStatus.OK, {"status": "ok", **health.facts})
        else:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "failed", "reason": health.failure, **health.facts})

    def _answer(self, status: HTTPStatus, content: Mapping[str, object]) -> None:
        body = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Bounded(io.RawIOBase):
    """The first `_REQUEST_BYTES` bytes of a stream; it ends after them."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream, self._left = stream, _REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read1(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
