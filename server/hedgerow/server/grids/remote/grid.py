"""Flower's `Grid` over devices that joined by gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import grpc
from flwr.app import Message, RecordDict
from google.protobuf.message import DecodeError

from hedgerow.files import write_atomically
from hedgerow.identity import Revocations
from hedgerow.server.grids.base import WaitingGrid
from hedgerow.server.grids.remote.devices import Devices, Pace
from hedgerow.server.grids.remote.entries import Arrival, Request, request_id
from hedgerow.server.grids.remote.guard import Guard
from hedgerow.server.grids.remote.listener import Listener, Register, register_devices
from hedgerow.server.grids.remote.registry import Registry
from hedgerow.server.grids.remote.view import DeviceView, FleetObserver
from hedgerow.v1.fleet_pb2 import Transfer
from hedgerow.wire.addresses import Address
from hedgerow.wire.flower import (
    assign_message_id,
    decode_message,
    encode_content,
    encode_envelope,
    error_reply,
    identify_process,
)
from hedgerow.wire.transfers import Body

__all__ = ["RemoteGrid"]

_REPLY_LIMIT = 1 << 30


class RemoteGrid(WaitingGrid):
    """Listens for devices, and is a `Grid` of those that are attached.

    Args:
        address: where to listen; port 0 takes a free one.
        run: the run's name; requests of the same run, round, device and content are the same request.
        run_config: Flower's, for the devices' ClientApp, as JSON.
        credentials: TLS; none when None.
        revocations: identities that are no longer good; needed with credentials.
        observer: is told what happens to devices.
        services: what is served beside, given the grid.
        reply_limit: bytes of a reply, at most.
        pace: of the heartbeats.
        grace: a request fails when its device has been away so long, in seconds.
        evicted: file that keeps the names of evicted devices, a line each; they are forgotten with the grid when None.

    Raises:
        RunError: the address cannot be listened on.
    """

    def __init__(
        self,
        address: Address,
        *,
        run: str,
        run_config: str,
        credentials: grpc.ServerCredentials | None = None,
        revocations: Revocations | None = None,
        observer: FleetObserver | None = None,
        services: Sequence[Register] = (),
        reply_limit: int = _REPLY_LIMIT,
        pace: Pace | None = None,
        grace: float = 60.0,
        evicted: Path | None = None,
    ) -> None:
        assert (credentials is None) == (revocations is None)
        identify_process()
        observer = FleetObserver() if observer is None else observer
        self._run_name = run
        self._registry, self._evicted = Registry(observer=observer, grace=grace), evicted
        if evicted is not None and evicted.exists():
            for name in evicted.read_text(encoding="utf-8").splitlines():
                self._registry.shut_out(name)
        self._asked: dict[str, Message] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._devices = Devices(
            self._registry,
            observer=observer,
            run=run,
            run_config=run_config,
            reply_limit=reply_limit,
            pace=Pace() if pace is None else pace,
            revocations=revocations,
        )
        self._listener = Listener(
            address,
            credentials=credentials,
            interceptors=[] if revocations is None else [Guard(revocations=revocations, observer=observer)],
            services=[register_devices(self._devices.attach), *services],
            background=self._devices.watch,
        )

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._listener.address

    # Flower's Grid

    def get_node_ids(self) -> Iterable[int]:
        """Devices that are attached now."""
        return self._registry.attached()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Sends messages; one for a device that is away waits for it. A content that several share is encoded once."""
        bodies: dict[int, tuple[RecordDict, Body]] = {}
        requests = []
        for message in messages:
            content, meta = message.content, message.metadata
            # The content is kept beside its body: its address names it only as long as it lives.
            if id(content) not in bodies:
                bodies[id(content)] = (content, Body(encode_content(content)))
            _, body = bodies[id(content)]
            identifier = request_id(self._run_name, meta.group_id, meta.message_type, meta.dst_node_id, body)
            assign_message_id(message, identifier)
            transfer = Transfer(
                id=identifier,
                run=self._run_name,
                round=int(meta.group_id) if meta.group_id.isdecimal() else 0,
                envelope=encode_envelope(message),
            )
            requests.append(Request(identifier, meta.dst_node_id, transfer, body))
            self._asked[identifier] = message
        self._registry.ask(requests)
        return [request.id for request in requests]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived."""
        return [self._reply(i, arrival) for i, arrival in self._registry.take(message_ids).items()]

    # What GridFleet makes use of

    def take_sizes(self, message_id: str) -> tuple[int, int]:
        """Bytes of a request and of its reply as they travelled; asked once."""
        return self._sizes.pop(message_id, (0, 0))

    def wait(self, seconds: float) -> None:
        """Returns when there may be something to pull or a device came or went, or after that time."""
        self._registry.wait(seconds)

    def abandon(self, message_ids: Iterable[str]) -> None:
        """Forgets requests whose replies would come too late; their devices are told to stop."""
        identifiers = list(message_ids)
        self._registry.abandon(identifiers)
        for identifier in identifiers:
            self._asked.pop(identifier, None)
            self._sizes.pop(identifier, None)

    def name_of(self, node: int) -> str:
        """A device's name."""
        return self._registry.name_of(node)

    # FleetView

    def devices(self) -> Sequence[DeviceView]:
        """All devices that ever attached, in the order of their names."""
        return self._registry.views()

    def evict(self, name: str) -> bool:
        """Ends a device's stream and refuses it from now on; False where no device has that name."""
        if not self._registry.evict(name):
            return False
        if self._evicted is not None:
            write_atomically(self._evicted, "".join(f"{out}\n" for out in self._registry.evicted()).encode())
        self._listener.loop.call_soon_threadsafe(self._devices.evict, name)
        return True

    def finish(self) -> None:
        """Tells the devices that the run is done, and whoever comes from now on."""
        self._listener.call(self._devices.dismiss_all("finished"))

    def close(self, cause: str = "stopping") -> None:
        """Tells the devices why, and stops listening."""
        self._listener.call(self._devices.dismiss_all(cause))
        self._listener.close()

    def __enter__(self) -> RemoteGrid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close("finished" if error is None else "stopping")

    def _reply(self, identifier: str, arrival: Arrival) -> Message:
        request = self._asked.pop(identifier)
        self._sizes[identifier] = (arrival.bytes_down, arrival.bytes_up)
        if arrival.failure:
            return error_reply(arrival.failure, to=request, kind=arrival.kind)
        try:
            reply = decode_message(arrival.body)
            fits = reply.metadata.reply_to_message_id == identifier
        # Flower's own decoding raises whatever comes to its mind on bytes that are not its own.
        except Exception as error:
            reason = "not a message" if isinstance(error, DecodeError) else f"not a message ({type(error).__name__})"
            return error_reply(f"the reply is {reason}", to=request, kind="malformed")
        return reply if fits else error_reply("the reply answers another request", to=request, kind="mismatch")
