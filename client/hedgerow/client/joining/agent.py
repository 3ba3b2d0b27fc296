"""The device: connects to its coordinator, again and again, until there is a reason not to."""

from __future__ import annotations

import asyncio
import random
import secrets
from dataclasses import dataclass

import grpc
import grpc.aio

from hedgerow.client.joining.backoff import Backoff
from hedgerow.client.joining.desk import Desk
from hedgerow.client.joining.machine import software
from hedgerow.client.joining.progress import Progress
from hedgerow.client.joining.reasons import explained, hint, stop_if_refused
from hedgerow.client.joining.session import Ending, attend
from hedgerow.machine import cores
from hedgerow.v1.fleet_pb2 import CAUSE_FINISHED, Hello, Welcome
from hedgerow.wire.transfers import MAX_FRAME_BYTES, PROTOCOL

__all__ = ["Device", "serve"]

_LARGEST_REQUEST = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a coordinator is told of a device, and how the device reaches it.

    Attributes:
        name: the certificate's where there is one.
        address: `host:port`.
        credentials: TLS; None without.
        memory_bytes: that it may use.
        examples: training samples that it has.
        once: whether it ends with the run.
    """

    name: str
    address: str
    credentials: grpc.ChannelCredentials | None
    memory_bytes: int
    examples: int
    once: bool = False


async def serve(device: Device, *, desk: Desk, progress: Progress, backoff: Backoff | None = None) -> None:
    """Works for the coordinator; ends with the run when `device.once`, else never by itself.

    Raises:
        IdentityError: the coordinator does not let this identity in.
        ConnectionLostError: it evicted the device, has it attached from elsewhere, or speaks another protocol.
        RunError: the state folder cannot be used.
    """
    await _Agent(device, desk=desk, progress=progress, backoff=backoff or Backoff(random.Random())).serve()


class _Agent:
    def __init__(self, device: Device, *, desk: Desk, progress: Progress, backoff: Backoff) -> None:
        self._device, self._desk, self._progress, self._backoff = device, desk, progress, backoff
        self._instance = secrets.token_bytes(16)
        self._run = ""
        self._finished: str | None = None
        self._hinted = False

    async def serve(self) -> None:
        while True:
            ending = await self._connect()
            _end_if_cancelled()
            stop_if_refused(ending)
            if ending.cause == CAUSE_FINISHED:
                await self._finish()
                if self._device.once:
                    return
            elif ending.welcomed:
                self._backoff.reset()
            seconds = self._backoff.next()
            if ending.cause != CAUSE_FINISHED:
                self._progress.lost(explained(ending), seconds=seconds)
                self._hint(ending)
            await asyncio.sleep(seconds)

    async def _connect(self) -> Ending:
        device = self._device
        hello = Hello(
            protocol=PROTOCOL,
            device=device.name,
            instance=self._instance,
            memory_bytes=device.memory_bytes,
            cores=cores(),
            software=software(),
            examples=device.examples,
            held=self._desk.held(),
        )
        limit = min(_LARGEST_REQUEST, device.memory_bytes // 2)
        async with _channel(device) as channel:
            return await attend(
                channel, hello=hello, desk=self._desk, progress=self._progress, limit=limit, entered=self._entered
            )

    def _entered(self, welcome: Welcome) -> bool:
        # A coordinator whose run is over lets a device in only to tell it so.
        self._run = welcome.run
        over = self._run == self._finished
        if not over:
            self._progress.joined(run=self._run)
        return not over

    async def _finish(self) -> None:
        await self._desk.finish()
        if self._run != self._finished:
            self._backoff.reset()
            self._progress.finished(waits=not self._device.once)
        self._finished = self._run

    def _hint(self, ending: Ending) -> None:
        text = hint(ending, identity=self._device.credentials is not None)
        if text is not None and not self._hinted:
            self._hinted = True
            self._progress.hint(text)


def _end_if_cancelled() -> None:
    # gRPC takes a cancellation that comes while it prepares a call for its own, and then says only that nobody listens.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _channel(device: Device) -> grpc.aio.Channel:
    options: list[tuple[str, int]] = [
        ("grpc.max_receive_message_length", MAX_FRAME_BYTES),
        ("grpc.max_send_message_length", MAX_FRAME_BYTES),
        # The back-off is ours; a shared connection would bring gRPC's own.
        ("grpc.use_local_subchannel_pool", 1),
        # A proxy for web pages is not one for streams that last, and loopback is nobody's.
        ("grpc.enable_http_proxy", 0),
    ]
    if device.credentials is None:
        return grpc.aio.insecure_channel(device.address, options=options)
    return grpc.aio.secure_channel(device.address, device.credentials, options=options)
