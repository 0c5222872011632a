"""`/api/auth`: accounts and sessions."""

from __future__ import annotations

from sanic import HTTPResponse, Request

from admin_api import access, audit, ratelimit
from admin_api.access import SignedIn
from admin_api.auth import reset, service, sessions
from admin_api.auth.emails import account_of
from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.schemas import (
    Credentials,
    ForgottenPassword,
    NewPasswordOnly,
    PasswordChange,
    Registration,
)
from admin_api.auth.view import view_sign_in
from admin_api.envelope import success
from admin_api.users.view import view_user
from admin_api.validation import read_body
from proxy.blueprint import Blueprint
from proxy.documents import User
from proxy.errors import PermissionDenied, Unauthenticated
from proxy.gateway import gateway_of

blueprint = Blueprint("auth", url_prefix="/api/auth")

MAIL_IS_ON_ITS_WAY = "If an account with that email exists, a password reset link has been sent to it."


@blueprint.post("/register")
@access.public
@ratelimit.by_address("auth")
async def register(request: Request) -> HTTPResponse:
    """Make an account and sign it in."""
    registration = read_body(request, Registration)
    user = await service.register(registration, _hasher(request), now=gateway_of(request).clock())
    await audit.record(request, "auth.registered", actor_id=str(user.id))
    return await _signed_in(request, user, message="User registered successfully", status=201)


@blueprint.post("/login")
@access.public
@ratelimit.by_address("auth")
async def login(request: Request) -> HTTPResponse:
    """Sign in with e-mail and password."""
    credentials = read_body(request, Credentials)
    account = account_of(credentials.email)
    await ratelimit.begin_attempt(request, account)
    try:
        user = await service.sign_in(credentials, _hasher(request), now=gateway_of(request).clock())
    except Unauthenticated:
        await audit.record(request, "auth.login_failed", actor_id=None, details={"email": account})
        raise
    await ratelimit.attempt_succeeded(request, account)
    await audit.record(request, "auth.login", actor_id=str(user.id))
    return await _signed_in(request, user, message="Login successful")


@blueprint.post("/logout")
@access.public
async def logout(request: Request) -> HTTPResponse:
    """End the sign-in whose token the request carries, if it carries one, and forget the cookie."""
    try:
        caller = await access.signed_in(request, accepts_replaced=True)
    except (Unauthenticated, PermissionDenied):
        caller = None
    if caller is not None:
        await sessions.end_sign_in(caller.session)
        await audit.record(request, "auth.logout", actor_id=str(caller.user_id))
    response = success(message="Logged out successfully")
    access.forget_cookie(request, response)
    return response


@blueprint.get("/me")
@access.user
async def get_me(request: Request, caller: SignedIn) -> HTTPResponse:
    """Describe who is signed in."""
    return success({"user": await view_user(caller.user, gateway_of(request))})


@blueprint.get("/verify")
@access.user
async def verify_token(request: Request, caller: SignedIn) -> HTTPResponse:
    """Say that the token is good, and whose it is."""
    return success({"user": await view_user(caller.user, gateway_of(request))}, message="Token is valid")


@blueprint.post("/refresh")
@access.refresher
async def refresh_token(request: Request, caller: SignedIn) -> HTTPResponse:
    """Replace the token by a new one; the old one dies."""
    gateway = gateway_of(request)
    try:
        token = await sessions.refresh_session(
            caller.session, gateway.settings, access.whereabouts_of(request), now=gateway.clock()
        )
    except sessions.TokenReused:
        await audit.record(request, "auth.token_reused", actor_id=str(caller.user_id))
        raise
    return await _with_token(request, caller.user, token, message="Token refreshed successfully")


@blueprint.get("/sessions")
@access.user
async def list_sessions(request: Request, caller: SignedIn) -> HTTPResponse:
    """List where the user is signed in, the last used first."""
    found = await sessions.list_sign_ins(caller.user_id, now=gateway_of(request).clock())
    shown = [view_sign_in(session, current=caller.session.family) for session in found]
    return success({"sessions": shown}, results=len(shown))


@blueprint.delete("/sessions")
@access.user
async def revoke_other_sessions(request: Request, caller: SignedIn) -> HTTPResponse:
    """Sign the user out everywhere but here, at once and on every worker."""
    await sessions.end_other_sign_ins(caller.session)
    await audit.record(request, "auth.other_sessions_revoked", actor_id=str(caller.user_id))
    return success(message="All other sessions revoked successfully")


@blueprint.delete("/sessions/<sign_in_id:str>")
@access.user
async def revoke_session(request: Request, caller: SignedIn, sign_in_id: str) -> HTTPResponse:
    """Sign the user out in one place, which may be this one."""
    await sessions.end_sign_in_of(caller.user_id, sign_in_id)
    await audit.record(request, "auth.session_revoked", actor_id=str(caller.user_id), target=sign_in_id)
    response = success(message="Session revoked successfully")
    if sign_in_id == caller.session.family:
        access.forget_cookie(request, response)
    return response


@blueprint.patch("/password")
@access.user
@ratelimit.by_address("auth")
async def change_password(request: Request, caller: SignedIn) -> HTTPResponse:
    """Change the password, end every session and sign in anew."""
    change = read_body(request, PasswordChange)
    await ratelimit.begin_attempt(request, account_of(caller.user.email))
    now = gateway_of(request).clock()
    try:
        user = await service.change_password(caller.user, change, _hasher(request), now=now)
    except Unauthenticated:
        await audit.record(request, "auth.password_change_failed", actor_id=str(caller.user_id))
        raise
    await ratelimit.attempt_succeeded(request, account_of(caller.user.email))
    await audit.record(request, "auth.password_changed", actor_id=str(user.id))
    return await _signed_in(request, user, message="Password updated successfully")


@blueprint.post("/forgot-password")
@access.public
@ratelimit.by_address("auth")
async def request_password_reset(request: Request) -> HTTPResponse:
    """Mail a link with which a new password can be set; the answer is the same for every address."""
    wish = read_body(request, ForgottenPassword)
    gateway = gateway_of(request)
    await audit.record(request, "auth.reset_asked", actor_id=None, details={"email": account_of(wish.email)})
    if await ratelimit.may_mail(request, account_of(wish.email)):
        await reset.request_reset(wish.email, request.app.ctx.mailer, gateway.settings, now=gateway.clock())
    return success(message=MAIL_IS_ON_ITS_WAY)


@blueprint.patch("/reset-password/<token:str>")
@access.public
@ratelimit.by_address("auth")
async def reset_password(request: Request, token: str) -> HTTPResponse:
    """Set a new password with the token of a mailed link, end every session and sign in."""
    wish = read_body(request, NewPasswordOnly)
    now = gateway_of(request).clock()
    user = await reset.reset_password(token, wish.password, _hasher(request), now=now)
    await ratelimit.attempt_succeeded(request, account_of(user.email))
    await audit.record(request, "auth.password_reset", actor_id=str(user.id))
    return await _signed_in(request, user, message="Password reset successfully")


async def _signed_in(request: Request, user: User, *, message: str, status: int = 200) -> HTTPResponse:
    """Open a session and answer with its token."""
    gateway = gateway_of(request)
    where = access.whereabouts_of(request)
    token = await sessions.open_session(user, gateway.settings, where, now=gateway.clock())
    return await _with_token(request, user, token, message=message, status=status)


async def _with_token(
    request: Request, user: User, token: str, *, message: str, status: int = 200
) -> HTTPResponse:
    """Answer with a token, in the body and as the cookie `jwt`."""
    gateway = gateway_of(request)
    data = {"user": await view_user(user, gateway)}
    response = success(data, message=message, status=status, token=token)
    access.set_cookie(request, response, token, seconds=gateway.settings.jwt_cookie_expires_in * 86400)
    return response


def _hasher(request: Request) -> PasswordHasher:
    hasher: PasswordHasher = request.app.ctx.hasher
    return hasher
