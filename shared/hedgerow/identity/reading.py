"""Reading an identity file, with everything checked that would otherwise fail in a handshake without a reason."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from hedgerow.errors import IdentityError
from hedgerow.identity.subject import Role, subject_of

__all__ = [
    "Identity",
    "check_pair",
    "check_validity",
    "identity_bytes",
    "read_certificate",
    "read_identity",
    "read_key",
    "read_parts",
    "read_private",
]

_LIMIT = 1 << 16
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\r?\n.*?-----END \1-----[^\S\n]*\n?", re.DOTALL)
_ARTICLE = {"device": "a device", "operator": "an operator", "coordinator": "a coordinator"}


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key with its certificate, and the authority that both ends trust; each as PEM."""

    name: str
    role: Role
    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    authority_pem: bytes


def identity_bytes(identity: Identity) -> bytes:
    """An identity file's content."""
    return identity.key_pem + identity.certificate_pem + identity.authority_pem


def read_identity(path: Path, *, role: Role, now: datetime | None = None) -> Identity:
    """Reads one identity file: private key, certificate, and the authority's certificate.

    Like ssh, it refuses a file of one's own that other users may read; who owns what belongs to another user (a mounted
    secret, say) has decided that already.

    Args:
        role: what the identity has to be.
        now: of this moment when absent.

    Raises:
        IdentityError: it is missing, others may read it, damaged, key and certificates do not belong together, it is
            not valid at this time, or of another role.
    """
    key_pem, certificate_pem, authority_pem = read_parts(path)
    certificate, authority = read_certificate(path, certificate_pem), read_certificate(path, authority_pem)
    check_pair(path, read_key(path, key_pem), certificate)
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise IdentityError(
            f"{path}: the certificate is not signed by the authority in the file; copy it anew"
        ) from None
    now = now or datetime.now(UTC)
    check_validity(path, certificate, now=now)
    check_validity(path, authority, now=now)
    found = subject_of(certificate)
    if found is None:
        raise IdentityError(f"{path}: the certificate names no role; take a file that `hedgerow enrol` made")
    if found[1] != role:
        raise IdentityError(
            f"{path}: it is the identity of {_ARTICLE[found[1]]}, {found[0]!r}, but {_ARTICLE[role]}'s is needed here; "
            "`hedgerow enrol` makes one"
        )
    return Identity(
        name=found[0],
        role=found[1],
        key_pem=key_pem,
        certificate_pem=certificate_pem,
        authority_pem=authority_pem,
    )


def read_parts(path: Path) -> tuple[bytes, bytes, bytes]:
    """Private key, certificate and the authority's certificate in an identity file, as PEM and not looked into.

    Raises:
        IdentityError: it is missing, others may read it, or they are not all there.
    """
    blocks = [(match[1], match[0]) for match in _BLOCK.finditer(read_private(path))]
    keys = [block for kind, block in blocks if kind.endswith(b"PRIVATE KEY")]
    certificates = [block for kind, block in blocks if kind == b"CERTIFICATE"]
    if len(keys) != 1 or len(certificates) != 2:
        raise IdentityError(
            f"{path}: not a whole identity file, found {len(keys)} private keys and {len(certificates)} certificates "
            "instead of 1 and 2; copy it anew"
        )
    return keys[0], certificates[0], certificates[1]


def read_private(path: Path) -> bytes:
    """A small file that holds a private key.

    Raises:
        IdentityError: it is missing, too large, or others may read it.
    """
    try:
        # Without O_NONBLOCK a pipe would wait for its writer for ever.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise IdentityError(f"{path}: not a file; name the identity file itself")
            if found.st_uid == os.geteuid() and found.st_mode & 0o077:
                raise IdentityError(f"{path}: other users may read this private key; run: chmod 600 {path}")
            data = file.read(_LIMIT + 1)
    except FileNotFoundError:
        raise IdentityError(f"{path}: no such file; `hedgerow enrol` makes identity files") from None
    except OSError as error:
        raise IdentityError(f"{path}: cannot be read ({error.strerror}); name a file of your own") from None
    if len(data) > _LIMIT:
        raise IdentityError(f"{path}: larger than {_LIMIT} bytes, which no identity file is; name another one")
    return data


def read_key(path: Path, pem: bytes) -> PrivateKeyTypes:
    """The private key that was found in `path`.

    Raises:
        IdentityError: it is damaged or encrypted.
    """
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        raise IdentityError(f"{path}: the private key is encrypted; `openssl pkey` decrypts it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityError(f"{path}: the private key is damaged; copy the file anew") from None


def read_certificate(path: Path, pem: bytes) -> x509.Certificate:
    """The certificate that was found in `path`.

    Raises:
        IdentityError: it is damaged.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise IdentityError(f"{path}: a certificate is damaged; copy the file anew") from None


def check_pair(path: Path, key: PrivateKeyTypes, certificate: x509.Certificate) -> None:
    """Checks that a key is that of a certificate.

    Raises:
        IdentityError: it is another's.
    """
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        same = key.public_key().public_bytes(*form) == certificate.public_key().public_bytes(*form)
    except (ValueError, UnsupportedAlgorithm):
        same = False
    if not same:
        raise IdentityError(f"{path}: the private key is not that of the certificate; copy the file anew")


def check_validity(path: Path, certificate: x509.Certificate, *, now: datetime) -> None:
    """Checks that a certificate is valid at a time.

    Raises:
        IdentityError: it is not valid yet, or no longer.
    """
    since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < since:
        raise IdentityError(
            f"{path}: not valid before {since:%Y-%m-%d %H:%M}, and it is {now:%Y-%m-%d %H:%M} UTC here; set the clock"
        )
    if now > until:
        raise IdentityError(
            f"{path}: expired on {until:%Y-%m-%d}, and it is {now:%Y-%m-%d} here; `hedgerow enrol` makes a new one"
        )
