"""Where a coordinator listens and a device connects to."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from hedgerow.errors import ConfigError

__all__ = ["DEFAULT_PORT", "Address", "check_host", "is_loopback", "parse_address"]

DEFAULT_PORT = 7070

# Underscores are in no host name by the book, but in those that container engines give.
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*", re.ASCII)
_NUMERIC_END = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)", re.ASCII)
_PARTS = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; as text it is what gRPC takes.

    >>> str(Address("::1", 7070))
    '[::1]:7070'
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Reads `host:port`, `[::1]:7070`, or either without its port, which is 7070 then.

    Port 0 is taken: who listens on it gets any free one.

    Raises:
        ConfigError: it is not an address.

    >>> parse_address("pi.local")
    Address(host='pi.local', port=7070)
    """
    match = _PARTS.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"found {text!r} as an address; expected HOST:PORT, such as 192.168.0.10:{DEFAULT_PORT} or "
            f"[::1]:{DEFAULT_PORT}"
        )
    port = DEFAULT_PORT if match["port"] is None else int(match["port"])
    if port > 65535:
        raise ConfigError(f"found port {port} in {text!r}; the highest is 65535")
    if match["v6"] is None:
        return Address(check_host(match["host"]), port)
    host = check_host(match["v6"])
    if ":" not in host:
        raise ConfigError(f"found {text!r} as an address; only an IPv6 address stands in brackets")
    return Address(host, port)


def check_host(text: str) -> str:
    """A host name in lower case, or an IPv4 or IPv6 address in its shortest form, without brackets.

    Raises:
        ConfigError: it is neither.

    >>> check_host("0:0:0:0:0:0:0:1")
    '::1'
    """
    lower = text.lower()
    try:
        # A zone (%eth0) means something on one machine only.
        if "%" not in lower:
            return str(ipaddress.ip_address(lower))
    except ValueError:
        pass
    # A name that ends in a number would be read as an odd spelling of an IPv4 address by some resolvers.
    if len(lower) > 253 or not _NAME.fullmatch(lower) or _NUMERIC_END.fullmatch(lower):
        raise ConfigError(
            f"found {text!r} as a host; expected a name or an IP address alone, such as pi.local or 192.168.0.10"
        )
    return lower


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it: `localhost`, 127.0.0.0/8 or ::1. No other name is looked up.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # Python releases differ on mapped addresses.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
