"""A worker process of the local grid, or of a device: `python -m hedgerow.wire.worker FD APP [notes]`.

It answers one message at a time with a Flower ClientApp. All that it is sent comes from the process that started it,
and it ends with that process, in the midst of training too.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import select
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

import torch
from flwr.app import Context
from flwr.clientapp import ClientApp

from hedgerow.errors import HedgerowError
from hedgerow.wire.flower import decode_message, decode_state, encode_message, encode_state, identify_process

__all__ = ["load_client_app", "main"]


def load_client_app(reference: str) -> ClientApp:
    """The ClientApp that `package.module:attribute` names."""
    module, _, attribute = reference.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    assert isinstance(app, ClientApp), f"{reference} is not a ClientApp"
    return app


def main(descriptor: int, reference: str, *, notes: bool = False) -> None:
    """Answers until the other end closes.

    Frames in: run configuration as JSON once; then for each message its node's number of the partition as JSON, the
    node's state, the message. Frames out for each: `ok` and the reply and the state, or `error` and the reason twice:
    for the user, and with the traceback. With `notes`, what the client logs comes before them: `note`, a line, nothing.
    """
    # Where there are several workers they are the parallelism. One thread also makes every sum come out the same.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    connection = Connection(descriptor)
    threading.Thread(target=_end_with_parent, args=(descriptor,), daemon=True).start()
    if notes:
        log = logging.getLogger("hedgerow.client")
        log.setLevel(logging.INFO)
        log.addHandler(_Notes(connection))
        log.propagate = False
    run_config = json.loads(connection.recv_bytes())
    app = load_client_app(reference)
    while True:
        try:
            node_config = json.loads(connection.recv_bytes())
        except EOFError:
            return
        # Nothing of a message or its answer is held while the next is answered, which may take all the memory there is.
        frames = [connection.recv_bytes(), connection.recv_bytes()]
        try:
            for frame in _answered(app, frames, node_config=node_config, run_config=run_config):
                connection.send_bytes(frame)
            del frame
        except BrokenPipeError:
            return


def _answered(
    app: ClientApp, frames: list[bytes], *, node_config: dict[str, Any], run_config: dict[str, Any]
) -> list[bytes]:
    """The frames that answer those with a node's state and a message, which are taken out of `frames`."""
    try:
        message, state = decode_message(frames.pop()), decode_state(frames.pop())
        node = message.metadata.dst_node_id
        identify_process(node_id=node)
        context = Context(run_id=1, node_id=node, node_config=node_config, state=state, run_config=run_config)
        reply = encode_message(app(message, context))
        return [b"ok", reply, encode_state(context.state)]
    except Exception as error:
        known = isinstance(error, HedgerowError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        return [b"error", reason.encode(), traceback.format_exc().encode()]


class _Notes(logging.Handler):
    """Sends each line to the other end."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # nobody is there any more, and the answer will find out
            for frame in (b"note", record.getMessage().encode(errors="replace"), b""):
                self._connection.send_bytes(frame)


def _end_with_parent(descriptor: int) -> None:
    # The kernel closes the other end of the socket however the parent dies. Linux could also send a signal
    # (PR_SET_PDEATHSIG), but it does so when the thread that started this process ends, and that may be a short one.
    poll = select.poll()
    poll.register(descriptor, 0)  # no event but the hang-up, which is always reported
    while not poll.poll():
        pass
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], notes=sys.argv[3:] == ["notes"])
