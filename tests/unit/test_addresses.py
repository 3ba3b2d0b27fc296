"""Where a coordinator listens and a device connects to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hedgerow.errors import ConfigError
from hedgerow.wire.addresses import DEFAULT_PORT, Address, check_host, is_loopback, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("192.168.0.10:9000", "192.168.0.10", 9000, "192.168.0.10:9000"),
        ("192.168.0.10", "192.168.0.10", DEFAULT_PORT, "192.168.0.10:7070"),
        ("Edge-1.Example.org:1", "edge-1.example.org", 1, "edge-1.example.org:1"),
        ("localhost", "localhost", 7070, "localhost:7070"),
        ("my_service:65535", "my_service", 65535, "my_service:65535"),
        ("[::1]:7071", "::1", 7071, "[::1]:7071"),
        ("[::1]", "::1", 7070, "[::1]:7070"),
        ("[FE80:0:0::1]:0", "fe80::1", 0, "[fe80::1]:0"),
        ("0.0.0.0:0", "0.0.0.0", 0, "0.0.0.0:0"),
        ("a1:1", "a1", 1, "a1:1"),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int, shown: str) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert str(address) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":7070",
        "host:",
        "host:abc",
        "host:-1",
        "host:+1",
        "host:65536",
        "host:1:2",
        "host: 7070",
        " host:7070",
        "host:7070\n",
        "host:٧",
        "::1",
        "::1:7070",
        "[::1",
        "[::1]7070",
        "[[::1]]:7070",
        "[localhost]:7070",
        "[127.0.0.1]:7070",
        "[fe80::1%eth0]:7070",
        "https://host:7070",
        "unix:/run/socket",
        "user@host:7070",
        "-host",
        "host-",
        "a..b",
        "host.",
        "bücher.example",
        "a" * 64,
        ".".join(["a" * 60] * 5),
        "1.2.3.999",
        "127.1",
        "0x7f000001",
        "1.2.3.4.0x5",
        "2130706433",
    ],
)
def test_what_is_no_address_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match=r"found .*(expected|highest|only)") as raised:
        parse_address(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.255.1.2", True),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False),
        ("::", False),
        ("128.0.0.1", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("ip6-localhost", False),
        ("", False),
    ],
)
def test_only_literal_loopback_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


_labels = st.from_regex(r"[a-z][a-z0-9-]{0,20}[a-z0-9]", fullmatch=True).filter(lambda text: text.isascii())
_hosts = st.one_of(st.lists(_labels, min_size=1, max_size=4).map(".".join), st.ip_addresses().map(str))


@given(host=_hosts.filter(lambda host: "%" not in host), port=st.integers(0, 65535))
def test_an_address_is_read_back_from_its_text(host: str, port: int) -> None:
    address = Address(host, port)
    assert parse_address(str(address)) == address
    assert check_host(host) == host


@given(text=st.text(max_size=40))
@example("[]:1")
@example("[::1]:00001")
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ConfigError:
        return
    assert 0 <= address.port <= 65535
    assert parse_address(str(address)) == address


@given(value=st.integers(0, 2**32 - 1))
def test_exactly_127_of_the_version_4_addresses_is_loopback(value: int) -> None:
    assert is_loopback(str(ipaddress.IPv4Address(value))) == (value >> 24 == 127)
    assert is_loopback(str(ipaddress.IPv4Address(127 << 24 | value & 0xFFFFFF)))
