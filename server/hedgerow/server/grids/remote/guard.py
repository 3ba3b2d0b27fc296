"""Who may call what: without a valid identity nothing is answered but an error of authentication."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from hedgerow.identity import Peer, Revocations, peer_of
from hedgerow.server.grids.remote.view import FleetObserver

__all__ = ["Guard", "peer_in"]

_ROLES = {"hedgerow.v1.Devices": ("device",), "hedgerow.v1.Control": ("operator",)}
"""Health and reflection are for anybody with a valid identity."""

Context = aio.ServicerContext[Any, Any]


def peer_in(context: Context) -> Peer | None:
    """Whose certificate a call came with; None without TLS, or where it is not one of ours."""
    return peer_of({key: list(values) for key, values in context.auth_context().items()})


class Guard(aio.ServerInterceptor):
    """Lets a call through when its certificate is valid, not revoked, and of the role that the service is for.

    TLS itself has refused whoever has no certificate of the right authority before it comes to this.
    """

    def __init__(self, *, revocations: Revocations, observer: FleetObserver) -> None:
        self._revocations, self._observer = revocations, observer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        service = handler_call_details.method.lstrip("/").partition("/")[0]
        roles = _ROLES.get(service)
        return _guarded(handler, lambda context: self._require(context, roles))

    async def _require(self, context: Context, roles: tuple[str, ...] | None) -> None:
        peer = peer_in(context)
        if peer is None:
            self._observer.refused(reason="identity")
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this certificate is not an identity of hedgerow")
        assert peer is not None
        if self._revocations.is_revoked(peer.serial):
            self._observer.refused(reason="revoked")
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this identity was revoked; ask for a new one")
        if roles is not None and peer.role not in roles:
            self._observer.refused(reason="role")
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"this is for the identity of {' or '.join(roles)}, not {peer.role}"
            )


def _guarded(
    handler: grpc.RpcMethodHandler[Any, Any], require: Callable[[Context], Awaitable[None]]
) -> grpc.RpcMethodHandler[Any, Any]:
    # The four arities of gRPC differ in what is called with what; those that stream their answer are generators, but
    # for ours that writes to its context.
    coders = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    behaviour: Any
    if handler.response_streaming:
        behaviour = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def streaming(request: Any, context: Context) -> None:
            await require(context)
            result = behaviour(request, context)
            if hasattr(result, "__aiter__"):
                async for response in result:
                    # Whoever is revoked hears no more from now on.
                    await require(context)
                    await context.write(response)
            else:
                await result

        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(streaming, **coders)
        return grpc.unary_stream_rpc_method_handler(streaming, **coders)
    behaviour = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def single(request: Any, context: Context) -> Any:
        await require(context)
        return await behaviour(request, context)

    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(single, **coders)
    return grpc.unary_unary_rpc_method_handler(single, **coders)
