"""The service `Control` of `fleet.proto`. Who may call it is decided before a call comes here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from grpc import StatusCode, aio

from hedgerow.server.control.board import StatusBoard, state_text
from hedgerow.server.grids.remote.view import DeviceView, FleetView
from hedgerow.units import clean_text
from hedgerow.v1 import fleet_pb2 as pb
from hedgerow.v1.fleet_pb2_grpc import ControlServicer, add_ControlServicer_to_server

__all__ = ["ControlService"]

PIECE_BYTES = 1 << 18
"""Of a model, in one message."""
MOST_WATCHERS = 64
_LONGEST_NAME = 100
_LONGEST_TEXT = 200

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class ControlService(ControlServicer):
    """The service.

    Args:
        board: how the run stands.
        model: the file that a finished run leaves.
        fleet: the devices; may be given later with `attend`, since a grid is made with its services.
    """

    def __init__(self, board: StatusBoard, *, model: Path, fleet: FleetView | None = None) -> None:
        self._board, self._model, self._fleet = board, model, fleet
        self._watchers = 0

    def attend(self, fleet: FleetView) -> None:
        """From now on the devices are these."""
        self._fleet = fleet

    def register(self, server: aio.Server) -> None:
        """Adds the service to a server that has not started."""
        add_ControlServicer_to_server(self, server)

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.Status:  # noqa: N802  # gRPC's name
        """As it is now."""
        return self._board.status()

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.Event]:  # noqa: N802  # gRPC's name
        """What happens, until the run ends."""
        if self._watchers >= MOST_WATCHERS:
            await _refuse(context, StatusCode.RESOURCE_EXHAUSTED, f"{MOST_WATCHERS} watch this run already")
        self._watchers += 1
        try:
            with self._board.subscribe() as watcher:
                async for event in watcher.events():
                    yield event
        finally:
            self._watchers -= 1

    async def ListDevices(self, request: pb.ListDevicesRequest, context: Context) -> pb.ListDevicesResponse:  # noqa: N802  # gRPC's name
        """All that ever attached."""
        if self._fleet is None:
            return pb.ListDevicesResponse()
        # A view may wait for its lock, and the event loop must not.
        views = await asyncio.to_thread(self._fleet.devices)
        levels = self._board.levels()
        return pb.ListDevicesResponse(devices=[_device(_levelled(view, levels)) for view in views])

    async def EvictDevice(self, request: pb.EvictDeviceRequest, context: Context) -> pb.EvictDeviceResponse:  # noqa: N802  # gRPC's name
        """Ends a device's stream, and refuses it from now on."""
        name = request.name
        if not name or len(name) > _LONGEST_NAME or name != clean_text(name, limit=_LONGEST_NAME):
            await _refuse(context, StatusCode.INVALID_ARGUMENT, "this is not a device's name")
        if self._fleet is None or not await asyncio.to_thread(self._fleet.evict, name):
            await _refuse(context, StatusCode.NOT_FOUND, f"no device called {name!r} ever attached")
        self._board.note(f"an operator evicted {name}")
        return pb.EvictDeviceResponse()

    async def FetchModel(self, request: pb.FetchModelRequest, context: Context) -> AsyncIterator[pb.ModelChunk]:  # noqa: N802  # gRPC's name
        """The model of the finished run, in pieces."""
        status = self._board.status()
        if status.state != pb.STATE_FINISHED:
            progress = f"{status.round} of {status.rounds} rounds are done"
            await _refuse(context, StatusCode.FAILED_PRECONDITION, f"the run is {state_text(status.state)}, {progress}")
        try:
            file = await asyncio.to_thread(self._model.open, "rb")
        except OSError as error:
            await _refuse(context, StatusCode.FAILED_PRECONDITION, f"the model cannot be read there ({error.strerror})")
        with file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield pb.ModelChunk(data=piece)


async def _refuse(context: Context, code: StatusCode, text: str) -> NoReturn:
    await context.abort(code, text)
    raise AssertionError("abort raises")


def _levelled(view: DeviceView, levels: Mapping[int, int | None]) -> DeviceView:
    if view.node not in levels:
        return view
    level = levels[view.node]
    return replace(view, level=level, too_small=level is None)


def _device(view: DeviceView) -> pb.Device:
    values = {field.name: getattr(view, field.name) for field in fields(DeviceView)}
    for name in ("name", "address", "software"):
        values[name] = clean_text(values[name], limit=_LONGEST_TEXT)
    return pb.Device(**values)
