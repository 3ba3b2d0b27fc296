"""The same round as a stock Flower app: bytes down, 1,000 bytes up. Runs in Flower's processes, needs Flower alone."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

__all__ = ["client_app", "server_app"]

REPLY = bytes(range(250)) * 4

client_app = ClientApp()
server_app = ServerApp()


def _content(payload: bytes) -> RecordDict:
    return RecordDict({"payload": ArrayRecord({"payload": Array("uint8", (len(payload),), "bytes", payload)})})


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Answers."""
    return Message(_content(REPLY), reply_to=message)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Plays a round for each file `go-K`, which says how many bytes, and writes what it took to `done-K`."""
    folder, devices = Path(str(context.run_config["folder"])), int(str(context.run_config["devices"]))
    while len(list(grid.get_node_ids())) < devices:
        time.sleep(0.2)
    _write(folder / "ready", "{}")
    number = 0
    while True:
        payload = os.urandom(_asked(folder / f"go-{number}"))
        began = time.perf_counter()
        content = _content(payload)
        messages = [
            Message(content, dst_node_id=node, message_type="train", group_id=str(number))
            for node in grid.get_node_ids()
        ]
        replies = list(grid.send_and_receive(messages, timeout=240))
        good = sum(_is_good(reply) for reply in replies)
        seconds = time.perf_counter() - began
        _write(folder / f"done-{number}", json.dumps({"seconds": seconds, "replies": good}))
        number += 1


def _is_good(reply: Message) -> bool:
    return reply.has_content() and reply.content.array_records["payload"]["payload"].data == REPLY


def _asked(path: Path) -> int:
    while not path.exists():
        time.sleep(0.05)
    return int(path.read_text())


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)
