"""Who may call an endpoint of /api: every handler carries exactly one of these rules, and a test counts them.

A token is good while its session exists and its user is active, so that signing out ends it at once.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Concatenate

from beanie import PydanticObjectId
from bson.errors import InvalidId
from sanic import HTTPResponse, Request

from proxy import security
from proxy.core.routing import Role
from proxy.documents import Session, User
from proxy.errors import PermissionDenied, Unauthenticated
from proxy.gateway import gateway_of

COOKIE = "jwt"
_ACCESS = "__access__"

Handler = Callable[..., Awaitable[HTTPResponse]]


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Whose token a request carries."""

    user_id: PydanticObjectId
    user: User
    session_id: str


def public(handler: Handler) -> Handler:
    """Open an endpoint to everybody."""
    setattr(handler, _ACCESS, "public")
    return handler


def user(handler: Callable[Concatenate[Request, SignedIn, ...], Awaitable[HTTPResponse]]) -> Handler:
    """Open an endpoint to whoever is signed in; the handler gets him as its second argument."""
    return _with_user(handler, rule="user")


def admin(handler: Callable[Concatenate[Request, SignedIn, ...], Awaitable[HTTPResponse]]) -> Handler:
    """Open an endpoint to admins alone."""
    return _with_user(handler, rule="admin")


def rule_of(handler: object) -> str | None:
    """Return the rule that a handler declares."""
    return getattr(handler, _ACCESS, None)


async def signed_in(request: Request) -> SignedIn:
    """Return whose token a request carries; raise `Unauthenticated` when it carries no good one."""
    gateway = gateway_of(request)
    token = _token_of(request)
    if not token:
        raise Unauthenticated("You are not logged in! Please log in to get access.")
    try:
        claims = security.read_token(token, gateway.settings.jwt_secret or "", now=gateway.clock())
        user_id = PydanticObjectId(claims.user_id)
    except security.ExpiredToken as exc:
        raise Unauthenticated("Your token has expired! Please log in again.") from exc
    except (security.InvalidToken, InvalidId) as exc:
        raise Unauthenticated("Invalid token. Please log in again!") from exc
    session = await Session.find_one(Session.id == claims.session_id, Session.userId == user_id)
    if session is None or session.expiresAt <= gateway.clock():
        raise Unauthenticated("Invalid token. Please log in again!")
    found = await User.get(user_id)
    if found is None:
        raise Unauthenticated("The user belonging to this token does no longer exist.")
    if not found.isActive:
        raise Unauthenticated("Your account has been deactivated. Please contact support.")
    return SignedIn(user_id, found, session.id)


def _with_user(handler: Callable[..., Awaitable[HTTPResponse]], *, rule: str) -> Handler:
    @functools.wraps(handler)
    async def checked(request: Request, *args: Any, **kwargs: Any) -> HTTPResponse:
        caller = await signed_in(request)
        if rule == "admin" and caller.user.role is not Role.ADMIN:
            raise PermissionDenied("Admin access required")
        return await handler(request, caller, *args, **kwargs)

    setattr(checked, _ACCESS, rule)
    return checked


def _token_of(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
