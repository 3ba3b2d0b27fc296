"""Identity files, real TLS handshakes with them, and revocations."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import ConfigError, IdentityError
from hedgerow.identity import (
    Identity,
    Peer,
    Revocations,
    Role,
    channel_credentials,
    check_name,
    peer_of,
    read_identity,
    server_credentials,
)
from hedgerow.identity.issuing import Authority, hosts_of, issue, make_authority
from hedgerow.identity.reading import identity_bytes
from hedgerow.identity.revocations import Revocation, parse_revocations, revocation_lines

NOW = datetime.now(UTC)
HOSTS = ("localhost", "127.0.0.1", "::1")
METHOD = "/test.Echo/Say"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return make_authority(now=NOW - timedelta(days=2000))


@pytest.fixture(scope="module")
def coordinator(authority: Authority) -> Identity:
    return made(authority, "coordinator", "coordinator")


def made(authority: Authority, name: str, role: Role, *, now: datetime = NOW) -> Identity:
    return issue(authority, name=name, role=role, hosts=HOSTS if role == "coordinator" else (), now=now)[0]


def serial_of(identity: Identity) -> int:
    return x509.load_pem_x509_certificate(identity.certificate_pem).serial_number


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


# Identity files


@pytest.mark.parametrize("role", ["device", "operator", "coordinator"])
def test_an_identity_is_read_back_from_its_file(role: Role, authority: Authority, tmp_path: Path) -> None:
    identity = made(authority, "pi-1", role)
    path = written(tmp_path / "a.pem", identity_bytes(identity))
    assert read_identity(path, role=role) == identity
    assert (identity.name, identity.role) == ("pi-1", role)


def test_text_around_the_blocks_and_windows_line_ends_do_no_harm(authority: Authority, tmp_path: Path) -> None:
    identity = made(authority, "pi-1", "device")
    content = b"# a note\n" + identity_bytes(identity).replace(b"\n", b"\r\n") + b"# the end"
    assert read_identity(written(tmp_path / "a.pem", content), role="device").name == "pi-1"


def test_the_private_key_is_not_shown(authority: Authority) -> None:
    identity = made(authority, "pi-1", "device")
    assert "PRIVATE" not in repr(identity)
    assert "PRIVATE" not in repr(authority)
    assert b"PRIVATE" in identity.key_pem


def test_a_missing_file_a_folder_a_pipe_and_a_large_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="no such file; `hedgerow enrol` makes"):
        read_identity(tmp_path / "absent.pem", role="device")
    with pytest.raises(IdentityError, match="Is a directory"):
        read_identity(tmp_path, role="device")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(IdentityError, match="not a file"):
        read_identity(tmp_path / "pipe", role="device")
    with pytest.raises(IdentityError, match="larger than 65536 bytes"):
        read_identity(written(tmp_path / "large.pem", b" " * 65537), role="device")


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o602, 0o620, 0o601, 0o610, 0o777])
def test_a_file_that_others_may_reach_is_refused(mode: int, authority: Authority, tmp_path: Path) -> None:
    path = written(tmp_path / "a.pem", identity_bytes(made(authority, "pi-1", "device")))
    path.chmod(mode)
    with pytest.raises(IdentityError, match="other users may read this private key; run: chmod 600 "):
        read_identity(path, role="device")
    path.chmod(0o400)
    assert read_identity(path, role="device").name == "pi-1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_who_may_read_a_file_of_another_user_is_that_users_decision(authority: Authority, tmp_path: Path) -> None:
    path = written(tmp_path / "a.pem", identity_bytes(made(authority, "pi-1", "device")))
    path.chmod(0o440)
    os.chown(path, 12345, 12345)
    assert read_identity(path, role="device").name == "pi-1"


def other_key(identity: Identity) -> bytes:
    return identity_bytes(replace(identity, key_pem=made(make_authority(now=NOW), "a", "device").key_pem))


def other_authority(identity: Identity) -> bytes:
    return identity_bytes(replace(identity, authority_pem=make_authority(now=NOW).certificate_pem))


def same_name_other_authority(identity: Identity) -> bytes:
    """Only the signature tells that this authority did not sign."""
    real = x509.load_pem_x509_certificate(identity.authority_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    forged = (
        x509.CertificateBuilder(issuer_name=real.subject, subject_name=real.subject, public_key=key.public_key())
        .serial_number(1)
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    return identity_bytes(replace(identity, authority_pem=forged.public_bytes(Encoding.PEM)))


def encrypted_key(identity: Identity) -> bytes:
    key = load_pem_private_key(identity.key_pem, password=None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    return identity_bytes(replace(identity, key_pem=pem))


def without_role(identity: Identity) -> bytes:
    return identity_bytes(self_made([(NameOID.COMMON_NAME, "pi-1")]))


def self_made(attributes: list[tuple[x509.ObjectIdentifier, str]]) -> Identity:
    """An identity with any subject."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(77)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    own = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity(name="", role="device", key_pem=own, certificate_pem=pem, authority_pem=pem)


@pytest.mark.parametrize(
    ("damage", "saying"),
    [
        (lambda identity: b"", "found 0 private keys and 0 certificates"),
        (lambda identity: b"nonsense\n\x00\xff", "found 0 private keys and 0 certificates"),
        (lambda identity: identity_bytes(identity)[:-40], "found 1 private keys and 1 certificates"),
        (lambda identity: identity.key_pem + identity.certificate_pem, "found 1 private keys and 1 certificates"),
        (lambda identity: identity.certificate_pem + identity.authority_pem, "found 0 private keys"),
        (lambda identity: identity.key_pem + identity_bytes(identity), "found 2 private keys"),
        (lambda identity: identity_bytes(identity).replace(b"\nM", b"\nA"), "is damaged"),
        (other_key, "the private key is not that of the certificate"),
        (other_authority, "not signed by the authority in the file"),
        (same_name_other_authority, "not signed by the authority in the file"),
        (encrypted_key, "the private key is encrypted"),
        (without_role, "names no role"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_with_its_reason(
    damage: Callable[[Identity], bytes], saying: str, authority: Authority, tmp_path: Path
) -> None:
    path = written(tmp_path / "pi-1.pem", damage(made(authority, "pi-1", "device")))
    with pytest.raises(IdentityError, match=saying) as raised:
        read_identity(path, role="device")
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_identity_counts_only_between_its_two_dates(authority: Authority, tmp_path: Path) -> None:
    path = written(tmp_path / "a.pem", identity_bytes(made(authority, "pi-1", "device")))
    for days in (0.99, 0, -729):
        read_identity(path, role="device", now=NOW - timedelta(days=days))
    with pytest.raises(IdentityError, match=r"not valid before .* set the clock"):
        read_identity(path, role="device", now=NOW - timedelta(days=1.01))
    with pytest.raises(IdentityError, match=r"expired on .*`hedgerow enrol` makes a new one"):
        read_identity(path, role="device", now=NOW + timedelta(days=730.01))


def test_an_identity_does_not_outlive_its_authority(authority: Authority) -> None:
    identity, certificate = issue(authority, name="late", role="device", now=NOW + timedelta(days=1000))
    root = x509.load_pem_x509_certificate(identity.authority_pem)
    assert certificate.not_valid_after_utc == root.not_valid_after_utc


@pytest.mark.parametrize(
    ("role", "needed", "saying"),
    [
        ("device", "operator", "identity of a device, 'pi-1', but an operator's is needed"),
        ("operator", "device", "identity of an operator, 'pi-1', but a device's is needed"),
        ("device", "coordinator", "identity of a device, 'pi-1', but a coordinator's is needed"),
    ],
)
def test_an_identity_of_another_role_is_refused(
    role: Role, needed: Role, saying: str, authority: Authority, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.pem", identity_bytes(made(authority, "pi-1", role)))
    with pytest.raises(IdentityError, match=saying):
        read_identity(path, role=needed)


def test_certificates_say_what_they_are_for(authority: Authority) -> None:
    _, certificate = issue(authority, name="coordinator", role="coordinator", hosts=HOSTS, now=NOW)
    assert hosts_of(certificate) == ["localhost", "127.0.0.1", "::1"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert hosts_of(issue(authority, name="a", role="device", now=NOW)[1]) == []
    with pytest.raises(ConfigError, match="found 0 hosts"):
        issue(authority, name="coordinator", role="coordinator", now=NOW)
    with pytest.raises(ConfigError, match="found 1 hosts"):
        issue(authority, name="a", role="device", hosts=["a"], now=NOW)


# Names


@pytest.mark.parametrize("name", ["a", "0", "pi-1", "rack_2.node-3", "a..b", "x" * 63])
def test_these_are_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A", ".", "..", ".a", "-a", "_a", "../a", "a/b", "a\n", "a b", "é", "x" * 64, "٣"]
)
def test_these_are_no_names(name: str) -> None:
    with pytest.raises(ConfigError, match="found the name"):
        check_name(name)


@given(name=st.text(max_size=70))
def test_a_name_is_refused_or_safe_as_a_files(name: str) -> None:
    try:
        check_name(name)
    except ConfigError:
        return
    assert Path("folder", f"{name}.pem").name == f"{name}.pem"
    assert os.path.normpath(f"folder/{name}.pem") == f"folder/{name}.pem"
    assert name.isascii()
    assert name.isprintable()


# Handshakes


class Echo(grpc.GenericRpcHandler):
    """Answers every call with what it received, and remembers who asked."""

    def __init__(self) -> None:
        self.peers: list[Peer | None] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self._say)

    def _say(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        auth: Mapping[str, Any] = context.auth_context()  # the stubs take its values for bytes
        self.peers.append(peer_of(auth))
        return request


@contextmanager
def served(credentials: grpc.ServerCredentials | None, *, host: str = "127.0.0.1") -> Iterator[tuple[Echo, int]]:
    echo = Echo()
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool, handlers=[echo])
        if credentials is None:
            port = server.add_insecure_port(f"{host}:0")
        else:
            port = server.add_secure_port(f"{host}:0", credentials)
        server.start()
        try:
            yield echo, port
        finally:
            server.stop(1).wait()


def say(target: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    channel = grpc.insecure_channel(target) if credentials is None else grpc.secure_channel(target, credentials)
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
    with channel:
        try:
            reply = call(b"hello", timeout=20)
        except grpc.RpcError as error:
            code = error.code()
            assert isinstance(code, grpc.StatusCode)
            return code
        assert reply == b"hello"
        return grpc.StatusCode.OK


@pytest.mark.parametrize("role", ["device", "operator"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_good_identity_passes_and_is_known_by_name_and_role(
    role: Role, host: str, authority: Authority, coordinator: Identity
) -> None:
    identity = made(authority, "pi-1", role)
    with served(server_credentials(coordinator)) as (echo, port):
        assert say(f"{host}:{port}", channel_credentials(identity)) == grpc.StatusCode.OK
    (peer,) = echo.peers
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    assert peer == Peer(
        name="pi-1",
        role=role,
        serial=certificate.serial_number,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def test_a_good_identity_passes_over_ipv6(authority: Authority, coordinator: Identity) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(server_credentials(coordinator), host="[::1]") as (echo, port):
        assert say(f"[::1]:{port}", channel_credentials(made(authority, "a", "device"))) == grpc.StatusCode.OK
    assert len(echo.peers) == 1


def test_the_same_holds_for_the_asyncio_server(authority: Authority, coordinator: Identity) -> None:
    async def run() -> Peer | None:
        seen: list[Peer | None] = []

        async def handle(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            seen.append(peer_of(context.auth_context()))
            return request

        handler = grpc.method_handlers_generic_handler(
            "test.Echo", {"Say": grpc.unary_unary_rpc_method_handler(handle)}
        )
        server = grpc.aio.server(handlers=[handler])
        port = server.add_secure_port("127.0.0.1:0", server_credentials(coordinator))
        await server.start()
        credentials = channel_credentials(made(authority, "pi-9", "operator"))
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            assert await call(b"hello", timeout=20) == b"hello"
        await server.stop(1)
        (peer,) = seen
        return peer

    peer = asyncio.run(run())
    assert peer is not None
    assert (peer.name, peer.role) == ("pi-9", "operator")


def test_nobody_without_a_valid_identity_reaches_a_handler(authority: Authority, coordinator: Identity) -> None:
    stranger = made(make_authority(now=NOW), "pi-1", "device")
    expired = made(authority, "pi-1", "device", now=NOW - timedelta(days=800))
    early = made(authority, "pi-1", "device", now=NOW + timedelta(days=2))
    device = made(authority, "pi-1", "device")
    intruders = {
        "no certificate": grpc.ssl_channel_credentials(root_certificates=authority.certificate_pem),
        "no TLS": None,
        "another authority's": channel_credentials(replace(stranger, authority_pem=authority.certificate_pem)),
        "expired": channel_credentials(expired),
        "not valid yet": channel_credentials(early),
        "the coordinator's own": channel_credentials(coordinator),
        "another key": channel_credentials(replace(device, key_pem=stranger.key_pem)),
    }
    with served(server_credentials(coordinator)) as (echo, port):
        codes = {why: say(f"localhost:{port}", credentials) for why, credentials in intruders.items()}
        assert set(codes.values()) == {grpc.StatusCode.UNAVAILABLE}, codes
        assert echo.peers == []
        assert say(f"localhost:{port}", channel_credentials(device)) == grpc.StatusCode.OK


def test_a_device_talks_to_the_coordinator_alone(authority: Authority, coordinator: Identity) -> None:
    device = made(authority, "pi-1", "device")
    other = make_authority(now=NOW)
    impostors = {
        "a device's identity": made(authority, "pi-2", "device"),
        "another authority": replace(made(other, "coordinator", "coordinator"), authority_pem=device.authority_pem),
        "expired": made(authority, "coordinator", "coordinator", now=NOW - timedelta(days=800)),
        "another host": issue(authority, name="coordinator", role="coordinator", hosts=["elsewhere"], now=NOW)[0],
    }
    for why, impostor in impostors.items():
        with served(server_credentials(impostor)) as (echo, port):
            assert say(f"localhost:{port}", channel_credentials(device)) == grpc.StatusCode.UNAVAILABLE, why
            assert echo.peers == []
    with served(None) as (echo, port):
        assert say(f"localhost:{port}", channel_credentials(device)) == grpc.StatusCode.UNAVAILABLE
        assert echo.peers == []


def test_a_connection_without_tls_belongs_to_nobody() -> None:
    with served(None) as (echo, port):
        assert say(f"localhost:{port}", None) == grpc.StatusCode.OK
    assert echo.peers == [None]


CN, OU = NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ([(OU, "device"), (CN, "pi-1")], "pi-1"),
        ([(CN, "pi-1"), (OU, "device"), (NameOID.ORGANIZATION_NAME, "Example")], "pi-1"),
        ([(CN, "pi-1")], None),
        ([(OU, "device")], None),
        ([(OU, "owner"), (CN, "pi-1")], None),
        ([(OU, "Device"), (CN, "pi-1")], None),
        ([(OU, "device"), (CN, "../pi-1")], None),
        ([(OU, "device"), (CN, "Pi-1")], None),
        ([(OU, "device"), (OU, "operator"), (CN, "pi-1")], None),
        ([(OU, "device"), (CN, "pi-1"), (CN, "pi-2")], None),
    ],
)
def test_only_a_subject_of_ours_names_a_peer(
    attributes: list[tuple[x509.ObjectIdentifier, str]], expected: str | None
) -> None:
    identity = self_made(attributes)
    peer = peer_of({"x509_pem_cert": [identity.certificate_pem], "transport_security_type": [b"ssl"]})
    assert (None if peer is None else peer.name) == expected
    assert peer is None or peer.serial == 77


@pytest.mark.parametrize("value", [[], [b""], [b"nonsense"], [b"-----BEGIN CERTIFICATE-----\n"], [b"a", b"b"]])
def test_damaged_certificates_name_no_peer(value: list[bytes]) -> None:
    assert peer_of({"x509_pem_cert": value}) is None
    assert peer_of({}) is None


# Revocations

DAY = date(2026, 3, 9)


def test_a_missing_list_revokes_nobody_and_one_that_comes_counts_at_once(tmp_path: Path) -> None:
    path = tmp_path / "revoked.txt"
    revocations = Revocations(path)
    assert not revocations.is_revoked(0x4F2A)
    path.write_text("# a note\n\n4f2a  pi-1  2026-03-09\n")
    assert revocations.is_revoked(0x4F2A)
    assert not revocations.is_revoked(0x4F2B)
    with path.open("a") as file:
        file.write("4F2B pi-2 2026-03-09")
    assert revocations.is_revoked(0x4F2B)
    assert revocations.is_revoked(0x4F2A)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_changed_list_of_the_same_size_and_date_is_read_again(in_place: bool, tmp_path: Path) -> None:
    path, other = tmp_path / "revoked.txt", tmp_path / "other.txt"
    path.write_text("aaaa  pi-1  2026-03-09\n")
    found = path.stat()
    revocations = Revocations(path)
    assert not revocations.is_revoked(0xBBBB)
    # The system's clock for files ticks a few hundred times a second.
    while other.write_text("bbbb  pi-2  2026-03-09\n") and other.stat().st_ctime_ns == found.st_ctime_ns:
        pass
    if in_place:
        path.write_text(other.read_text())
    else:
        os.replace(other, path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert revocations.is_revoked(0xBBBB)


@pytest.mark.parametrize("content", [None, "", "4f", "4f2", "4f2a", "4f2a  pi-1", "4f2a  pi-1  2026-03", "\x00\x01"])
def test_a_list_that_is_lost_or_cut_lets_nobody_in_again(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "revoked.txt"
    path.write_text("4f2a  pi-1  2026-03-09\n")
    revocations = Revocations(path)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    assert revocations.is_revoked(0x4F2A)
    assert not revocations.is_revoked(0x4F)


def test_a_damaged_line_is_logged_once_and_the_others_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "revoked.txt"
    revocations = Revocations(path)
    path.write_text("4f2a  pi-1  2026-03-09\nzz  pi-2  2026-03-09\nabc  pi-3  yesterday\n")
    with caplog.at_level(logging.ERROR):
        assert revocations.is_revoked(0x4F2A)
        assert revocations.is_revoked(0xABC), "the number is whole; what follows is for people"
        assert not revocations.is_revoked(0x4F2B)
    (record,) = caplog.records
    assert "line 2 is damaged" in record.getMessage()


@pytest.mark.parametrize(
    "line", ["4f2a", "zz  pi-2  2026-03-09", "4f2a  pi-1  2026-03-09  more", "f" * 41 + "  a  2026-03-09"]
)
def test_nothing_starts_with_a_damaged_list(line: str, tmp_path: Path) -> None:
    path = tmp_path / "revoked.txt"
    path.write_text(f"aaaa  pi-0  2026-03-09\n{line}\n")
    with pytest.raises(IdentityError, match="line 2 is damaged; correct it, since it may hide a revocation"):
        Revocations(path)


def test_nothing_starts_with_a_list_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "revoked.txt").mkdir()
    with pytest.raises(IdentityError, match="cannot be read"):
        Revocations(tmp_path / "revoked.txt")


_entries = st.builds(
    Revocation,
    serial=st.integers(1, 2**159),
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(str.isascii),
    day=st.dates(),
)


@given(entries=st.lists(_entries, max_size=6))
def test_revocations_are_read_back_from_their_lines(entries: list[Revocation]) -> None:
    assert parse_revocations(revocation_lines(entries)) == (entries, [])


@given(entries=st.lists(_entries, min_size=1, max_size=4), cut=st.integers(0, 400))
def test_a_cut_list_holds_no_other_serial_numbers(entries: list[Revocation], cut: int) -> None:
    text = revocation_lines(entries)
    found, damaged = parse_revocations(text[:cut])
    assert [entry.serial for entry in found] == [entry.serial for entry in entries][: len(found)]
    whole = text[:cut].count("\n")
    assert len(found) >= whole
    assert all(number > whole for number in damaged)


def test_a_revoked_device_is_known_as_such_in_its_next_call(
    authority: Authority, coordinator: Identity, tmp_path: Path
) -> None:
    path = tmp_path / "revoked.txt"
    revocations = Revocations(path)
    identity, other = made(authority, "pi-1", "device"), made(authority, "pi-1", "device")
    refused = []
    with served(server_credentials(coordinator)) as (echo, port):
        for revoked in (False, True):
            if revoked:
                path.write_text(revocation_lines([Revocation(serial=serial_of(identity), name="pi-1", day=DAY)]))
            for each in (identity, other):
                assert say(f"localhost:{port}", channel_credentials(each)) == grpc.StatusCode.OK
                peer = echo.peers[-1]
                assert peer is not None
                refused.append(revocations.is_revoked(peer.serial))
    assert refused == [False, False, True, False]
