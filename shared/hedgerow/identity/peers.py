"""Whom a connection belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from hedgerow.identity.subject import Role, subject_of

__all__ = ["Peer", "peer_of"]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who showed a certificate.

    Attributes:
        serial: of the certificate; what is revoked.
        fingerprint: SHA-256 of the certificate, 64 hexadecimal digits.
    """

    name: str
    role: Role
    serial: int
    fingerprint: str


def peer_of(auth_context: Mapping[str, Iterable[bytes]]) -> Peer | None:
    """Who is at the other end of a call.

    It reads the certificate that TLS has checked already, and does not ask whether it was revoked.

    Args:
        auth_context: of the call, `context.auth_context()`.

    Returns:
        None when there is no certificate, or it names no role of ours.
    """
    pems = list(auth_context.get("x509_pem_cert", ()))
    if len(pems) != 1:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(pems[0])
        found = subject_of(certificate)
    except ValueError:
        return None
    if found is None:
        return None
    name, role = found
    return Peer(
        name=name,
        role=role,
        serial=certificate.serial_number,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )
