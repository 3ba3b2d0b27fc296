"""Enrolment: who may take part, and who no longer.

    FOLDER/                      0700, each file 0600 and replaced atomically
        authority.pem            the certificate that both ends trust
        authority-key.pem        signs identities; only enrolling needs it, so it can be kept elsewhere
        coordinator.pem          the coordinator's identity, made again when it is missing
        devices/NAME.pem         identities, to be moved to their devices
        operators/NAME.pem
        issued.txt               all that was ever signed, so that a name is revoked without its file
        revoked.txt              what counts no longer (`hedgerow.identity.revocations`)
        lock                     one command at a time

A certificate is in `issued.txt` before its file is written, so there is none that could not be revoked.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from hedgerow.errors import ConfigError, IdentityError
from hedgerow.files import write_atomically
from hedgerow.identity import Role, check_name
from hedgerow.identity.issuing import Authority, hosts_of, issue, make_authority
from hedgerow.identity.reading import (
    check_pair,
    check_validity,
    identity_bytes,
    read_certificate,
    read_key,
    read_parts,
    read_private,
)
from hedgerow.identity.revocations import Revocation
from hedgerow.server.enrolment.folder import (
    Enrolment,
    Issued,
    existing,
    locked,
    make_folder,
    read_issued,
    write_issued,
    write_revoked,
)
from hedgerow.wire.addresses import check_host

__all__ = ["Enrolled", "Enrolment", "Issued", "enrol", "issued", "revoke"]

_COORDINATOR = "coordinator"
_RENEWAL = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What `enrol` did for one name.

    Attributes:
        state: made; renewed, since it would soon have ended or hosts were added; kept as it is; or away: it is valid,
            but its file is no longer here, so somebody has moved it to its device.
        hosts: that the coordinator is reached by.
    """

    name: str
    role: Role | Literal["authority"]
    path: Path
    state: Literal["made", "renewed", "kept", "away"]
    hosts: tuple[str, ...] = ()


def enrol(
    path: Path,
    *,
    hosts: Sequence[str] = (),
    devices: Sequence[str] = (),
    operators: Sequence[str] = (),
    now: datetime | None = None,
) -> list[Enrolled]:
    """Makes what is missing: folder, authority, the coordinator's identity, and one identity a name.

    Args:
        hosts: that the coordinator is reached by, beside those that its identity has; a new one has localhost and this
            machine's name.
        now: of this moment when absent.

    Returns:
        The authority, the coordinator, the devices, the operators.

    Raises:
        ConfigError: a name or a host is not a possible one, or the folder is another's; nothing was written.
        IdentityError: the authority is damaged, expired, or not there.
        RunError: the folder cannot be written.
    """
    now = now or datetime.now(UTC)
    wanted: dict[str, Role] = {}
    asked: list[tuple[Role, Sequence[str]]] = [("device", devices), ("operator", operators)]
    for role, names in asked:
        for name in names:
            if check_name(name) == _COORDINATOR or wanted.setdefault(name, role) != role:
                raise ConfigError(f"the name {name!r} is taken by another role; choose another name")
    checked = [check_host(host) for host in hosts]
    folder = Enrolment(path)
    make_folder(folder)
    with locked(folder):
        entries = read_issued(folder)
        for name, role in wanted.items():
            if any(e.name == name and e.role != role and _lives(e, now, timedelta(0)) for e in entries):
                raise ConfigError(
                    f"the name {name!r} is taken by another role; choose another name, or revoke it first"
                )
        authority, first = _open_authority(folder, entries, now=now)
        done = [Enrolled("authority", "authority", folder.authority, first)]
        done.append(_enrol_coordinator(folder, authority, checked, now=now))
        done += [_enrol_one(folder, authority, name, role, entries, now=now) for name, role in wanted.items()]
    return done


def revoke(path: Path, names: Sequence[str], *, now: datetime | None = None) -> dict[str, int]:
    """Revokes all certificates of these names, and removes their files here; running coordinators see it at once.

    Returns:
        How many certificates of each name were not revoked before.

    Raises:
        ConfigError: there is no such folder, or nobody of that name; nothing was revoked.
        IdentityError: `issued.txt` is missing or damaged.
        RunError: the folder cannot be written.
    """
    day = (now or datetime.now(UTC)).date()
    folder = existing(path)
    with locked(folder):
        entries = [entry for entry in read_issued(folder) if entry.role != "coordinator"]
        known = sorted({entry.name for entry in entries})
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"nobody called {name!r} was enrolled in {path}; there are: {', '.join(known) or '-'}"
                )
        fresh = [entry for entry in entries if entry.name in names and entry.revoked is None]
        if fresh:
            write_revoked(folder, *(Revocation(serial=e.serial, name=e.name, day=day) for e in fresh))
        for entry in entries:
            if entry.name in names:
                folder.identity(entry.name, entry.role).unlink(missing_ok=True)
    return {name: sum(entry.name == name for entry in fresh) for name in names}


def issued(path: Path) -> list[Issued]:
    """All that was ever signed, oldest first.

    Raises:
        ConfigError: there is no such folder.
        IdentityError: `issued.txt` is missing or damaged.
    """
    return read_issued(existing(path))


def _open_authority(
    folder: Enrolment, entries: list[Issued], *, now: datetime
) -> tuple[Authority, Literal["made", "kept"]]:
    if not folder.authority.exists():
        if entries:
            raise IdentityError(
                f"{folder.authority}: missing, though it has signed {len(entries)} identities; "
                "put it back from a backup, or begin a new folder"
            )
        authority = make_authority(now=now)
        write_issued(folder)
        write_atomically(folder.authority_key, authority.key_pem, private=True)
        write_atomically(folder.authority, authority.certificate_pem, private=True)
        return authority, "made"
    if not folder.authority_key.exists():
        raise IdentityError(
            f"{folder.authority_key}: not here; put it back while you enrol (revoking does not need it)"
        )
    authority = Authority(key_pem=read_private(folder.authority_key), certificate_pem=read_private(folder.authority))
    certificate = read_certificate(folder.authority, authority.certificate_pem)
    check_pair(folder.authority, read_key(folder.authority_key, authority.key_pem), certificate)
    check_validity(folder.authority, certificate, now=now)
    return authority, "kept"


def _enrol_coordinator(folder: Enrolment, authority: Authority, hosts: list[str], *, now: datetime) -> Enrolled:
    path = folder.coordinator
    state: Literal["made", "renewed"] = "made"
    before = _default_hosts()
    if path.exists():
        state = "renewed"
        _, pem, authority_pem = read_parts(path)
        certificate = read_certificate(path, pem)
        before = hosts_of(certificate)
        lasts = certificate.not_valid_after_utc - now > _RENEWAL
        if lasts and set(hosts) <= set(before) and authority_pem == authority.certificate_pem:
            return Enrolled(_COORDINATOR, "coordinator", path, "kept", tuple(before))
    everywhere = tuple(dict.fromkeys([*before, *hosts]))
    _issue(folder, authority, _COORDINATOR, "coordinator", everywhere, now=now)
    return Enrolled(_COORDINATOR, "coordinator", path, state, everywhere)


def _enrol_one(
    folder: Enrolment, authority: Authority, name: str, role: Role, entries: list[Issued], *, now: datetime
) -> Enrolled:
    path = folder.identity(name, role)
    # None that lives is of another role.
    own = [entry for entry in entries if entry.name == name]
    if any(_lives(entry, now, _RENEWAL) for entry in own):
        return Enrolled(name, role, path, "kept" if path.exists() else "away")
    _issue(folder, authority, name, role, (), now=now)
    ending = any(_lives(entry, now, timedelta(0)) for entry in own)
    return Enrolled(name, role, path, "renewed" if ending else "made")


def _issue(
    folder: Enrolment, authority: Authority, name: str, role: Role, hosts: Sequence[str], *, now: datetime
) -> None:
    identity, certificate = issue(authority, name=name, role=role, hosts=hosts, now=now)
    since, until = now.date(), certificate.not_valid_after_utc.date()
    write_issued(folder, Issued(serial=certificate.serial_number, role=role, name=name, since=since, until=until))
    write_atomically(folder.identity(name, role), identity_bytes(identity), private=True)


def _lives(entry: Issued, now: datetime, rest: timedelta) -> bool:
    return entry.revoked is None and entry.until - now.date() > rest


def _default_hosts() -> list[str]:
    hosts = ["localhost", "127.0.0.1", "::1"]
    with contextlib.suppress(ConfigError):
        hosts.append(check_host(socket.gethostname()))
    return list(dict.fromkeys(hosts))
