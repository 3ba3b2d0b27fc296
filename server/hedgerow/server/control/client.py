"""The operator's end of the service `Control`: how it is reached, and what goes wrong in one sentence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, cast

# gRPC's own lines about a connection that failed say nothing that our message does not.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from grpc import StatusCode, aio

from hedgerow.errors import ConfigError, ConnectionLostError, HedgerowError, IdentityError, RunError
from hedgerow.identity import channel_credentials, read_identity
from hedgerow.units import clean_text
from hedgerow.v1 import fleet_pb2 as pb
from hedgerow.v1.fleet_pb2_grpc import ControlStub
from hedgerow.wire.addresses import Address, is_loopback, parse_address

__all__ = ["ControlClient", "connected", "credentials_for"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

ANSWER_SECONDS = 10.0
SILENCE_SECONDS = 20.0
"""A coordinator that streams sends something every two seconds, so after so long it is gone."""
_ANSWER_BYTES = 1 << 26


class _Call(Protocol[T_co]):
    """A stream's client end, as far as it is used here."""

    async def read(self) -> T_co | object: ...

    def cancel(self) -> bool: ...


class ControlClient:
    """Asks one coordinator. Every method may raise `IdentityError` and `ConnectionLostError`."""

    def __init__(self, address: Address, channel: aio.Channel) -> None:
        self._address, self._stub = address, ControlStub(channel)

    async def status(self) -> pb.Status:
        """How the run stands."""
        return cast(pb.Status, await self._answer(self._stub.GetStatus(pb.GetStatusRequest(), timeout=ANSWER_SECONDS)))

    async def devices(self) -> Sequence[pb.Device]:
        """All that ever attached, in the order of their names."""
        call = self._stub.ListDevices(pb.ListDevicesRequest(), timeout=ANSWER_SECONDS)
        return list(cast(pb.ListDevicesResponse, await self._answer(call)).devices)

    async def evict(self, name: str) -> None:
        """Ends a device's stream, and has it refused from now on.

        Raises:
            ConfigError: there is no such device.
        """
        await self._answer(self._stub.EvictDevice(pb.EvictDeviceRequest(name=name), timeout=ANSWER_SECONDS))

    async def watch(self) -> AsyncIterator[pb.Event]:
        """What happens, until the run or the connection ends."""
        async for event in self._stream(self._stub.Watch(pb.WatchRequest())):
            yield event

    async def model(self) -> AsyncIterator[bytes]:
        """The finished run's model, in pieces.

        Raises:
            RunError: the run is not finished.
        """
        async for piece in self._stream(self._stub.FetchModel(pb.FetchModelRequest())):
            yield piece.data

    async def _answer(self, call: Awaitable[T]) -> T:
        with self._explained():
            return await call

    async def _stream(self, call: _Call[T]) -> AsyncIterator[T]:
        try:
            while True:
                with self._explained():
                    message = await asyncio.wait_for(call.read(), SILENCE_SECONDS)
                if message is aio.EOF:
                    return
                yield cast(T, message)
        finally:
            call.cancel()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except aio.AioRpcError as error:
            raise _explanation(error, self._address) from None
        except asyncio.CancelledError:
            # A call that the other end cancelled looks like a task that somebody here cancelled.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ConnectionLostError(f"{self._address}: the coordinator ended the call; try again") from None
        except TimeoutError:
            raise ConnectionLostError(
                f"{self._address}: nothing was heard for {SILENCE_SECONDS:.0f} s; is the network up?"
            ) from None


def credentials_for(
    address: str, *, identity: Path | None, insecure: bool
) -> tuple[Address, grpc.ChannelCredentials | None]:
    """Where to connect, and as whom; None = without TLS.

    Args:
        address: as the user gave it.
        identity: an operator's identity file; without TLS when None.
        insecure: go without TLS to another machine too.

    Raises:
        ConfigError: the address is not one.
        IdentityError: the identity cannot be used, or is missing.
    """
    where = parse_address(address)
    if identity is not None:
        return where, channel_credentials(read_identity(identity, role="operator"))
    if not insecure and not is_loopback(where.host):
        raise IdentityError(
            f"{where}: another machine is only asked over TLS; give --identity FILE.pem, which "
            "`hedgerow enrol FOLDER --operator NAME` makes, or --insecure where nobody else is on the network"
        )
    return where, None


@contextlib.asynccontextmanager
async def connected(address: Address, credentials: grpc.ChannelCredentials | None) -> AsyncIterator[ControlClient]:
    """A client with a connection of its own; nothing is sent before the first question."""
    options = [
        ("grpc.max_receive_message_length", _ANSWER_BYTES),
        # Connections that failed are otherwise remembered, and a new channel fails at once for their sake.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    ]
    if credentials is None:
        channel = aio.insecure_channel(str(address), options=options)
    else:
        channel = aio.secure_channel(str(address), credentials, options=options)
    async with channel:
        yield ControlClient(address, channel)


def _explanation(error: aio.AioRpcError, address: Address) -> HedgerowError:
    code, details = error.code(), clean_text(error.details() or "")
    match code:
        case StatusCode.UNAUTHENTICATED | StatusCode.PERMISSION_DENIED:
            return IdentityError(
                f"{address}: not let in ({details}); give --identity FILE.pem, an operator's identity from "
                "`hedgerow enrol FOLDER --operator NAME`"
            )
        case StatusCode.UNAVAILABLE:
            return _unreachable(address, details)
        case StatusCode.NOT_FOUND | StatusCode.INVALID_ARGUMENT:
            return ConfigError(f"{details}; `hedgerow status {address}` lists the devices")
        case StatusCode.FAILED_PRECONDITION:
            return RunError(f"{details}; `hedgerow watch {address}` ends when the run does")
        case StatusCode.UNIMPLEMENTED:
            return ConnectionLostError(
                f"{address}: what answers there is no coordinator of this version; compare `hedgerow --version`"
            )
        case StatusCode.DEADLINE_EXCEEDED:
            return ConnectionLostError(f"{address}: no answer in {ANSWER_SECONDS:.0f} s; is it a coordinator?")
    return ConnectionLostError(f"{address}: the connection ended ({code.name.lower()}: {details}); try again")


def _unreachable(address: Address, details: str) -> HedgerowError:
    # The words before are gRPC's own history of the attempt.
    reason = re.sub(r"^.*last error: \w+: (ipv[46]:\S+: )?", "", details)
    if "refused" in reason:
        return ConnectionLostError(
            f"{address}: nobody listens there; start `hedgerow coordinator`, or correct the port"
        )
    if "WRONG_VERSION_NUMBER" in reason:
        return IdentityError(f"{address}: it speaks no TLS; leave --identity out if it was started with --insecure")
    if "Hostname Verification" in reason:
        return IdentityError(
            f"{address}: its certificate was made for other host names; use one of those, or make a new one with "
            "`hedgerow enrol`"
        )
    if "TSI_PROTOCOL_FAILURE" in reason:
        return IdentityError(
            f"{address}: it and this identity trust different authorities ({reason}); take an identity from the same "
            "`hedgerow enrol` folder"
        )
    if reason == "Cancelling all calls":
        return ConnectionLostError(f"{address}: the coordinator stopped; start it again, and the run goes on")
    if "ocket closed" in reason or "reset" in reason:
        return ConnectionLostError(
            f"{address}: it closed the connection; a coordinator with TLS lets nobody in without --identity FILE.pem, "
            "an operator's identity from `hedgerow enrol FOLDER --operator NAME`"
        )
    return ConnectionLostError(f"{address}: it cannot be reached ({reason}); is it the right address?")
