"""Sign-ins: a token is good while its session is stored, so whatever ends the session ends the token on every worker.

A refresh replaces a token by its one successor. Two refreshes at the same moment (two tabs) get the same successor;
one that comes later than `OVERLAP` shows that the token was copied, and ends the whole sign-in.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import cast

import structlog
from beanie import PydanticObjectId

from proxy import tokens
from proxy.documents import Session, User
from proxy.errors import Unauthenticated
from proxy.settings import Settings

_INVALID = "Invalid token. Please log in again!"
OVERLAP = timedelta(seconds=10)
LONGEST_SIGN_IN = timedelta(days=90)
"""After this a user signs in with his password again, however often he has refreshed."""

log = structlog.get_logger(__name__)


class TokenReused(Unauthenticated):
    """A token was refreshed twice, the second time too late for a coincidence: somebody has a copy."""

    api_code = "UNAUTHENTICATED"


async def open_session(user: User, settings: Settings, *, now: datetime) -> str:
    """Sign a user in: store a session and return the token that carries its id.

    Raises `Unauthenticated` when his password was changed, or he was deactivated, since `user` was read.
    """
    ends = now + max(LONGEST_SIGN_IN, timedelta(seconds=settings.token_lifetime))
    owner = cast("PydanticObjectId", user.id)  # stored, so it has one
    session = _session(owner, secrets.token_hex(16), settings, now=now, ends=ends)
    await session.insert()
    # Whoever ends a user's sessions first changes the user: what he did not see here, he has deleted there.
    unchanged = {"_id": user.id, "isActive": True, "passwordChangedAt": user.passwordChangedAt}
    if await User.get_pymongo_collection().find_one(unchanged, {"_id": 1}) is None:
        await session.delete()
        raise _invalid()
    return _token(session, settings)


async def refresh_session(session: Session, settings: Settings, *, now: datetime) -> str:
    """Replace a session's token by a new one and return that; raise `Unauthenticated` when it cannot be."""
    if session.replacedAt is not None:
        return await _successor(session, settings, now=now)
    ends = session.signInEndsAt or session.expiresAt
    successor = _session(session.userId, session.family, settings, now=now, ends=ends)
    await successor.insert()
    replaced = await Session.get_pymongo_collection().update_one(
        {"_id": session.id, "userId": session.userId, "replacedAt": None},
        {"$set": {"replacedAt": now, "replacedBy": successor.id}},
    )
    if replaced.modified_count:
        return _token(successor, settings)
    await successor.delete()
    current = await Session.get(session.id)
    if current is None:
        raise _invalid()
    return await _successor(current, settings, now=now)


async def end_sign_in(session: Session) -> None:
    """End every token of one sign-in."""
    await Session.find(Session.userId == session.userId, Session.family == session.family).delete()


async def end_sessions(user_id: PydanticObjectId) -> None:
    """End every token of a user, at once and on every worker.

    Change the user first (password, role, `isActive`): a sign-in that is under way looks at him last.
    """
    await Session.find(Session.userId == user_id).delete()


async def _successor(session: Session, settings: Settings, *, now: datetime) -> str:
    """Return the token that has replaced a session's, if that was a moment ago."""
    if session.replacedAt is None or now - session.replacedAt > OVERLAP:
        log.warning("a replaced token was used again; its sign-in is ended", user=str(session.userId))
        await end_sign_in(session)
        raise TokenReused(_INVALID)
    successor = await Session.find_one(Session.id == session.replacedBy, Session.userId == session.userId)
    if successor is None:
        raise _invalid()
    return _token(successor, settings)


def _session(
    user_id: PydanticObjectId, family: str, settings: Settings, *, now: datetime, ends: datetime
) -> Session:
    return Session(
        id=secrets.token_hex(16),
        userId=user_id,
        family=family,
        createdAt=now,
        expiresAt=min(now + timedelta(seconds=settings.token_lifetime), ends),
        signInEndsAt=ends,
    )


def _token(session: Session, settings: Settings) -> str:
    claims = tokens.TokenClaims(str(session.userId), session.id, int(session.createdAt.timestamp()))
    lifetime = int((session.expiresAt - session.createdAt).total_seconds())
    return tokens.issue(claims, settings.token_keys, lifetime)


def _invalid() -> Unauthenticated:
    return Unauthenticated(_INVALID)
