"""`admin create`: an account with the role admin."""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import sys

from admin_api.auth.hashing import PasswordHasher
from admin_api.auth.service import ensure_admin
from admin_api.operator import record_of_operator
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
        existing = await User.find_one(User.email == options.email.strip().lower())
        if existing is not None:
            await record_of_operator("operator.admin_made", target=str(existing.id), now=utc_now())
            await existing.update({"$set": {"role": Role.ADMIN, "isActive": True, "updatedAt": utc_now()}})
            print(f"{existing.email} is an admin now; the password is unchanged")
            return
        password, is_ours = _new_password()
        if not await ensure_admin(options.email, password, PasswordHasher(), now=utc_now()):
            raise SettingsError(f"a user has {options.email} in another spelling: give that one")
        print(f"{options.email} is an admin now" + (f"; the password is {password}" if is_ours else ""))

    with_database(settings, create)
    return 0


def _new_password() -> tuple[str, bool]:
    """Return the password to use, and whether it was made up here."""
    if os.isatty(sys.stdin.fileno()):
        return getpass.getpass("Password for the new admin: "), False
    return secrets.token_urlsafe(18), True
