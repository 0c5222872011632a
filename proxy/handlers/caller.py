"""Who sends a request of /v1, by the key in its head."""

from __future__ import annotations

from collections.abc import Awaitable

from sanic import Request

from proxy.auth import Caller
from proxy.gateway import gateway_of


def caller_of(
    request: Request, *, permission: str | None = None, otherwise: str | None = None
) -> Awaitable[Caller]:
    """Return what finds out who asks for what takes a permission, and raises what refuses him.

    Where a head has no `Authorization`, it is as if it had the one that `otherwise` is.
    """
    authorization = request.headers.get("authorization") or otherwise
    return gateway_of(request).authenticator.caller(authorization, request.ctx.client, permission=permission)
