"""Who is who: identity files, TLS made of them, whom a connection belongs to, and who was revoked.

An identity is one PEM file: a private key, its certificate, and the certificate of the authority that both ends trust.
The certificate's subject says name (CN) and role (OU). `hedgerow enrol` makes such files.
"""

from hedgerow.identity.peers import Peer, peer_of
from hedgerow.identity.reading import Identity, read_identity
from hedgerow.identity.revocations import Revocations
from hedgerow.identity.subject import Role, check_name
from hedgerow.identity.tls import channel_credentials, server_credentials

__all__ = [
    "Identity",
    "Peer",
    "Revocations",
    "Role",
    "channel_credentials",
    "check_name",
    "peer_of",
    "read_identity",
    "server_credentials",
]
