"""`admin create`: an account with the role admin."""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import sys

from beanie import PydanticObjectId

from admin_api.auth.emails import find_user
from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.service import ensure_admin
from admin_api.operator import record_of_operator
from admin_api.users.deletion import staying
from proxy.clock import utc_now
from proxy.commands.reporting import reporting
from proxy.commands.store import with_database
from proxy.core.routing import Role
from proxy.database import Database
from proxy.documents import User
from proxy.settings import Settings, SettingsError


@reporting
def run(settings: Settings, options: argparse.Namespace) -> int:
    """Make an account with the role admin, or give the role to the one that exists."""

    async def create(_store: Database) -> None:
        existing = await find_user(options.email)
        if existing is not None:
            await _promote(existing)
            print(f"{existing.email} is an admin now; the password is unchanged")
            return
        password, is_ours = _new_password()
        if not await ensure_admin(options.email, password, PasswordHasher(), now=utc_now()):
            raise SettingsError(f"somebody has just registered {options.email}; try again")
        print(f"{options.email} is an admin now" + (f"; the password is {password}" if is_ours else ""))

    with_database(settings, create)
    return 0


async def _promote(user: User) -> None:
    user_id, now = PydanticObjectId(user.id), utc_now()
    await record_of_operator("operator.admin_made", target=str(user_id), now=now)
    changes = {"role": Role.ADMIN, "isActive": True, "updatedAt": now}
    promoted = await User.get_pymongo_collection().update_one(staying(user_id), {"$set": changes})
    if not promoted.matched_count:
        raise SettingsError(f"the account of {user.email} is being deleted; try again")


def _new_password() -> tuple[str, bool]:
    """Return the password to use, and whether it was made up here."""
    if os.isatty(sys.stdin.fileno()):
        return getpass.getpass("Password for the new admin: "), False
    return secrets.token_urlsafe(18), True
