"""A device with an identity, and what its user is told where that does not fit."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from hedgerow.identity import Identity, channel_credentials, server_credentials
from hedgerow.identity.issuing import Authority, issue, make_authority
from tests.device_thread import Running, StubWorker
from tests.fake_coordinator import FakeCoordinator
from tests.waiting import until

NOW = datetime.now(UTC)
Join = Callable[[FakeCoordinator, grpc.ChannelCredentials | None], Running]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return make_authority(now=NOW)


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Join]:
    StubWorker.made = []
    running: list[Running] = []

    def start(coordinator: FakeCoordinator, credentials: grpc.ChannelCredentials | None) -> Running:
        running.append(Running(coordinator.address, tmp_path / "state", credentials=credentials))
        return running[-1]

    yield start
    for one in running:
        one.leave()


def coordinator_of(authority: Authority, *, host: str = "127.0.0.1") -> FakeCoordinator:
    identity, _ = issue(authority, name="coordinator", role="coordinator", hosts=[host], now=NOW)
    return FakeCoordinator({}, credentials=server_credentials(identity))


def device_of(authority: Authority) -> Identity:
    return issue(authority, name="pi", role="device", now=NOW)[0]


def hints(running: Running) -> list[str]:
    return [line for line in running.told.lines if line.startswith("hint")]


def test_an_identity_of_the_same_authority_joins(authority: Authority, join: Join) -> None:
    with coordinator_of(authority) as coordinator:
        running = join(coordinator, channel_credentials(device_of(authority)))
        stream = coordinator.device()
        stream.request("a" * 32, run="run-1", round=1, body=b"x")
        assert stream.reply().body == b"X"
        assert hints(running) == []


def mixed(authority: Authority) -> Identity:
    """Trusts the authority, but is of another."""
    return replace(device_of(make_authority(now=NOW)), authority_pem=authority.certificate_pem)


@pytest.mark.parametrize(
    ("identity", "host", "reason", "saying"),
    [
        (lambda _: device_of(make_authority(now=NOW)), "127.0.0.1", "the TLS handshake failed", "not of the coord"),
        (mixed, "127.0.0.1", "the other end closed the connection at once", "not of the coordinator's authority"),
        (device_of, "elsewhere.example", "the TLS handshake failed", "certificate is not for this address"),
        (lambda _: None, "127.0.0.1", "the other end closed the connection at once", "--identity FILE.pem"),
    ],
)
def test_an_identity_that_does_not_fit_is_told_once_and_tried_on(
    identity: Callable[[Authority], Identity | None],
    host: str,
    reason: str,
    saying: str,
    authority: Authority,
    join: Join,
) -> None:
    with coordinator_of(authority, host=host) as coordinator:
        chosen = identity(authority)
        running = join(coordinator, None if chosen is None else channel_credentials(chosen))
        until(lambda: running.told.lines.count(f"lost: {reason}") > 2, what="three attempts")
        assert len(hints(running)) == 1
        assert saying in hints(running)[0]
        assert not StubWorker.made


def test_an_identity_for_a_coordinator_without_tls_is_told(authority: Authority, join: Join) -> None:
    with FakeCoordinator({}) as coordinator:
        running = join(coordinator, channel_credentials(device_of(authority)))
        until(lambda: hints(running), what="the hint")
        assert "runs without TLS" in hints(running)[0]
