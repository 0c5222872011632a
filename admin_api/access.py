"""Who may call an endpoint of /api: every handler carries exactly one of these rules, and a test counts them.

A token comes as `Authorization: Bearer` or as the cookie `jwt`. It is good while its session is stored and its
user is active and was not signed out everywhere since, so that signing out ends it at once. Browsers send a cookie
by themselves, whoever has asked them to: where it is what authenticates, a request that changes something has to
come from an origin that we know.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Concatenate

from beanie import PydanticObjectId
from bson.errors import InvalidId
from sanic import HTTPResponse, Request

from admin_api.auth.sessions import note_use
from admin_api.auth.whereabouts import Whereabouts
from proxy import tokens
from proxy.core.routing import Role
from proxy.documents import Session, User
from proxy.errors import PermissionDenied, Unauthenticated
from proxy.gateway import gateway_of
from proxy.tokens import TokenClaims

COOKIE = "jwt"
_ACCESS = "__access__"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Handler = Callable[..., Awaitable[HTTPResponse | None]]
UserHandler = Callable[Concatenate[Request, "SignedIn", ...], Awaitable[HTTPResponse | None]]
VisitorHandler = Callable[Concatenate[Request, "SignedIn | None", ...], Awaitable[HTTPResponse | None]]


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Whose token a request carries."""

    user_id: PydanticObjectId
    user: User
    session: Session

    @property
    def session_id(self) -> str:
        """Return the id that the token carries."""
        return self.session.id


def public(handler: Handler) -> Handler:
    """Open an endpoint to everybody."""
    setattr(handler, _ACCESS, "public")
    return handler


def optional(handler: VisitorHandler) -> Handler:
    """Open an endpoint to everybody; the handler gets who is signed in, or `None`, as its second argument.

    A bearer token that is sent must be good; a cookie that is not good any more is nobody's.
    """

    @functools.wraps(handler)
    async def checked(request: Request, *args: Any, **kwargs: Any) -> HTTPResponse | None:
        return await handler(request, await visitor(request), *args, **kwargs)

    setattr(checked, _ACCESS, "optional")
    return checked


def user(handler: UserHandler) -> Handler:
    """Open an endpoint to whoever is signed in; the handler gets him as its second argument."""
    return _with_user(handler, rule="user")


def refresher(handler: UserHandler) -> Handler:
    """Open an endpoint to whoever is signed in, also with a token that has been replaced."""
    return _with_user(handler, rule="user", accepts_replaced=True)


def admin(handler: UserHandler) -> Handler:
    """Open an endpoint to admins alone."""
    return _with_user(handler, rule="admin")


def rule_of(handler: object) -> str | None:
    """Return the rule that a handler declares."""
    return getattr(handler, _ACCESS, None)


async def signed_in(request: Request, *, accepts_replaced: bool = False) -> SignedIn:
    """Return whose token a request carries; raise `Unauthenticated` when it carries no good one.

    Raises `PermissionDenied` when only a cookie speaks for a change that another site may have asked for.
    """
    token = _bearer_of(request) or _cookie_of(request)
    if not token:
        raise Unauthenticated("You are not logged in! Please log in to get access.")
    claims, user_id = _read(request, token)
    session = await Session.find_one(Session.id == claims.session_id, Session.userId == user_id)
    found = await User.get(user_id)
    if found is None or found.deletionRequestedAt is not None:
        raise Unauthenticated("The user belonging to this token does no longer exist.")
    if not found.isActive:
        raise Unauthenticated("Your account has been deactivated. Please contact support.")
    if session is None or session.signOuts != found.signOuts:
        raise Unauthenticated(_why_ended(found, claims))
    request.ctx.user_id = str(user_id)
    now = gateway_of(request).clock()
    if session.expiresAt <= now or (session.replacedAt is not None and not accepts_replaced):
        raise Unauthenticated("Invalid token. Please log in again!")
    await note_use(session, whereabouts_of(request), now=now)
    return SignedIn(user_id, found, session)


async def visitor(request: Request) -> SignedIn | None:
    """Return whose token a request carries, or `None`; raise `Unauthenticated` for a bad bearer token."""
    try:
        return await signed_in(request)
    except Unauthenticated:
        if _bearer_of(request):
            raise
        return None


def whereabouts_of(request: Request) -> Whereabouts:
    """Return from where a request comes, as far as that may be kept."""
    return Whereabouts.of(request.ctx.client, request.headers.get("user-agent", ""))


def set_cookie(request: Request, response: HTTPResponse, token: str, *, seconds: int) -> None:
    """Let the browser keep a token where no script can read it and no other site can send it."""
    response.add_cookie(
        COOKIE,
        token,
        httponly=True,
        samesite="Strict",
        secure=gateway_of(request).settings.is_production,
        max_age=seconds,
        path="/",
    )


def forget_cookie(request: Request, response: HTTPResponse) -> None:
    """Let the browser drop the token that it keeps."""
    set_cookie(request, response, "", seconds=0)


def _with_user(handler: UserHandler, *, rule: str, accepts_replaced: bool = False) -> Handler:
    @functools.wraps(handler)
    async def checked(request: Request, *args: Any, **kwargs: Any) -> HTTPResponse | None:
        caller = await signed_in(request, accepts_replaced=accepts_replaced)
        if rule == "admin" and caller.user.role is not Role.ADMIN:
            raise PermissionDenied("Admin access required")
        return await handler(request, caller, *args, **kwargs)

    setattr(checked, _ACCESS, rule)
    return checked


def _bearer_of(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _cookie_of(request: Request) -> str | None:
    """Return the token in the cookie, if the cookie counts.

    It counts for a change only where the browser says which page wants it; raises `PermissionDenied` when that
    is a page of a stranger.
    """
    token: str | None = request.cookies.get(COOKIE)
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if not token or request.method in _SAFE_METHODS:
        return token
    if origin is None and site is None:
        return None
    is_known = (
        site == "same-origin"
        if origin is None
        else origin in gateway_of(request).settings.allowed_origins or _is_own(request, origin)
    )
    if not is_known:
        raise PermissionDenied("This origin may not act with the cookie of a signed-in user.")
    return token


def _read(request: Request, token: str) -> tuple[TokenClaims, PydanticObjectId]:
    gateway = gateway_of(request)
    try:
        claims = tokens.read(token, gateway.settings.token_keys, now=gateway.clock())
        return claims, PydanticObjectId(claims.user_id)
    except tokens.ExpiredToken as exc:
        raise Unauthenticated("Your token has expired! Please log in again.") from exc
    except (tokens.InvalidToken, InvalidId) as exc:
        raise Unauthenticated("Invalid token. Please log in again!") from exc


def _why_ended(user: User, claims: TokenClaims) -> str:
    changed = user.passwordChangedAt
    if changed is not None and claims.issued_at <= changed.timestamp():
        return "User recently changed password! Please log in again."
    return "Invalid token. Please log in again!"


def _is_own(request: Request, origin: str) -> bool:
    host = request.headers.get("host")
    return bool(host) and origin.partition("://")[2] == host
