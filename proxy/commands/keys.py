"""`keys create`: an API key for a user."""

from __future__ import annotations

import argparse

from admin_api.auth.emails import find_user
from admin_api.operator import record_of_operator
from admin_api.users.schemas import NewApiKey
from admin_api.users.service import create_api_key
from proxy.clock import utc_now
from proxy.commands.reporting import reporting
from proxy.commands.store import with_database
from proxy.database import Database
from proxy.settings import Settings, SettingsError

_MOST_KEYS = 1_000


@reporting
def run(settings: Settings, options: argparse.Namespace) -> int:
    """Make an API key for a user and print it."""

    async def create(_store: Database) -> None:
        user = await find_user(options.email)
        if user is None or user.id is None:
            raise SettingsError(f"no user has the e-mail {options.email}")
        wish = NewApiKey(name=options.name, expiresIn="never", allowedIps=options.allow_ip)
        secret, key = await create_api_key(user.id, wish, most=_MOST_KEYS, now=utc_now())
        await record_of_operator("operator.key_created", target=str(key.id), now=utc_now())
        print(secret)

    with_database(settings, create)
    return 0
