"""Who may do what over the network: real TLS on real sockets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from benchmarks.stub_device import StubDevice
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hedgerow.errors import ConfigError, IdentityError
from hedgerow.identity import Revocations, channel_credentials, read_identity, server_credentials
from hedgerow.server.control.board import StatusBoard
from hedgerow.server.control.service import ControlService
from hedgerow.server.enrolment import Enrolment, enrol, revoke
from hedgerow.server.grids.remote.devices import Pace
from hedgerow.server.grids.remote.grid import RemoteGrid
from hedgerow.server.serving import Serving, serve
from hedgerow.v1 import fleet_pb2
from hedgerow.v1.fleet_pb2_grpc import ControlStub
from hedgerow.wire.addresses import Address
from tests.contract.crowd import Crowd, Told
from tests.waiting import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "enrolment"
    enrol(path, devices=["phone", "tablet"], operators=["ops"])
    return path


@pytest.fixture
def grid(folder: Path, told: Told) -> Iterator[RemoteGrid]:
    enrolment = Enrolment(folder)
    control = ControlService(StatusBoard(), model=folder / "none")
    with RemoteGrid(
        Address("127.0.0.1", 0),
        run="run-1",
        run_config="{}",
        credentials=server_credentials(read_identity(enrolment.coordinator, role="coordinator")),
        revocations=Revocations(enrolment.revoked),
        observer=told,
        services=[control.register],
        pace=Pace(0.2, 2.0),
    ) as grid:
        control.attend(grid)
        yield grid


def device_of(folder: Path, name: str) -> grpc.ChannelCredentials:
    return channel_credentials(read_identity(folder / "devices" / f"{name}.pem", role="device"))


def operator_of(folder: Path) -> grpc.ChannelCredentials:
    return channel_credentials(read_identity(folder / "operators" / "ops.pem", role="operator"))


def status_code(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    # What is raised is both an error and a call, which its declared type does not say.
    error: Any = caught.value
    code: grpc.StatusCode = error.code()
    return code


def health_of(channel: grpc.Channel) -> health_pb2.HealthCheckResponse:
    # The package's type hints leave the generated stubs' methods out.
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer: health_pb2.HealthCheckResponse = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    return answer


def status_of(channel: grpc.Channel) -> fleet_pb2.Status:
    status: fleet_pb2.Status = ControlStub(channel).GetStatus(fleet_pb2.GetStatusRequest(), timeout=5)
    return status


def services_of(channel: grpc.Channel) -> set[str]:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=5)
    return {service.name for service in answer.list_services_response.service}


def test_a_device_attaches_under_its_certificates_name(grid: RemoteGrid, folder: Path, crowd: Crowd) -> None:
    stub = StubDevice(str(grid.address), "", credentials=device_of(folder, "phone"))
    crowd.start(stub)
    until(lambda: [view.name for view in grid.devices()] == ["phone"])


def test_a_device_cannot_call_itself_by_anothers_name(grid: RemoteGrid, folder: Path, crowd: Crowd, told: Told) -> None:
    crowd.start(StubDevice(str(grid.address), "tablet", credentials=device_of(folder, "phone")))
    until(lambda: told.refusals == ["hello"])
    assert list(grid.get_node_ids()) == []


def test_an_operator_is_no_device_and_a_device_no_operator(
    grid: RemoteGrid, folder: Path, crowd: Crowd, told: Told
) -> None:
    crowd.start(StubDevice(str(grid.address), "", credentials=operator_of(folder)))
    until(lambda: told.refusals == ["role"])
    with grpc.secure_channel(str(grid.address), device_of(folder, "phone")) as channel:
        assert status_code(lambda: status_of(channel)) is grpc.StatusCode.PERMISSION_DENIED
    with grpc.secure_channel(str(grid.address), operator_of(folder)) as channel:
        assert status_of(channel).state == fleet_pb2.STATE_WAITING


def test_revoking_ends_a_stream_at_once_and_lets_nobody_in_with_it_again(
    grid: RemoteGrid, folder: Path, crowd: Crowd, told: Told
) -> None:
    credentials = device_of(folder, "phone")
    other = StubDevice(str(grid.address), "", credentials=device_of(folder, "tablet"))
    stub = StubDevice(str(grid.address), "", credentials=credentials)
    crowd.start(stub)
    crowd.start(other)
    revoke(folder, ["phone"])
    until(lambda: stub.dismissal == fleet_pb2.CAUSE_EVICTED, seconds=2.0)
    crowd.start(StubDevice(str(grid.address), "", credentials=credentials))
    until(lambda: told.refusals == ["revoked"])
    with grpc.secure_channel(str(grid.address), credentials) as channel:
        assert status_code(lambda: health_of(channel)) is grpc.StatusCode.UNAUTHENTICATED
    assert other.dismissal is None


def test_a_revoked_operator_hears_no_more_of_what_it_watches(grid: RemoteGrid, folder: Path, told: Told) -> None:
    with grpc.secure_channel(str(grid.address), operator_of(folder)) as channel:
        events = ControlStub(channel).Watch(fleet_pb2.WatchRequest(), timeout=20)
        next(events)
        revoke(folder, ["ops"])
        assert status_code(lambda: list(events)) is grpc.StatusCode.UNAUTHENTICATED
    assert told.refusals == ["revoked"]


def strangers(folder: Path, tmp_path: Path) -> Iterator[tuple[str, grpc.ChannelCredentials | None]]:
    elsewhere = tmp_path / "elsewhere"
    enrol(elsewhere, devices=["phone"])
    theirs = read_identity(elsewhere / "devices" / "phone.pem", role="device")
    ours = read_identity(folder / "devices" / "phone.pem", role="device")
    yield "no TLS", None
    yield "no certificate", grpc.ssl_channel_credentials(ours.authority_pem)
    yield (
        "a certificate of another authority",
        grpc.ssl_channel_credentials(ours.authority_pem, theirs.key_pem, theirs.certificate_pem),
    )


def test_without_a_valid_identity_nothing_is_answered(
    grid: RemoteGrid, folder: Path, tmp_path: Path, told: Told
) -> None:
    for who, credentials in strangers(folder, tmp_path):
        address = str(grid.address)
        with (
            grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
        ) as channel:
            calls: list[Callable[[grpc.Channel], object]] = [
                status_of,
                health_of,
                services_of,
            ]
            for call in calls:
                assert status_code(functools.partial(call, channel)) is grpc.StatusCode.UNAVAILABLE, who
    assert told.ends == told.refusals == [], "TLS ended it before the coordinator heard of it"


def test_health_and_reflection_are_on_for_whoever_has_an_identity(grid: RemoteGrid, folder: Path) -> None:
    with grpc.secure_channel(str(grid.address), operator_of(folder)) as channel:
        assert health_of(channel).status == health_pb2.HealthCheckResponse.SERVING
        assert {"hedgerow.v1.Devices", "hedgerow.v1.Control", "grpc.health.v1.Health"} <= services_of(channel)


def test_without_tls_a_coordinator_listens_on_loopback_only(tmp_path: Path) -> None:
    from hedgerow.config import load_experiment

    experiment = load_experiment(recipe="hidenseek")
    with pytest.raises(ConfigError, match="--insecure on a network that you trust"):
        serve(experiment, Serving(Address("0.0.0.0", 0)), out=tmp_path / "runs")
    with pytest.raises(IdentityError, match=r"coordinator\.pem"):
        serve(experiment, Serving(Address("0.0.0.0", 0), enrolment=tmp_path), out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists(), "nothing was written"
