"""The service `Control` and its client, over real sockets."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from grpc import aio
from rich.console import Console
from rich.table import Table

from hedgerow.errors import ConfigError, ConnectionLostError, HedgerowError, IdentityError, RunError
from hedgerow.identity import channel_credentials, server_credentials
from hedgerow.identity.issuing import issue, make_authority
from hedgerow.server.control import service as service_module
from hedgerow.server.control.board import StatusBoard
from hedgerow.server.control.client import ControlClient, connected, credentials_for
from hedgerow.server.control.service import MOST_WATCHERS, PIECE_BYTES
from hedgerow.server.control.views import device_facts, devices_table
from hedgerow.v1 import fleet_pb2 as pb
from hedgerow.v1.fleet_pb2_grpc import ControlStub
from hedgerow.wire.addresses import Address
from tests.unit.control_server import PHONE, ControlServer, FakeFleet, record

T = TypeVar("T")


@pytest.fixture
def board() -> StatusBoard:
    return StatusBoard(run="run-1")


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet(PHONE)


@pytest.fixture
def server(board: StatusBoard, fleet: FakeFleet, tmp_path: Path) -> Iterator[ControlServer]:
    with ControlServer(board, model=tmp_path / "model.safetensors", fleet=fleet) as running:
        yield running


def ask(
    server: ControlServer,
    work: Callable[[ControlClient], Awaitable[T]],
    *,
    credentials: grpc.ChannelCredentials | None = None,
) -> T:
    async def limited() -> T:
        async with asyncio.timeout(60), connected(Address("localhost", server.port), credentials) as client:
            return await work(client)

    return asyncio.run(limited())


def code_of(server: ControlServer, work: Callable[[Any], Awaitable[object]]) -> grpc.StatusCode:
    """What a bare gRPC client is told, without our own client's explanations."""

    async def call() -> grpc.StatusCode:
        async with aio.insecure_channel(server.address) as channel:
            with pytest.raises(aio.AioRpcError) as caught:
                await work(ControlStub(channel))
            code = caught.value.code()
            assert isinstance(code, grpc.StatusCode)
            return code

    return asyncio.run(call())


def text_of(table: Table) -> str:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


async def downloaded(client: ControlClient) -> list[bytes]:
    return [piece async for piece in client.model()]


async def watched(client: ControlClient) -> list[str]:
    return [event.text async for event in client.watch() if event.text]


def test_the_status_is_the_boards(server: ControlServer, board: StatusBoard) -> None:
    board.finished_round(record(3), rounds=10)
    now = ask(server, lambda client: client.status())
    assert (now.run, now.round, now.rounds, now.accuracy, now.bytes_down) == ("run-1", 3, 10, 0.75, 200)


def test_devices_are_listed_with_all_that_is_known_of_them(server: ControlServer) -> None:
    (device,) = ask(server, lambda client: client.devices())
    assert device == pb.Device(
        name="phone",
        node=7,
        attached=True,
        address="ipv4:10.0.0.2:1000",
        software="hedgerow 0.1.0",
        memory_bytes=4_000_000_000,
        cores=8,
        examples=1234,
        resident_bytes=310_000_000,
        working_on_round=4,
        seconds_since_heard=0.5,
        reconnects=2,
        replies=3,
        rejected=1,
    )


def test_devices_are_listed_with_the_part_of_the_network_that_they_have_memory_for(
    server: ControlServer, board: StatusBoard
) -> None:
    (device,) = ask(server, lambda client: client.devices())
    assert (device.HasField("level"), device.too_small) == (False, False)
    assert device_facts(device)["level"] is None
    assert text_of(devices_table([device])).count("level") == 0
    board.planned({7: 0, 8: None})
    (device,) = ask(server, lambda client: client.devices())
    assert (device.HasField("level"), device.level, device.too_small) == (True, 0, False)
    assert text_of(devices_table([device])).splitlines()[0].endswith("level")
    assert text_of(devices_table([device])).splitlines()[-1].endswith("0")
    board.planned({7: None})
    (device,) = ask(server, lambda client: client.devices())
    assert (device.HasField("level"), device.too_small) == (False, True)
    assert device_facts(device)["too_small"] is True
    assert text_of(devices_table([device])).splitlines()[-1].endswith("too small")


def test_a_view_has_the_fields_of_the_message() -> None:
    assert {field.name for field in pb.Device.DESCRIPTOR.fields} == set(PHONE.__slots__)


def test_a_coordinator_that_has_no_grid_yet_knows_no_devices(board: StatusBoard, tmp_path: Path) -> None:
    with ControlServer(board, model=tmp_path / "m") as server:
        assert ask(server, lambda client: client.devices()) == []
        with pytest.raises(ConfigError, match="no device called 'phone' ever attached"):
            ask(server, lambda client: client.evict("phone"))
        server.service.attend(FakeFleet(PHONE))
        assert [device.name for device in ask(server, lambda client: client.devices())] == ["phone"]


def test_an_evicted_device_is_shown_as_evicted_and_watchers_hear_of_it(
    server: ControlServer, board: StatusBoard
) -> None:
    async def work(client: ControlClient) -> list[str]:
        events = client.watch()
        first = (await anext(events)).text
        await client.evict("phone")
        while not (text := (await anext(events)).text):
            pass
        await events.aclose()  # type: ignore[attr-defined]  # an async generator
        return [first, text]

    assert ask(server, work) == ["waiting", "an operator evicted phone"]
    (device,) = ask(server, lambda client: client.devices())
    assert (device.evicted, device.attached) == (True, False)


@pytest.mark.parametrize("name", ["", "x" * 101, "phone\n", " phone", "pho\x1b[31mne"])
def test_what_is_no_name_is_no_device(name: str, server: ControlServer) -> None:
    with pytest.raises(ConfigError, match="this is not a device's name; `hedgerow status localhost:"):
        ask(server, lambda client: client.evict(name))
    request = pb.EvictDeviceRequest(name=name)
    assert code_of(server, lambda stub: stub.EvictDevice(request)) == grpc.StatusCode.INVALID_ARGUMENT


def test_an_unknown_device_is_not_found(server: ControlServer) -> None:
    request = pb.EvictDeviceRequest(name="tablet")
    assert code_of(server, lambda stub: stub.EvictDevice(request)) == grpc.StatusCode.NOT_FOUND


def test_the_model_comes_in_pieces_once_the_run_is_finished(
    server: ControlServer, board: StatusBoard, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 3000
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="the run is waiting, 0 of 0 rounds are done"):
        ask(server, downloaded)
    request = pb.FetchModelRequest()
    early = code_of(server, lambda stub: stub.FetchModel(request).read())
    assert early == grpc.StatusCode.FAILED_PRECONDITION
    board.finished()
    pieces = ask(server, downloaded)
    assert b"".join(pieces) == content
    assert [len(piece) for piece in pieces] == [PIECE_BYTES, PIECE_BYTES, len(content) - 2 * PIECE_BYTES]


def test_a_model_that_is_gone_is_said_to_be(server: ControlServer, board: StatusBoard) -> None:
    board.finished()
    with pytest.raises(RunError, match="the model cannot be read there"):
        ask(server, downloaded)


def test_a_watcher_leaves_when_the_run_ends(server: ControlServer, board: StatusBoard) -> None:
    async def work(client: ControlClient) -> list[str]:
        events = client.watch()
        texts = [(await anext(events)).text]
        board.attached("phone", reconnect=False)
        board.finished()
        return texts + [event.text async for event in events if event.text]

    assert ask(server, work) == ["waiting", "phone attached", "finished"]


def test_only_so_many_may_watch_and_who_leaves_makes_room(
    server: ControlServer, board: StatusBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_WATCHERS == 64
    monkeypatch.setattr(service_module, "MOST_WATCHERS", 1)

    async def work(client: ControlClient) -> None:
        first = client.watch()
        await anext(first)
        with pytest.raises(ConnectionLostError, match="1 watch this run already"):
            await anext(client.watch())
        await first.aclose()  # type: ignore[attr-defined]  # an async generator
        while True:  # the server hears of it a little later; the deadline is the caller's
            try:
                await anext(client.watch())
            except ConnectionLostError:
                await asyncio.sleep(0.02)
            else:
                return

    ask(server, work)


@pytest.mark.parametrize("grace", [None, 0.1])
def test_a_coordinator_that_stops_is_a_lost_connection(grace: float | None, server: ControlServer) -> None:
    async def work(client: ControlClient) -> None:
        events = client.watch()
        await anext(events)
        await asyncio.to_thread(server.stop, grace)
        while True:
            await anext(events)

    with pytest.raises(ConnectionLostError):
        ask(server, work)
    with pytest.raises(ConnectionLostError, match=r"nobody listens there; start `hedgerow coordinator`"):
        ask(server, lambda client: client.status())


class Refusing(aio.ServerInterceptor):
    """Lets nobody in."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        async def refuse(request: object, context: Any) -> None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this is for the identity of operator, not device")

        return grpc.unary_unary_rpc_method_handler(refuse)


def test_who_is_not_let_in_is_told_what_is_missing(board: StatusBoard, tmp_path: Path) -> None:
    with (
        ControlServer(board, model=tmp_path / "m", interceptors=[Refusing()]) as server,
        pytest.raises(IdentityError, match=r"not let in \(this is for .*\); give --identity FILE.pem, an operator's"),
    ):
        ask(server, lambda client: client.status())


def test_over_tls_only_the_right_identity_gets_an_answer(board: StatusBoard, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority, foreign = make_authority(now=now), make_authority(now=now)
    coordinator, _ = issue(authority, name="coordinator", role="coordinator", hosts=["localhost"], now=now)
    operator, _ = issue(authority, name="me", role="operator", now=now)
    stranger, _ = issue(foreign, name="me", role="operator", now=now)
    with ControlServer(board, model=tmp_path / "m", credentials=server_credentials(coordinator)) as server:

        def status(credentials: grpc.ChannelCredentials | None) -> pb.Status:
            return ask(server, lambda client: client.status(), credentials=credentials)

        assert status(channel_credentials(operator)).run == "run-1"
        with pytest.raises(IdentityError, match="trust different authorities"):
            status(channel_credentials(stranger))
        with pytest.raises(ConnectionLostError, match="a coordinator with TLS lets nobody in without --identity"):
            status(None)
        server.address = f"127.0.0.1:{server.port}"

        async def by_number() -> None:
            async with connected(Address("127.0.0.1", server.port), channel_credentials(operator)) as client:
                await client.status()

        with pytest.raises(IdentityError, match="made for other host names"):
            asyncio.run(by_number())
    with (
        ControlServer(board, model=tmp_path / "m") as plain,
        pytest.raises(IdentityError, match="it speaks no TLS; leave --identity out"),
    ):
        ask(plain, lambda client: client.status(), credentials=channel_credentials(operator))


def test_what_is_no_coordinator_is_said_not_to_be_one() -> None:
    async def empty_server() -> None:
        server = aio.server()
        port = server.add_insecure_port("localhost:0")
        await server.start()
        try:
            async with connected(Address("localhost", port), None) as client:
                await client.status()
        finally:
            await server.stop(None)

    with pytest.raises(ConnectionLostError, match="no coordinator of this version"):
        asyncio.run(empty_server())


def test_another_machine_is_asked_without_tls_only_when_the_user_says_so(tmp_path: Path) -> None:
    def asked(address: str, *, insecure: bool = False) -> object:
        return credentials_for(address, identity=None, insecure=insecure)

    assert asked("localhost:1") == (Address("localhost", 1), None)
    assert asked("pi.local:1", insecure=True) == (Address("pi.local", 1), None)
    with pytest.raises(IdentityError, match=r"pi\.local:1: another machine is only asked over TLS; give --identity"):
        asked("pi.local:1")
    with pytest.raises(ConfigError):
        asked("not an address")
    with pytest.raises(IdentityError, match="no such file"):
        credentials_for("localhost:1", identity=tmp_path / "absent.pem", insecure=True)


def test_every_failure_of_a_connection_is_an_error_for_the_user() -> None:
    for code in grpc.StatusCode:
        error = aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details="why\x1b")

        async def fails(error: aio.AioRpcError = error) -> None:
            raise error

        async def call(fails: Callable[[], Awaitable[None]] = fails) -> None:
            async with connected(Address("localhost", 1), None) as client:
                await client._answer(fails())

        with pytest.raises(HedgerowError) as caught:
            asyncio.run(call())
        assert "\x1b" not in str(caught.value)


def test_an_operators_commands_need_neither_torch_nor_flower() -> None:
    names = ("client", "follow", "options", "screens", "views")
    code = "".join(f"import hedgerow.server.control.{name}\n" for name in names)
    code += "import hedgerow.server.commands.fetch, sys\nprint(sorted({'torch', 'flwr', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")
