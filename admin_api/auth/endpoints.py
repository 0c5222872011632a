"""`/api/auth`: accounts and sessions."""

from __future__ import annotations

from sanic import Blueprint, HTTPResponse, Request

from admin_api import access
from admin_api.auth import service
from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.schemas import Credentials, Registration
from admin_api.envelope import success
from admin_api.users.view import view_user
from admin_api.validation import read_body
from proxy.documents import User
from proxy.gateway import gateway_of

blueprint = Blueprint("auth", url_prefix="/api/auth")


@blueprint.post("/register")
@access.public
async def register(request: Request) -> HTTPResponse:
    """Make an account and sign it in."""
    registration = read_body(request, Registration)
    user = await service.register(registration, _hasher(request), now=gateway_of(request).clock())
    return await _signed_in(request, user, message="User registered successfully", status=201)


@blueprint.post("/login")
@access.public
async def login(request: Request) -> HTTPResponse:
    """Sign in with e-mail and password."""
    credentials = read_body(request, Credentials)
    user = await service.sign_in(credentials, _hasher(request), now=gateway_of(request).clock())
    return await _signed_in(request, user, message="Login successful", status=200)


async def _signed_in(request: Request, user: User, *, message: str, status: int) -> HTTPResponse:
    """Answer with a new token, in the body and as the cookie `jwt`."""
    gateway = gateway_of(request)
    token = await service.open_session(user, gateway.settings, now=gateway.clock())
    data = {"user": await view_user(user, gateway)}
    response = success(data, message=message, status=status, token=token)
    response.add_cookie(
        access.COOKIE,
        token,
        httponly=True,
        samesite="Strict",
        secure=gateway.settings.is_production,
        max_age=gateway.settings.jwt_cookie_expires_in * 86400,
        path="/",
    )
    return response


def _hasher(request: Request) -> PasswordHasher:
    hasher: PasswordHasher = request.app.ctx.hasher
    return hasher
