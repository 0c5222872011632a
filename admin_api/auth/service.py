"""Accounts and their sessions: made, found, ended."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

from pymongo.errors import DuplicateKeyError

from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.schemas import Credentials, Registration
from proxy import security
from proxy.core.routing import Role
from proxy.documents import Session, User
from proxy.errors import InvalidRequest, Unauthenticated
from proxy.settings import Settings


class EmailTaken(InvalidRequest):
    """Somebody has an account with this address; the original answered 400, and the frontend knows it."""

    api_code = "EMAIL_TAKEN"


async def register(
    registration: Registration, hasher: PasswordHasher, *, now: datetime, role: Role = Role.USER
) -> User:
    """Make an account; raise `EmailTaken`."""
    user = User(
        name=registration.name,
        email=registration.email,
        password=await hasher.hash(registration.password),
        role=role,
        createdAt=now,
        updatedAt=now,
    )
    try:
        await user.insert()
    except DuplicateKeyError as exc:
        raise EmailTaken("User with this email already exists") from exc
    return user


async def sign_in(credentials: Credentials, hasher: PasswordHasher, *, now: datetime) -> User:
    """Find the user of an e-mail and password; raise `Unauthenticated`, the same for every reason but one."""
    user = await User.find_one(User.email == credentials.email.strip().lower())
    matches, better_hash = await hasher.verify(credentials.password, user.password if user else None)
    if user is None or not matches:
        raise Unauthenticated("Incorrect email or password", code="invalid_credentials")
    if not user.isActive:
        raise Unauthenticated("Your account has been deactivated. Please contact support.")
    changes = {"stats.lastActive": now} | ({"password": better_hash} if better_hash else {})
    await user.update({"$set": changes, "$inc": {"stats.loginCount": 1}})
    return user


async def open_session(user: User, settings: Settings, *, now: datetime) -> str:
    """Sign a user in: store a session and return the token that carries its id."""
    expires = now + timedelta(seconds=settings.token_lifetime)
    session = Session(id=secrets.token_hex(16), userId=user.id, createdAt=now, expiresAt=expires)
    await session.insert()
    claims = security.TokenClaims(str(user.id), session.id, int(now.timestamp()))
    return security.issue_token(claims, settings.jwt_secret or "", settings.token_lifetime)


async def ensure_admin(email: str, password: str, hasher: PasswordHasher, *, now: datetime) -> bool:
    """Make the operator's first admin unless the address has an account; say whether one was made."""
    if await User.find_one(User.email == email.strip().lower()) is not None:
        return False
    registration = Registration(name="Administrator", email=email, password=password)
    await register(registration, hasher, now=now, role=Role.ADMIN)
    return True
