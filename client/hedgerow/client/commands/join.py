"""`hedgerow join`: this machine becomes a device of a coordinator."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hedgerow.errors import ConfigError

if TYPE_CHECKING:
    import grpc

    from hedgerow.wire.addresses import Address

__all__ = ["join"]


def join(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the coordinator listens.")],
    data: Annotated[str, typer.Option(help="This device's own data set: a name, or your own package.module:function.")],
    data_path: Annotated[Path | None, typer.Option(help="File or folder of the data set.")] = None,
    partition: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Train on part K of N, counted from 0, as a simulation divides the data set."),
    ] = None,
    identity: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="This device's identity, from `hedgerow enrol`.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Without an identity, join another machine all the same, unencrypted.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="This device's name; the identity's, or else the machine's, when absent.")
    ] = None,
    state: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where it keeps what survives a kill.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory it may train in, beside what Python and torch take, such as 96MB; most of what is free when "
            "absent. An experiment with budget.plan keeps to it.",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Where an experiment has budget.plan: take small training steps once, so that what is predicted is "
            "right for this machine; without them this device plans as a simulated one.",
        ),
    ] = True,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads that train; with more than 1 the last bits differ from a simulation's.")
    ] = 1,
    allow_model: Annotated[
        str | None,
        typer.Option(metavar="PACKAGE.MODULE:FUNCTION", help="Model of your own that the coordinator may name."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End with the run; do not wait for the next one.")] = False,
) -> None:
    """Turns this machine into a device: it trains on its own data for a coordinator, until you stop it.

    It reconnects for ever, and the same command goes on where it stopped.
    """
    # gRPC prints its own account of every failed connection otherwise, beside ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from rich.console import Console

    from hedgerow.client.joining.machine import default_budget, default_name
    from hedgerow.client.joining.progress import ConsoleProgress
    from hedgerow.client.joining.start import Joining, join_fleet
    from hedgerow.identity import check_name
    from hedgerow.references import is_reference
    from hedgerow.units import parse_bytes
    from hedgerow.wire.addresses import parse_address

    place = parse_address(address)
    part = None if partition is None else _part(partition)
    if allow_model is not None and not is_reference(allow_model):
        raise ConfigError(f"--allow-model {allow_model}: built-in models need no permission; leave it out")
    credentials, certified = _identity(identity, place, insecure=insecure)
    if certified is not None and name not in (None, certified):
        raise ConfigError(f"--name {name}: the identity is of {certified!r}; leave --name out")
    called = certified or check_name(name or default_name(part=None if part is None else part[0]))
    budget = None if memory is None else parse_bytes(memory)
    joining = Joining(
        address=str(place),
        credentials=credentials,
        name=called,
        data=data,
        data_path=data_path,
        part=part,
        allowed_model=allow_model,
        memory_bytes=default_budget() if budget is None else budget,
        budget=budget,
        measure=measure,
        threads=threads,
        state=state or _state_folder(called),
        once=once,
    )
    join_fleet(joining, progress=ConsoleProgress(Console()))


def _identity(
    path: Path | None, address: Address, *, insecure: bool
) -> tuple[grpc.ChannelCredentials | None, str | None]:
    from hedgerow.identity import channel_credentials, read_identity
    from hedgerow.wire.addresses import is_loopback

    if path is not None:
        if insecure:
            raise ConfigError("--insecure: with --identity the connection is secure; leave one of them out")
        identity = read_identity(path, role="device")
        return channel_credentials(identity), identity.name
    if not insecure and not is_loopback(address.host):
        raise ConfigError(
            f"{address}: another machine is joined with --identity FILE.pem (`hedgerow enrol` makes one), or with "
            f"--insecure in a network that you trust"
        )
    return None, None


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
    if match is None or not int(match[1]) < int(match[2]):
        raise ConfigError(f"--partition {text}: write it as K/N with K from 0 to N - 1, such as 0/4 or 3/4")
    return int(match[1]), int(match[2])


def _state_folder(name: str) -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "hedgerow" / name
