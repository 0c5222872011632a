"""Sign-ins: a token is good while its session is stored, so whatever ends the session ends the token on every worker.

A refresh replaces a token by its one successor. Two refreshes at the same moment (two tabs) get the same successor;
one that comes later than `OVERLAP` shows that the token was copied, and ends the whole sign-in.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import structlog
from beanie import PydanticObjectId
from pymongo.errors import PyMongoError

from admin_api.auth.whereabouts import Whereabouts
from proxy import tokens
from proxy.documents import Session, User
from proxy.errors import NotFound, Unauthenticated
from proxy.settings import Settings

_INVALID = "Invalid token. Please log in again!"
OVERLAP = timedelta(seconds=10)
LONGEST_SIGN_IN = timedelta(days=90)
"""After this a user signs in with his password again, however often he has refreshed."""

SIGN_OUT = {"signOuts": 1}
"""What a command that changes a user increments, to end all his sessions by itself; `end_sessions` removes them then."""

MOST_LISTED = 100
_LAST_USED_STEP = timedelta(minutes=1)
log = structlog.get_logger(__name__)


class TokenReused(Unauthenticated):
    """A token was refreshed twice, the second time too late for a coincidence: somebody has a copy."""

    api_code = "UNAUTHENTICATED"


@dataclass(frozen=True, slots=True)
class _SignIn:
    """What all tokens of one sign-in have in common."""

    user_id: PydanticObjectId
    family: str
    sign_outs: int
    began: datetime
    ends: datetime


async def open_session(user: User, settings: Settings, where: Whereabouts, *, now: datetime) -> str:
    """Sign a user in: store a session and return the token that carries its id.

    Raises `Unauthenticated` when his sign-ins were ended, or he was deactivated, since `user` was read.
    """
    ends = now + max(LONGEST_SIGN_IN, timedelta(seconds=settings.token_lifetime))
    owner = cast("PydanticObjectId", user.id)  # stored, so it has one
    sign_in = _SignIn(owner, secrets.token_hex(16), user.signOuts, now, ends)
    session = _session(sign_in, settings, where, now=now)
    await session.insert()
    # Such a session would be refused by its number alone, but whoever was overtaken should hear so now.
    current = await User.get(owner)
    if current is None or not current.isActive or current.signOuts != user.signOuts:
        await session.delete()
        raise _invalid()
    return _token(session, settings)


async def refresh_session(session: Session, settings: Settings, where: Whereabouts, *, now: datetime) -> str:
    """Replace a session's token by a new one and return that; raise `Unauthenticated` when it cannot be."""
    if session.replacedAt is not None:
        return await _successor(session, settings, now=now)
    began, ends = session.signedInAt or session.createdAt, session.signInEndsAt or session.expiresAt
    sign_in = _SignIn(session.userId, session.family, session.signOuts, began, ends)
    successor = _session(sign_in, settings, where, now=now)
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


async def note_use(session: Session, where: Whereabouts, *, now: datetime) -> None:
    """Take note of when and from where a token is used, once a minute; nobody is refused for want of that note."""
    if session.lastUsed is not None and now - session.lastUsed < _LAST_USED_STEP:
        return
    place = {"network": where.network, "userAgent": where.user_agent}
    with contextlib.suppress(PyMongoError):
        await Session.get_pymongo_collection().update_one(
            {"_id": session.id}, {"$set": place, "$max": {"lastUsed": now}}
        )


async def list_sign_ins(user_id: PydanticObjectId, *, now: datetime) -> list[Session]:
    """Return the newest token of each of a user's sign-ins, the last used first."""
    good = {"userId": user_id, "replacedAt": None, "expiresAt": {"$gt": now}}
    found = Session.find(good).sort("-lastUsed", "-createdAt").limit(MOST_LISTED)
    newest: dict[str, Session] = {}
    async for session in found:
        # For a moment a refresh leaves two; what died within it leaves them until they expire.
        newest.setdefault(session.family, session)
    return list(newest.values())


async def end_sign_in(session: Session) -> None:
    """End every token of one sign-in."""
    await Session.find(Session.userId == session.userId, Session.family == session.family).delete()


async def end_sign_in_of(user_id: PydanticObjectId, family: str) -> None:
    """End one of a user's sign-ins; raise `NotFound` when he has no such."""
    sessions = Session.get_pymongo_collection()
    ended = await sessions.delete_many({"userId": user_id, "family": family})
    if not ended.deleted_count:
        raise NotFound("Session not found")


async def end_other_sign_ins(session: Session) -> None:
    """End every sign-in of a user but the one that a token belongs to."""
    await Session.find(Session.userId == session.userId, Session.family != session.family).delete()


async def end_sessions(user_id: PydanticObjectId) -> None:
    """End every token of a user, at once and on every worker.

    Where the user is changed as well (password, role, `isActive`), the same command has `SIGN_OUT`: nobody knows whether
    this one comes to be sent, and a sign-in that is under way looks at the user last.
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


def _session(sign_in: _SignIn, settings: Settings, where: Whereabouts, *, now: datetime) -> Session:
    return Session(
        id=secrets.token_hex(16),
        userId=sign_in.user_id,
        family=sign_in.family,
        signOuts=sign_in.sign_outs,
        createdAt=now,
        expiresAt=min(now + timedelta(seconds=settings.token_lifetime), sign_in.ends),
        signedInAt=sign_in.began,
        signInEndsAt=sign_in.ends,
        lastUsed=now,
        network=where.network,
        userAgent=where.user_agent,
    )


def _token(session: Session, settings: Settings) -> str:
    claims = tokens.TokenClaims(str(session.userId), session.id, int(session.createdAt.timestamp()))
    lifetime = int((session.expiresAt - session.createdAt).total_seconds())
    return tokens.issue(claims, settings.token_keys, lifetime)


def _invalid() -> Unauthenticated:
    return Unauthenticated(_INVALID)
