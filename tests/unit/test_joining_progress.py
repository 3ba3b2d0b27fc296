"""What the user of a device reads, and what the command refuses before it connects."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from hedgerow.client.commands.join import join
from hedgerow.client.joining.progress import ConsoleProgress
from hedgerow.client.joining.start import Joining
from hedgerow.errors import ConfigError, HedgerowError, IdentityError


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def progress(out: io.StringIO) -> ConsoleProgress:
    return ConsoleProgress(Console(file=out, width=80))


def test_each_thing_that_happens_is_a_plain_line(progress: ConsoleProgress, out: io.StringIO) -> None:
    progress.starting(name="pi", address="host:7070", data="digits", examples=1438)
    progress.training(3)
    progress.note("native kernels\n for 5 of 6 layers")
    progress.replied(3, size=12_300, seconds=4.2)
    progress.replied(3, size=12_300, seconds=None)
    progress.failed(4, reason="the loss became nan")
    progress.abandoned(5)
    progress.refused(6, reason="wrong_digest")
    progress.finished(waits=True)
    progress.stopped()
    assert out.getvalue().splitlines() == [
        "pi: 1,438 training samples of digits; connecting to host:7070",
        "round 3: training",
        "  native kernels for 5 of 6 layers",
        "round 3: replied with 12.3 kB after 4.20 s",
        "round 3: replied with 12.3 kB with what was kept",
        "round 4: failed: the loss became nan",
        "round 5: the coordinator waits no longer; stopped",
        "round 6: the coordinator could not use the reply: wrong_digest",
        "the run is finished; waiting for the next one",
        "stopped; the same command goes on from here",
    ]


def test_the_same_failure_is_told_until_the_wait_grows_no_longer(progress: ConsoleProgress, out: io.StringIO) -> None:
    for seconds in (0.5, 1.0, 2.0, 30.0, 25.0, 29.0):
        progress.lost("nobody listens there", seconds=seconds)
    progress.lost("the TLS handshake failed", seconds=30)
    assert out.getvalue().splitlines() == [
        "not connected: nobody listens there; trying again in 0.5 s",
        "not connected: nobody listens there; trying again in 1 s",
        "not connected: nobody listens there; trying again in 2 s",
        "not connected: nobody listens there; trying again in 30 s",
        "not connected: the TLS handshake failed; trying again in 30 s",
    ]


def test_text_of_the_coordinator_cannot_play_with_the_terminal(progress: ConsoleProgress, out: io.StringIO) -> None:
    progress.joined(run="\x1b[2Jrun[red]")
    progress.lost("bad\x07\nnews", seconds=1)
    assert out.getvalue().splitlines() == [
        "joined the run [2Jrun[red]; Ctrl-C leaves, and the same command comes back",
        "not connected: bad news; trying again in 1 s",
    ]


class CaughtError(Exception):
    """Carries what the command made of its options."""

    def __init__(self, joining: Joining) -> None:
        self.joining = joining


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Command]:
    def caught(joining: Joining, *, progress: object) -> None:
        raise CaughtError(joining)

    monkeypatch.setattr("hedgerow.client.joining.start.join_fleet", caught)
    monkeypatch.setattr("socket.gethostname", lambda: "Pi")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("GRPC_VERBOSITY", "NONE")
    return Command


class Command:
    """`hedgerow join` with these arguments."""

    @staticmethod
    def error(*arguments: str) -> BaseException:
        app = typer.Typer()
        app.command()(join)
        error = CliRunner().invoke(app, arguments).exception
        assert error is not None
        return error

    @classmethod
    def made(cls, *arguments: str) -> Joining:
        error = cls.error(*arguments)
        assert isinstance(error, CaughtError), error
        return error.joining


def test_options_become_what_the_device_is(joining: type[Command], tmp_path: Path) -> None:
    plain = joining.made("localhost", "--data=digits")
    assert (plain.address, plain.name, plain.credentials, plain.once) == ("localhost:7070", "pi", None, False)
    assert plain.state == tmp_path / "hedgerow" / "pi"
    assert plain.node_config() == {"data": "digits"}
    assert plain.memory_bytes > 10**8
    full = joining.made(
        "[::1]:9", "--data=npz", "--data-path=a.npz", "--partition=3/4", "--memory=1GB", "--allow-model=m:f", "--once"
    )
    assert (full.address, full.name, full.memory_bytes, full.once) == ("[::1]:9", "pi-3", 10**9, True)
    assert full.node_config() == {
        "data": "npz",
        "data-path": "a.npz",
        "partition-id": 3,
        "num-partitions": 4,
        "allow-model": "m:f",
        "memory": 10**9,
    }
    named = joining.made("192.168.0.9:1", "--data=digits", "--insecure", "--name=my-pi", "--state=here")
    assert (named.address, named.name, named.state) == ("192.168.0.9:1", "my-pi", Path("here"))


@pytest.mark.parametrize(
    ("arguments", "kind", "saying"),
    [
        (["192.168.0.9"], ConfigError, "192.168.0.9:7070: another machine is joined with --identity"),
        (["host:99999"], ConfigError, "99999"),
        (["localhost", "--partition=4/4"], ConfigError, "--partition 4/4: write it as K/N"),
        (["localhost", "--partition=1"], ConfigError, "--partition 1: write it as K/N"),
        (["localhost", "--partition=-1/4"], ConfigError, "--partition -1/4: write it as K/N"),
        (["localhost", "--memory=much"], ConfigError, "memory: found 'much'"),
        (["localhost", "--name=My Pi"], ConfigError, "found the name 'My Pi'"),
        (["localhost", "--allow-model=lenet5"], ConfigError, "built-in models need no permission"),
        (["localhost", "--identity=absent.pem"], IdentityError, "absent.pem: no such file"),
        (["localhost", "--identity=absent.pem", "--insecure"], ConfigError, "leave one of them out"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], kind: type[HedgerowError], saying: str, joining: type[Command]
) -> None:
    error = joining.error(*arguments, "--data=digits")
    assert type(error) is kind
    assert saying in str(error)
