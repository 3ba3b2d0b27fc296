"""`hedgerow enrol`: identities for a coordinator, its devices and its operators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hedgerow.server.enrolment import Enrolled, Issued

__all__ = ["enrol"]


def enrol(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the identities are; made when missing.")],
    host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name or IP address that devices reach the coordinator by; repeatable."),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Make the identity of a device; repeatable.")
    ] = None,
    operator: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Make the identity of an operator; repeatable.")
    ] = None,
    revoke: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Shut a device or an operator out, at once; repeatable.")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show all identities and what became of them.")] = False,
) -> None:
    """Makes one identity file for each machine that may take part, and shuts machines out again.

    The same command again changes nothing. A lost identity is replaced with --revoke NAME --device NAME.
    """
    # cryptography takes a while to import; `--help` must not wait for it.
    from hedgerow.server import enrolment

    hosts, devices, operators, revoked = host or [], device or [], operator or [], revoke or []
    if revoked:
        for name, count in enrolment.revoke(folder, revoked).items():
            typer.echo(f"{name:<20} {'revoked' if count else 'was revoked before'}")
    if hosts or devices or operators or not (revoked or show):
        done = enrolment.enrol(folder, hosts=hosts, devices=devices, operators=operators)
        typer.echo("\n".join(map(_line, done)))
        typer.echo(_next_steps(folder, done))
    if show:
        typer.echo("\n".join(_rows(enrolment.issued(folder))))


def _line(done: Enrolled) -> str:
    what = done.role if done.role == done.name else f"{done.role} {done.name}"
    means = {
        "made": f"made     {done.path}",
        "renewed": f"renewed  {done.path}",
        "kept": f"kept     {done.path}",
        "away": "kept     its file was moved away; if it is lost, "
        f"--revoke {done.name} --{done.role} {done.name} makes another",
    }[done.state]
    if done.role == "authority" and done.state == "made":
        means += "; authority-key.pem beside it can make any identity: keep it secret"
    if done.hosts:
        means += f" for {', '.join(done.hosts)}"
    if done.role == "coordinator" and done.state == "renewed":
        means += "; start the coordinator again so that it shows this one"
    return f"{what:<20} {means}"


def _next_steps(folder: Path, done: list[Enrolled]) -> str:
    from hedgerow.wire.addresses import DEFAULT_PORT

    fresh = {role: [d.name for d in done if d.role == role and d.state in ("made", "renewed")] for role in _PEOPLE}
    lines = [
        "next",
        f"  here          hedgerow coordinator EXPERIMENT.toml --listen 0.0.0.0:{DEFAULT_PORT} --enrolment {folder}",
    ]
    if fresh["device"]:
        name = fresh["device"][0]
        lines += [
            f"  each device   move its file there in secret (scp), {folder}/devices/{name}.pem to {name}; then there:",
            f"                hedgerow join HOST:{DEFAULT_PORT} --identity {name}.pem --data NAME",
        ]
    if fresh["operator"]:
        name = fresh["operator"][0]
        lines.append(f"  operators     hedgerow status HOST:{DEFAULT_PORT} --identity {folder}/operators/{name}.pem")
    if not any(fresh.values()):
        lines.append(f"  each device   hedgerow enrol {folder} --device NAME makes its identity")
    return "\n".join(lines)


_PEOPLE = ("device", "operator")


def _rows(entries: list[Issued]) -> list[str]:
    from datetime import UTC, datetime

    today = datetime.now(UTC).date()
    rows = [f"{'name':<20} {'role':<12} {'state':<20} serial number"]
    for entry in entries:
        state = f"valid to {entry.until}" if entry.until >= today else f"expired {entry.until}"
        if entry.revoked is not None:
            state = f"revoked {entry.revoked}"
        rows.append(f"{entry.name:<20} {entry.role:<12} {state:<20} {entry.serial:x}")
    return rows
