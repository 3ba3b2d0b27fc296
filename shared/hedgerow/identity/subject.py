"""Name and role in a certificate's subject."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

from cryptography import x509
from cryptography.x509.oid import NameOID

from hedgerow.errors import ConfigError

__all__ = ["Role", "check_name", "is_name", "parse_role", "subject", "subject_of"]

Role: TypeAlias = Literal["device", "operator", "coordinator"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether a device or an operator may be called so; such a name is also safe as a file's."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Gives a name back that a device or an operator may have.

    Raises:
        ConfigError: it is no such name.
    """
    if not is_name(name):
        raise ConfigError(
            f"found the name {name!r}; expected at most 63 of a-z, 0-9, dot, hyphen and underscore, "
            "the first a letter or a digit"
        )
    return name


def parse_role(text: str | bytes) -> Role | None:
    """The role of this name, or None where there is none."""
    match text:
        case "device" | "operator" | "coordinator":
            return text
        case _:
            return None


def subject(name: str, role: Role) -> x509.Name:
    """The subject of a certificate."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def subject_of(certificate: x509.Certificate) -> tuple[str, Role] | None:
    """Name and role, or None where the subject is not one of ours."""
    # Two of a kind could be read differently by two readers.
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    units = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    if len(names) != 1 or len(units) != 1:
        return None
    name, role = str(names[0].value), parse_role(units[0].value)
    return (name, role) if role is not None and is_name(name) else None
