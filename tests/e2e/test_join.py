"""`hedgerow join` as its user sees it: real processes that really train, and real kills."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import Message
from flwr.proto.message_pb2 import Message as MessageProto

from hedgerow.assembly import mask_of, model_of
from hedgerow.client.answer import Workshop
from hedgerow.client.memory import ClientState
from hedgerow.codec import Header, Section, decode_payload, encode_payload, mask_section
from hedgerow.config import Experiment, load_experiment
from hedgerow.data import DataFacts
from hedgerow.pruning import prunable_tensors
from hedgerow.sparse import float_tensors, read_vector
from hedgerow.v1 import payload_pb2 as pb
from hedgerow.v1.fleet_pb2 import CAUSE_FINISHED
from hedgerow.wire.flower import (
    assign_message_id,
    content_of,
    decode_message,
    encode_message,
    identify_process,
    payload_in,
)
from tests.e2e.command import HEDGEROW
from tests.fake_coordinator import FakeCoordinator, Stream
from tests.waiting import PATIENCE, until

NODE = 77
MINE = """
import os
from hedgerow.data import load_dataset

def data():
    print("hello")
    open(f"loaded-{os.getpid()}", "w").close()
    return load_dataset("digits")
"""
FACTS = DataFacts(input_shape=(1, 8, 8), classes=10, mean=(0.5,), std=(0.25,))


def experiment_with(*, epochs: int) -> Experiment:
    overrides: dict[str, object] = {
        "model.name": "mlp",
        "pruning.density": 0.1,
        "pruning.saliency": "random",
        "data.partition": "iid",
        "fleet.clients": 4,
        "fleet.cohort": 4,
        "training.epochs": epochs,
    }
    return load_experiment(overrides=overrides.items())


class Asking:
    """A round's request, and what simulate's client would answer."""

    def __init__(self, *, epochs: int = 1) -> None:
        self.experiment = experiment_with(epochs=epochs)
        self.workshop = Workshop(self.experiment)
        model = model_of(self.experiment, self.workshop.dataset)
        mask = mask_of(self.experiment, model, self.workshop.dataset.input_shape)
        weights = {name: w.detach() for name, w in prunable_tensors(model).items()}
        exchange = self.workshop.builder.exchange
        start = exchange.representation.initial(weights, mask)
        layers = list(mask.layer_kept().values())
        version = exchange.version(1, mask.digest, kept=start, floats=read_vector(float_tensors(model)), layers=layers)
        body = exchange.encode(version, base=None, layers=layers)
        sections = [mask_section(mask.bits(), shapes=list(mask.shapes.values())), *body]
        experiment, tensors = bytes.fromhex(self.experiment.digest()), exchange.architecture.tensors()
        self.payload = encode_payload(Header(experiment, 1, mask.digest, tensors=tensors), sections)

    def run_config(self, *, facts: DataFacts | None = None) -> dict[str, str]:
        config = {"experiment": self.experiment.model_dump_json()}
        return config if facts is None else {**config, "facts": facts.model_dump_json()}

    def ask(self, stream: Stream, id: str) -> None:
        identify_process()
        message = Message(content_of(self.payload), dst_node_id=NODE, message_type="train", group_id="1")
        assign_message_id(message)
        whole = MessageProto.FromString(encode_message(message))
        body = MessageProto(content=whole.content).SerializeToString()
        whole.ClearField("content")
        stream.request(id, run="run-1", round=1, envelope=whole.SerializeToString(), body=body)


@pytest.fixture(scope="module")
def short() -> Asking:
    return Asking()


@pytest.fixture(scope="module")
def long() -> Asking:
    """A request that takes seconds."""
    return Asking(epochs=40)


class Joined:
    """A device's process."""

    def __init__(self, cwd: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*HEDGEROW, "join", *arguments],
            cwd=cwd,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "XDG_STATE_HOME": str(cwd / "state")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def worker(self) -> int:
        """Process that trains."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (pid,) = until(lambda: path.read_text().split(), what="the worker")
        return int(pid)

    def end(self, number: signal.Signals) -> tuple[str, str]:
        self.process.send_signal(number)
        return self.finish()

    def finish(self) -> tuple[str, str]:
        return self.process.communicate(timeout=PATIENCE)


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[list[Joined]]:
    all_of_them: list[Joined] = []
    yield all_of_them
    for one in all_of_them:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def seconds_of(pid: int) -> float:
    """Of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for_training(pid: int, cwd: Path) -> None:
    until(lambda: (cwd / f"loaded-{pid}").exists(), what="the data")
    before = seconds_of(pid)
    until(lambda: seconds_of(pid) > before + 0.3, what="training")


def reply_of(stream: Stream, number: int = 0) -> bytes:
    received = stream.reply(number)
    assert received.transfer.failure == ""
    return payload_in(decode_message(received.body).content)


def trained(payload: bytes) -> tuple[Header, list[Section]]:
    """All of a reply but what was measured, seconds and bytes among it, which differ each time."""
    header, sections = decode_payload(payload, limit=10**7)
    assert pb.KIND_COUNTS in sections
    return header, [section for kind, section in sections.items() if kind != pb.KIND_COUNTS]


def test_a_device_killed_while_it_trains_gives_the_very_same_reply_later(
    long: Asking, tmp_path: Path, joined: list[Joined]
) -> None:
    id = "a" * 32
    (tmp_path / "mine.py").write_text(MINE)
    with FakeCoordinator(long.run_config()) as coordinator:
        command = (coordinator.address, "--data=mine:data", "--partition=2/4", "--name=pi")
        joined.append(Joined(tmp_path, *command))
        stream = coordinator.device()
        assert stream.hello.device == "pi"
        assert stream.hello.examples == 1438 // 4
        long.ask(stream, id)
        stream.working_on(id)
        worker = joined[0].worker()
        wait_for_training(worker, tmp_path)
        joined[0].end(signal.SIGKILL)
        assert stream.replies == []

        joined.append(Joined(tmp_path, *command))
        until(lambda: not is_alive(worker), what="the end of the first worker")
        stream = coordinator.device()
        assert list(stream.hello.held) == []
        long.ask(stream, id)
        expected = long.workshop.answer(long.payload, client=2, state=ClientState()).payload
        delivered = reply_of(stream)
        assert trained(delivered) == trained(expected)
        until(lambda: any((tmp_path / "state/hedgerow/pi").glob("*/*.taken")), what="the acknowledgement on disk")
        out, err = joined[1].end(signal.SIGTERM)
        assert (joined[1].process.returncode, err) == (0, "")
        assert out.splitlines()[-1] == "stopped; the same command goes on from here"

        # The same request again, to a process that never worked on it.
        joined.append(Joined(tmp_path, *command))
        stream = coordinator.device()
        long.ask(stream, id)
        assert reply_of(stream) == delivered
        out, err = joined[2].end(signal.SIGINT)
        assert (joined[2].process.returncode, err) == (130, "")
        assert "training" not in out.partition("\n")[2], "it had the reply"


def test_a_device_trains_on_all_of_its_own_samples_as_the_coordinator_normalises_them(
    short: Asking, tmp_path: Path, joined: list[Joined]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with FakeCoordinator(short.run_config(facts=FACTS)) as coordinator:
        joined.append(Joined(tmp_path, coordinator.address, "--data=mine:data", "--once", "--memory=512MB"))
        stream = coordinator.device()
        assert (stream.hello.examples, stream.hello.memory_bytes) == (1438, 512_000_000)
        short.ask(stream, "a" * 32)
        stream.working_on("a" * 32)
        os.kill(joined[0].worker(), signal.SIGKILL)
        assert stream.reply().transfer.failure == "its worker process died with exit code -9"
        idle = joined[0].worker()
        os.kill(idle, signal.SIGKILL)
        until(lambda: not is_alive(idle), what="its end")

        short.ask(stream, "b" * 32)
        workshop = Workshop(short.experiment, dataset=FACTS.apply(short.workshop.dataset), parts=1)
        expected = workshop.answer(short.payload, client=NODE, state=ClientState(), part=0).payload
        assert trained(reply_of(stream, 1)) == trained(expected)
        other = short.workshop.answer(short.payload, client=NODE, part=0, state=ClientState()).payload
        assert trained(expected) != trained(other)
        stream.dismiss(CAUSE_FINISHED)
        out, err = joined[0].finish()
        assert (joined[0].process.returncode, err) == (0, "")
        said = [line for line in out.splitlines() if line != "hello"]
        assert any("kernels compute" in line for line in said), "what computes its layers"
        lines = [line for line in said if not line.startswith("  ")]
        assert lines[0].endswith(f": 1,438 training samples of mine:data; connecting to {coordinator.address}")
        assert lines[1].startswith("joined the run run-1")
        assert lines[2:5] == [
            "round 1: training",
            "round 1: failed: its worker process died with exit code -9",
            "round 1: training",
        ]
        assert lines[5].startswith("round 1: replied with ")
        assert lines[6:] == ["the run is finished"]


def test_code_that_the_coordinator_names_is_not_run(tmp_path: Path, joined: list[Joined], short: Asking) -> None:
    (tmp_path / "theirs.py").write_text("open('it-ran', 'w').close()\ndef model(shape, classes): ...\n")
    changed = short.experiment.model_dump()
    changed["model"]["name"] = "theirs:model"
    changed["data"]["name"] = "theirs:data"
    config = {"experiment": Experiment.model_validate(changed).model_dump_json()}
    with FakeCoordinator(config) as coordinator:
        joined.append(Joined(tmp_path, coordinator.address, "--data=digits"))
        stream = coordinator.device()
        short.ask(stream, "a" * 32)
        failure = stream.reply().transfer.failure
        assert "join with --allow-model theirs:model if you trust it" in failure
        assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("arguments", "saying", "code"),
    [
        (["127.0.0.1:1", "--data=digts"], "unknown data set 'digts' (did you mean 'digits'?)", 1),
        (["127.0.0.1:1", "--data=npz", "--data-path=absent.npz"], "absent.npz", 1),
        (["127.0.0.1:1", "--data=nowhere:data"], "there is no module 'nowhere'", 2),
    ],
)
def test_data_that_cannot_be_read_is_said_before_anything_else(
    arguments: list[str], saying: str, code: int, tmp_path: Path, joined: list[Joined]
) -> None:
    joined.append(Joined(tmp_path, *arguments))
    out, err = joined[0].finish()
    assert joined[0].process.returncode == code
    assert out == ""
    assert saying in err
    assert len(err.splitlines()) == 1
