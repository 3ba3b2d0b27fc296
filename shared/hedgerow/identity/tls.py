"""gRPC credentials of an identity: both ends show a certificate, and both check the other's."""

from __future__ import annotations

import grpc

from hedgerow.identity.reading import Identity

__all__ = ["channel_credentials", "server_credentials"]


def server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """For a coordinator: who shows no certificate of the same authority reaches no handler."""
    return grpc.ssl_server_credentials(
        [(identity.key_pem, identity.certificate_pem)],
        root_certificates=identity.authority_pem,
        require_client_auth=True,
    )


def channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """For a device or an operator: trusts that authority alone, and checks the coordinator's host."""
    return grpc.ssl_channel_credentials(
        root_certificates=identity.authority_pem,
        private_key=identity.key_pem,
        certificate_chain=identity.certificate_pem,
    )
