"""Accounts: made, found by their passwords, and given new ones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from beanie import PydanticObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from admin_api.auth.emails import find_users, is_taken
from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.schemas import Credentials, PasswordChange, Registration
from admin_api.auth.sessions import SIGN_OUT, end_sessions
from admin_api.operator import record_of_operator
from proxy.core.routing import Role
from proxy.documents import User, UserStats
from proxy.errors import InvalidRequest, Unauthenticated

_TAKEN = "User with this email already exists"
_INCORRECT = "Incorrect email or password"


class EmailTaken(InvalidRequest):
    """Somebody has an account with this address; the original answered 400, and the frontend knows it."""

    api_code = "EMAIL_TAKEN"


class WrongPassword(Unauthenticated):
    """A password is not the account's; nothing says whether there is such an account."""

    api_code = "INVALID_CREDENTIALS"


async def register(
    registration: Registration, hasher: PasswordHasher, *, now: datetime, role: Role = Role.USER
) -> User:
    """Make an account; raise `EmailTaken`."""
    # Of two who register at the same moment, the index refuses one when both write the address alike. When they do
    # not, both get an account, and each is found first by what he has written.
    if await is_taken(registration.email):
        raise EmailTaken(_TAKEN)
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
        raise EmailTaken(_TAKEN) from exc
    return user


async def sign_in(credentials: Credentials, hasher: PasswordHasher, *, now: datetime) -> User:
    """Find the user of an e-mail and password; raise `WrongPassword`, the same whatever is wrong."""
    for user in await find_users(credentials.email):
        if await is_password_of(user, credentials.password, hasher) and user is not None:
            break
    else:
        raise WrongPassword(_INCORRECT)
    if not user.isActive or user.deletionRequestedAt is not None:
        raise Unauthenticated("Your account has been deactivated. Please contact support.")
    noted = await User.get_pymongo_collection().find_one_and_update(
        {"_id": user.id},
        {"$set": {"stats.lastActive": now}, "$inc": {"stats.loginCount": 1}},
        {"stats": 1},
        return_document=ReturnDocument.AFTER,
    )
    if noted is None:
        raise WrongPassword(_INCORRECT)
    # No more of him is read anew: by `signOuts` as it was, a session is refused if the password was changed meanwhile.
    user.stats = UserStats.model_validate(noted["stats"])
    return user


async def is_password_of(user: User | None, password: str, hasher: PasswordHasher) -> bool:
    """Check a password, with the same work where there is no user; a hash of an old kind is replaced."""
    digest = None if user is None else user.password
    matches, better_hash = await hasher.verify(password, digest)
    if user is not None and matches and better_hash:
        # Only in place of the hash that was checked: the password may have been changed meanwhile.
        await User.get_pymongo_collection().update_one(
            {"_id": user.id, "password": digest}, {"$set": {"password": better_hash}}
        )
        user.password = better_hash
    return matches


async def change_password(
    user: User, change: PasswordChange, hasher: PasswordHasher, *, now: datetime
) -> User:
    """Give a user another password and end all his sessions; raise `WrongPassword`."""
    if not await is_password_of(user, change.currentPassword, hasher):
        raise WrongPassword("Your current password is incorrect.")
    new_hash = await hasher.hash(change.newPassword)
    changed = await set_password({"_id": user.id, "password": user.password}, new_hash, now=now)
    if changed is None:
        raise WrongPassword("Your current password is incorrect.")
    return changed


async def set_password(condition: Mapping[str, object], new_hash: str, *, now: datetime) -> User | None:
    """Store a new hash for the one user who meets a condition, void his reset, and end all his sessions."""
    users = User.get_pymongo_collection()
    found = await users.find_one_and_update(
        {**condition, "isActive": True},
        {
            "$set": {"password": new_hash, "passwordChangedAt": now, "updatedAt": now},
            "$unset": {"passwordReset": ""},
            "$inc": SIGN_OUT,
        },
        {"_id": 1},
    )
    if found is None:
        return None
    await end_sessions(PydanticObjectId(found["_id"]))
    return await User.get(found["_id"])


async def ensure_admin(email: str, password: str, hasher: PasswordHasher, *, now: datetime) -> bool:
    """Make the operator's first admin unless the address has an account; say whether one was made."""
    if await is_taken(email):
        return False
    registration = Registration(name="Administrator", email=email, password=password)
    try:
        user = await register(registration, hasher, now=now, role=Role.ADMIN)
    except EmailTaken:  # another gateway, which starts at the same moment, was faster
        return False
    await record_of_operator("operator.admin_made", target=str(user.id), now=now)
    return True
