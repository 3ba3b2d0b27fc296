"""Why a connection ended, in the user's words; and which endings there is no coming back from."""

from __future__ import annotations

import grpc

from hedgerow.client.joining.session import Ending
from hedgerow.errors import ConnectionLostError, IdentityError
from hedgerow.units import clean_text
from hedgerow.v1.fleet_pb2 import CAUSE_EVICTED, CAUSE_REPLACED

__all__ = ["explained", "hint", "stop_if_refused"]


def stop_if_refused(ending: Ending) -> None:
    """Raises where trying again cannot help.

    Raises:
        IdentityError: the coordinator does not let this identity in.
        ConnectionLostError: it evicted the device, has it attached from elsewhere, or speaks another protocol.
    """
    said = clean_text(ending.reason)
    if ending.cause == CAUSE_REPLACED:
        raise ConnectionLostError(
            f"another process has joined as this device ({said}); end it, or give this one a name or an identity of "
            f"its own"
        )
    if ending.cause == CAUSE_EVICTED:
        raise ConnectionLostError(f"the coordinator evicted this device ({said}); ask its operator")
    if ending.code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        raise IdentityError(f"the coordinator does not let this device in ({said}); ask its operator for an identity")
    if ending.code == grpc.StatusCode.FAILED_PRECONDITION:
        raise ConnectionLostError(f"the coordinator refuses this device ({said}); use the coordinator's version here")


def explained(ending: Ending) -> str:
    """The reason; gRPC's own sentences for the common ones are long.

    >>> explained(Ending("failed to connect to all addresses; last error: ipv4:127.0.0.1:1: Connection refused"))
    'nobody listens there'
    """
    text = ending.reason
    if "Connection refused" in text:
        return "nobody listens there"
    if "DNS resolution failed" in text or "Domain name not found" in text:
        return "the host's name is not known"
    if _without_tls(ending) or _handshake_failed(ending):
        return "the TLS handshake failed"
    if _closed_at_once(ending):
        return "the other end closed the connection at once"
    return text.rpartition("last error: ")[2]


def hint(ending: Ending, *, identity: bool) -> str | None:
    """What the user may want to look into, where it looks as if the two ends do not fit.

    Args:
        ending: of the last attempt.
        identity: whether the device shows one.
    """
    if _without_tls(ending):
        return "it looks as if this coordinator runs without TLS; leave --identity out, or start it with --enrolment"
    if not (_handshake_failed(ending) or _closed_at_once(ending)):
        return None
    if not identity:
        return "it looks as if this coordinator wants an identity; join with --identity FILE.pem"
    return (
        "it looks as if the coordinator's certificate is not for this address, or this identity is not of the "
        "coordinator's authority; enrol the device there, or join by a name that the coordinator was enrolled with"
    )


def _without_tls(ending: Ending) -> bool:
    return not ending.welcomed and "WRONG_VERSION_NUMBER" in ending.reason


def _handshake_failed(ending: Ending) -> bool:
    text = ending.reason.lower()
    return not ending.welcomed and any(
        word in text for word in ("handshake", "ssl_error", "certificate", "verification")
    )


def _closed_at_once(ending: Ending) -> bool:
    # Who does not like a certificate, or misses one, hangs up without a word.
    return not ending.welcomed and "failed to connect" in ending.reason and "Socket closed" in ending.reason
