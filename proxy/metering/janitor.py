"""Throwing away what nobody needs any more: counters of windows long over, and the last traces of finished journals.

A window's counter is dropped an hour after it has ended, and only when nothing of it is leased or held: what may
still be counted in it has to find it. One process of all does it, once an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from proxy.core.rules import has_ended
from proxy.database import Database
from proxy.documents import ACCOUNTS

EVERY = timedelta(hours=1)
KEPT = timedelta(hours=1)
_TURNS = "turns"
_BATCH = 200


class Janitor:
    """The cleaning of all accounts."""

    def __init__(self, database: Database) -> None:
        """Clean this database."""
        self._accounts = database[ACCOUNTS]
        self._turns = database[_TURNS]

    async def take_turn(self, now: datetime) -> bool:
        """Say whether it is time to clean, and nobody else does."""
        try:
            await self._turns.update_one(
                {"_id": "janitor", "at": {"$lt": now - EVERY}}, {"$set": {"at": now}}, upsert=True
            )
        except DuplicateKeyError:
            return False
        return True

    async def drop_ended(self, now: datetime) -> int:
        """Drop the counters of windows that ended more than an hour ago; return how many there were."""
        dropped, after = 0, ""
        while True:
            found = self._accounts.find({"_id": {"$gt": after}}, {"c": 1, "js": 1, "j": 1})
            accounts = await found.sort("_id").limit(_BATCH).to_list()
            if not accounts:
                return dropped
            after = accounts[-1]["_id"]
            ended = {account["_id"]: _ended(account, now - KEPT) for account in accounts}
            commands = [_drop(account, names) for account in accounts if (names := ended[account["_id"]])]
            if commands:
                await self._accounts.bulk_write(commands, ordered=False)
                dropped += sum(map(len, ended.values()))


def _ended(account: Mapping[str, Any], moment: datetime) -> list[str]:
    """Return the counters of an account that were over at a moment, and of which nobody has anything."""
    entries = account.get("j", {}).values()
    leased = {
        counter for entry in entries for counter in entry.get("s", {})
    }  # also what a lost worker may correct
    return [
        counter
        for counter, found in account.get("c", {}).items()
        if counter not in leased and not found.get("l") and has_ended(counter, moment)
    ]


def _drop(account: Mapping[str, Any], counters: list[str]) -> UpdateOne:
    untouched = {f"c.{counter}.l": account["c"][counter].get("l") for counter in counters}
    return UpdateOne({"_id": account["_id"], **untouched}, {"$unset": {f"c.{name}": "" for name in counters}})
