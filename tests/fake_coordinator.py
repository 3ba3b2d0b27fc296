"""A coordinator that says what a test tells it to, on a real socket."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import grpc

from hedgerow.v1.fleet_pb2 import (
    VERDICT_TAKEN,
    Abandon,
    Acknowledgement,
    Cause,
    Dismissal,
    Frame,
    Heartbeat,
    Hello,
    Transfer,
    Verdict,
    Welcome,
)
from hedgerow.wire.transfers import (
    ATTACH_METHOD,
    MAX_FRAME_BYTES,
    PROTOCOL,
    Assembler,
    Body,
    Received,
    encode_frame,
    frames_of,
)
from tests.waiting import PATIENCE, until

__all__ = ["FakeCoordinator", "Stream"]


class Stream:
    """One attached device."""

    def __init__(self, hello: Hello, context: Any) -> None:
        self.hello, self._context = hello, context
        self.outbox: queue.Queue[Frame | bytes | None] = queue.Queue()
        self.beats: list[Heartbeat] = []
        self.acknowledgements: list[Acknowledgement] = []
        self.replies: list[Received] = []
        self.ended = False

    def send(self, frame: Frame | bytes) -> None:
        self.outbox.put(frame)

    def request(self, id: str, *, run: str, round: int, body: bytes, envelope: bytes = b"", attempt: int = 1) -> None:
        transfer = Transfer(id=id, run=run, round=round, attempt=attempt, envelope=envelope)
        for frame in frames_of(transfer, Body(body)):
            self.send(frame)

    def acknowledge(self, id: str, verdict: Verdict = VERDICT_TAKEN) -> None:
        self.send(Frame(acknowledgement=Acknowledgement(id=id, verdict=verdict, reason="as the test wants")))

    def abandon(self, id: str) -> None:
        self.send(Frame(abandon=Abandon(id=id)))

    def dismiss(self, cause: Cause, text: str = "") -> None:
        self.send(Frame(dismissal=Dismissal(cause=cause, text=text)))
        self.outbox.put(None)

    def reply(self, number: int = 0) -> Received:
        """The reply of that number on this stream."""
        until(lambda: len(self.replies) > number, what=f"reply {number}")
        return self.replies[number]

    def working_on(self, id: str) -> None:
        until(lambda: self.beats and self.beats[-1].working_on == id, what=f"work on {id!r}")

    def end(self) -> None:
        until(lambda: self.ended, what="the end of the stream")


class FakeCoordinator:
    """Welcomes every device; what comes then is the test's.

    Args:
        run_config: for the devices.
        port: to listen on; any when 0.
        refuse: status with which a device is turned away instead of welcomed, or the dismissal.
        credentials: TLS.
    """

    def __init__(
        self,
        run_config: Mapping[str, str],
        *,
        run: str = "run-1",
        port: int = 0,
        heartbeat: float = 0.05,
        silence: float = 5.0,
        acknowledge: bool = True,
        refuse: grpc.StatusCode | Cause | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.run, self.refuse, self.acknowledge, self.answers_beats = run, refuse, acknowledge, True
        self._welcome = Welcome(
            protocol=PROTOCOL,
            node=77,
            run=run,
            run_config=json.dumps(dict(run_config)),
            heartbeat_seconds=heartbeat,
            silence_seconds=silence,
        )
        self._attached: queue.Queue[Stream] = queue.Queue()
        self._server: Any = grpc.server(
            ThreadPoolExecutor(8),
            options=[("grpc.max_receive_message_length", MAX_FRAME_BYTES), ("grpc.so_reuseport", 0)],
        )
        service, _, method = ATTACH_METHOD[1:].partition("/")
        handler = grpc.stream_stream_rpc_method_handler(self._attach, Frame.FromString, encode_frame)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        place = f"127.0.0.1:{port}"
        self.port: int = (
            self._server.add_insecure_port(place)
            if credentials is None
            else self._server.add_secure_port(place, credentials)
        )
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def device(self) -> Stream:
        """The next device that attaches."""
        return self._attached.get(timeout=PATIENCE)

    def stop(self) -> None:
        """As when its process is killed."""
        self._server.stop(0).wait()

    def __enter__(self) -> FakeCoordinator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _attach(self, frames: Iterator[Frame], context: Any) -> Iterator[Frame | bytes]:
        hello = next(frames).hello
        stream = Stream(hello, context)
        context.add_callback(lambda: stream.outbox.put(None))
        self._attached.put(stream)
        if isinstance(self.refuse, grpc.StatusCode):
            context.abort(self.refuse, "not you")
        elif self.refuse is not None:
            yield Frame(dismissal=Dismissal(cause=self.refuse, text="not you"))
            return
        yield Frame(welcome=self._welcome)
        threading.Thread(target=self._listen, args=(stream, frames), daemon=True).start()
        while (frame := stream.outbox.get()) is not None:
            yield frame

    def _listen(self, stream: Stream, frames: Iterator[Frame]) -> None:
        assembler = Assembler(limit=1 << 30)
        try:
            for frame in frames:
                match frame.WhichOneof("kind"):
                    case "heartbeat":
                        stream.beats.append(frame.heartbeat)
                        if self.answers_beats:
                            stream.send(Frame(heartbeat=Heartbeat()))
                    case "acknowledgement":
                        stream.acknowledgements.append(frame.acknowledgement)
                    case "transfer":
                        self._take(stream, assembler.begin(frame.transfer))
                    case "chunk":
                        self._take(stream, assembler.add(frame.chunk))
        except grpc.RpcError:
            pass  # the device is gone
        finally:
            stream.ended = True
            stream.outbox.put(None)

    def _take(self, stream: Stream, received: Received | None) -> None:
        if received is not None:
            stream.replies.append(received)
            if self.acknowledge:
                stream.acknowledge(received.transfer.id)
