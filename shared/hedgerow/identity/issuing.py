"""Making an authority and what it signs: EC P-256 keys, SHA-256 signatures."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hedgerow.errors import ConfigError
from hedgerow.identity.reading import Identity
from hedgerow.identity.subject import Role, subject

__all__ = ["Authority", "hosts_of", "issue", "make_authority"]

_AUTHORITY_LIFE = timedelta(days=3650)
_LIFE = timedelta(days=730)
# Small devices keep local time in their clock, or none at all until they have asked for it.
_SKEW = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs identities; key and certificate as PEM."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes


def make_authority(*, now: datetime) -> Authority:
    """A new authority, valid for ten years; it signs identities and no other authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The number tells two authorities apart in what tools print.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hedgerow authority {secrets.token_hex(4)}")])
    builder = (
        _builder(name, key, since=now - _SKEW, until=now + _AUTHORITY_LIFE)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return Authority(key_pem=_key_pem(key), certificate_pem=certificate.public_bytes(Encoding.PEM))


def issue(
    authority: Authority, *, name: str, role: Role, hosts: Sequence[str] = (), now: datetime
) -> tuple[Identity, x509.Certificate]:
    """A new identity, valid for two years, or as long as the authority is.

    A coordinator's certificate serves and a device's or an operator's asks; neither is accepted as the other.

    Args:
        hosts: names and IP addresses that a coordinator is reached by.

    Raises:
        ConfigError: a coordinator without hosts, or others with them.
    """
    if (role == "coordinator") != bool(hosts):
        raise ConfigError(f"found {len(hosts)} hosts for the identity of a {role}; only a coordinator has them")
    signer = load_pem_private_key(authority.key_pem, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    root = x509.load_pem_x509_certificate(authority.certificate_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    usage = ExtendedKeyUsageOID.SERVER_AUTH if role == "coordinator" else ExtendedKeyUsageOID.CLIENT_AUTH
    until = min(now + _LIFE, root.not_valid_after_utc)
    builder = (
        _builder(subject(name, role), key, since=now - _SKEW, until=until)
        .issuer_name(root.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(h) for h in hosts]), critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    identity = Identity(
        name=name,
        role=role,
        key_pem=_key_pem(key),
        certificate_pem=certificate.public_bytes(Encoding.PEM),
        authority_pem=authority.certificate_pem,
    )
    return identity, certificate


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Names and IP addresses that a coordinator's certificate is for, in its order."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def _builder(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, *, since: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since.astimezone(UTC).replace(microsecond=0))
        .not_valid_after(until.astimezone(UTC).replace(microsecond=0))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
