"""Forgotten passwords: a link with a random token goes to the stored address, works once, and for half an hour.

Only the token's hash is stored. A new link makes the older one void. Whoever asks learns nothing: the answer and
the work are the same for every address, and the mail leaves later.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta

import structlog

from admin_api.auth.emails import find_users
from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.service import set_password
from admin_api.mail import Mail, Mailer
from proxy.documents import User
from proxy.errors import InvalidRequest
from proxy.settings import Settings

LIFETIME = timedelta(minutes=30)
_TOKEN_BYTES = 32
_LONGEST_TOKEN = 128
log = structlog.get_logger(__name__)


class InvalidReset(InvalidRequest):
    """The link has been used, is too old, or was never ours."""

    api_code = "INVALID_RESET_TOKEN"


async def request_reset(email: str, mailer: Mailer, settings: Settings, *, now: datetime) -> None:
    """Mail a link to whoever may have this address, to each at his own; nobody can tell whether somebody has."""
    for user in await find_users(email):
        await _request_reset(user, mailer, settings, now=now)


async def _request_reset(user: User | None, mailer: Mailer, settings: Settings, *, now: datetime) -> None:
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    reset = {"digest": _digest(token), "expiresAt": now + LIFETIME}
    stored = await User.get_pymongo_collection().update_one(
        {"_id": None if user is None else user.id, "isActive": True}, {"$set": {"passwordReset": reset}}
    )
    if user is None or not stored.matched_count:
        return
    page = _frontend(settings)
    if page is None:
        log.warning("a password reset was not mailed: FRONTEND_URL is not set")
        return
    mailer.send(Mail(user.email, "Reset your AI Pasta password", _text(f"{page}/reset-password/{token}")))


async def reset_password(token: str, password: str, hasher: PasswordHasher, *, now: datetime) -> User:
    """Use a link: set the password and end all sessions; raise `InvalidReset`, in a race for all but one."""
    condition = {
        "passwordReset.digest": _digest(token[:_LONGEST_TOKEN]),
        "passwordReset.expiresAt": {"$gt": now},
    }
    known = await User.get_pymongo_collection().find_one({**condition, "isActive": True}, {"_id": 1})
    if known is None:
        raise InvalidReset("Token is invalid or has expired")
    user = await set_password(condition, await hasher.hash(password), now=now)
    if user is None:
        raise InvalidReset("Token is invalid or has expired")
    return user


def _frontend(settings: Settings) -> str | None:
    """Return where links point to: never what a request claims, and in production only what is configured."""
    if settings.frontend_url or settings.is_production:
        return settings.frontend_url
    return next((origin for origin in settings.allowed_origins if origin != "*"), None)


def _text(link: str) -> str:
    minutes = int(LIFETIME.total_seconds() // 60)
    return (
        "Somebody, probably you, has asked for a new password for your AI Pasta account.\n\n"
        f"Choose it here within {minutes} minutes:\n\n{link}\n\n"
        "If it was not you, ignore this mail: your password stays as it is.\n"
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
