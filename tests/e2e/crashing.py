"""Runs a live coordinator that ends without a word at a given moment: `python -m tests.e2e.crashing`.

One order a line on stdin, `FOLDER ATTEMPT MOMENT`; one answer a line on stdout, the exit code, how many moments the run
had, and the name of the last. Each run is a process of its own, forked from this one, so that torch is imported once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hedgerow.codec import Section, decode_payload, encode_payload, encode_values, plain_levels_section
from hedgerow.config import load_experiment, parse_override
from hedgerow.exchange import Measures
from hedgerow.server import coordinator, delivery, run_folder
from hedgerow.server.bench import Bench
from hedgerow.server.coordinator import coordinate
from hedgerow.server.fleet import Reply, Request
from hedgerow.server.fold import Fold
from hedgerow.server.history import FolderHistory
from hedgerow.server.journal import SqliteJournal
from hedgerow.server.progress import Observer
from hedgerow.server.run_folder import RunFolder
from hedgerow.v1 import payload_pb2 as pb

CRASHED = 9

SETTINGS = (
    "model.name=mlp",
    "rounds=2",
    "fleet.clients=4",
    "fleet.cohort=4",
    "data.min_samples=4",
    "pruning.density=0.1",
    "pruning.iterations=2",
    "aggregation.min_replies=2",
    # What the fleet below says.
    "aggregation.signs=drift",
    "signs.abstain=0.5",
    "signs.voters=largest",
    "wire.down=bf16",
    "wire.up=fp32",
)
EXPERIMENT = load_experiment(recipe="hidenseek", overrides=[parse_override(text) for text in SETTINGS])

MOMENTS: list[tuple[Any, str]] = [
    (SqliteJournal, "begin"),
    (SqliteJournal, "add"),
    (SqliteJournal, "close"),
    (SqliteJournal, "_put"),  # within the steps of `begin` and `close`
    (SqliteJournal, "forget"),
    (Fold, "take"),
    (FolderHistory, "add"),
    (FolderHistory, "add_mask"),
    (RunFolder, "load"),
    (RunFolder, "save"),
    (RunFolder, "remove_journal"),
    (run_folder, "checkpoint_bytes"),  # between a round's line and its checkpoint
    (os, "fsync"),
    (os, "replace"),
    (coordinator, "deliver"),
    (delivery, "write_report"),  # between the model and the report
]
"""Before and after each call of these the process may end."""


class FleetOfFour:
    """Each node's reply to a round is always the same; the order in which they come is not. One always fails.

    Whatever is asked for is written down in `asked`, a line each.
    """

    def __init__(self, asked: Path, *, attempt: int) -> None:
        self._asked, self._attempt = asked, attempt

    def nodes(self) -> Sequence[int]:
        return [2**63 + n for n in range(4)]

    def wait_for(self, count: int, *, observer: Observer) -> Sequence[int]:
        return self.nodes()

    def name(self, node: int) -> str:
        return f"device {node % 4}"

    def exchange(self, requests: Iterable[Request], *, round: int, over: Callable[[], bool]) -> Iterator[Reply]:
        waiting = list(requests)
        for index in np.random.default_rng((round, self._attempt)).permutation(len(waiting)):
            if over():
                return
            with self._asked.open("a") as file:
                file.write(f"{round} {waiting[index].node}\n")
            yield self._reply(waiting[index], round=round)

    def _reply(self, request: Request, *, round: int) -> Reply:
        sizes = (len(request.payload) + round, 40 + request.node % 4)
        if request.node % 4 == 0:
            return Reply(request.node, None, "the camera is broken", {}, *sizes)
        header, sections = decode_payload(request.payload, limit=2**20)
        random = np.random.default_rng((request.node, round))
        votes = random.integers(0, 3, sections[pb.KIND_VOTES].count).astype(np.uint8)
        floats = random.random(sections[pb.KIND_FLOATS].count).astype(np.float32)
        values = encode_values(floats, format="fp32", groups=[floats.size]).coded
        measures = Measures(
            examples=int(random.integers(1, 50)),
            loss=random.random(),
            seconds=1.0,
            forward_bytes=0,
            backward_bytes=0,
            update_bytes=0,
            native_share=0,
        )
        sections_up = [
            plain_levels_section(pb.KIND_DRIFT, votes, alphabet=3),
            Section.of(pb.KIND_FLOATS, values, count=floats.size),
            measures.section(),
        ]
        payload = encode_payload(header.of_reply(), sections_up)
        return Reply(request.node, payload, None, {}, *sizes)


class Moments:
    """Counts them, and ends the process at one."""

    def __init__(self, *, last: int, tell: int) -> None:
        self._last, self._tell, self._count, self._name = last, tell, 0, "none"

    def watch(self) -> None:
        for owner, name in MOMENTS:
            setattr(owner, name, self._watched(getattr(owner, name), name))

    def tell(self) -> None:
        os.write(self._tell, f"{self._count} {self._name}\n".encode())

    def _watched(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            self._reach(f"before {name}")
            result = function(*arguments, **named)
            self._reach(f"after {name}")
            return result

        return watched

    def _reach(self, name: str) -> None:
        self._count, self._name = self._count + 1, name
        if self._count == self._last:
            self.tell()
            os._exit(CRASHED)


def run(out: Path, bench: Bench, *, attempt: int, moments: Moments) -> None:
    moments.watch()
    with RunFolder(out, EXPERIMENT) as folder:
        fleet = FleetOfFour(out.with_suffix(".asked"), attempt=attempt)
        coordinate(EXPERIMENT, bench=bench, fleet=fleet, folder=folder, observer=Observer(), live=True)
    moments.tell()


def main() -> None:
    torch.set_num_threads(1)
    bench = Bench.of(EXPERIMENT)
    for line in sys.stdin:
        folder, attempt, last = line.rsplit(maxsplit=2)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(Path(folder), bench, attempt=int(attempt), moments=Moments(last=int(last), tell=writer))
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader) as told:
            print(os.waitstatus_to_exitcode(status), told.readline().strip(), flush=True)


if __name__ == "__main__":
    main()
