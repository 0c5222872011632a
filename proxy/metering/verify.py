"""Checking the books: every counter against the sum of its events, every lease against who holds it.

An account and its events are read in one snapshot where the database has them, and events that the account has
not counted yet are left out, so that the drift is 0 under load too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pymongo
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure

from proxy.database import Database
from proxy.documents import ACCOUNTS, EVENTS
from proxy.metering.accounts import booked_of

_MOST_DRIFTS = 1_000
_SECONDS = 60
_SNAPSHOT_UNAVAILABLE = 246
_MOST_ATTEMPTS, _PAUSE_SECONDS = 20, 0.1


@dataclass(frozen=True, slots=True)
class Drift:
    """One counter that is not what its events, or its holders, say. `what` is `used` or `held`."""

    user_id: str
    counter: str
    what: str
    counted: int
    expected: int


@dataclass(slots=True)
class Report:
    """What a check has found; `open_holds` counts who holds something: single requests, and workers by account."""

    accounts: int = 0
    events: int = 0
    open_holds: int = 0
    drifts: list[Drift] = field(default_factory=list)

    @property
    def drift(self) -> int:
        """Return the number of counters that are wrong."""
        return len(self.drifts)


async def account_ids(database: Database, *, after: str | None, most: int) -> list[str]:
    """Return the ids of at most so many accounts, in order, behind a given one."""
    chosen = {} if after is None else {"_id": {"$gt": after}}
    return [
        str(account["_id"])
        async for account in database[ACCOUNTS].find(chosen, {"_id": 1}).sort("_id").limit(most)
    ]


async def verify(database: Database, user_ids: Sequence[str] | None = None) -> Report:
    """Check every account, or some; raises `PyMongoError`."""
    report = Report()
    chosen = {} if user_ids is None else {"_id": {"$in": list(user_ids)}}
    ids = [account["_id"] async for account in database[ACCOUNTS].find(chosen, {"_id": 1})]
    at_once = await _has_snapshots(database)
    for user_id in ids:
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            try:
                async with _reading(database, at_once=at_once) as session:
                    await _check(database, str(user_id), report, session)
                break
            except OperationFailure as exc:
                # The server asks to be asked again: a collection was being made or indexed at that moment.
                if exc.code != _SNAPSHOT_UNAVAILABLE or attempt == _MOST_ATTEMPTS:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
    return report


async def _check(
    database: Database, user_id: str, report: Report, session: AsyncClientSession | None
) -> None:
    account = await database[ACCOUNTS].find_one({"_id": user_id}, session=session)
    if account is None:
        return
    sums, events = await _sums(database, account, session)
    for entry in account.get("j", {}).values():
        # The event of a lost worker is left out with the rest of its journal, so that it may come a moment later.
        if entry.get("lost"):
            for counter, amount in booked_of(entry).items():
                sums[counter] = sums.get(counter, 0) + amount
    held = _held(account)
    report.accounts += 1
    report.events += events
    report.open_holds += len(account.get("h", ()))
    report.open_holds += sum(any(entry.get("s", {}).values()) for entry in account.get("j", {}).values())
    for counter, found in account.get("c", {}).items():
        for what, counted, expected in (
            ("used", int(found.get("u", 0)), sums.get(counter, 0)),
            ("held", int(found.get("l", 0)), held.get(counter, 0)),
        ):
            if counted != expected and len(report.drifts) < _MOST_DRIFTS:
                report.drifts.append(Drift(user_id, counter, what, counted, expected))


async def _sums(
    database: Database, account: Mapping[str, Any], session: AsyncClientSession | None
) -> tuple[dict[str, int], int]:
    """Sum the events of an account that it has counted, by counter."""
    uncounted: list[Mapping[str, Any]] = [{"_id": {"$in": [hold["_id"] for hold in account.get("h", ())]}}]
    for journal, entry in account.get("j", {}).items():
        uncounted.append({"journal": journal, "offset": {"$gte": entry["thru"]}})
    stages: list[Mapping[str, Any]] = [
        {"$match": {"userId": account["_id"], "$nor": uncounted}},
        {
            "$facet": {
                "count": [{"$count": "n"}],
                "sums": [
                    {"$project": {"windows": {"$objectToArray": "$windows"}}},
                    {"$unwind": "$windows"},
                    {"$group": {"_id": "$windows.k", "sum": {"$sum": "$windows.v"}}},
                ],
            }
        },
    ]
    with pymongo.timeout(_SECONDS):
        cursor = await database[EVENTS].aggregate(stages, session=session)
        (found,) = await cursor.to_list()
    count = found["count"][0]["n"] if found["count"] else 0
    return {row["_id"]: int(row["sum"]) for row in found["sums"]}, count


def _held(account: Mapping[str, Any]) -> dict[str, int]:
    """Sum what is leased by journals that live, and what single requests hold, by counter."""
    holders = [entry.get("s", {}) for entry in account.get("j", {}).values() if not entry.get("lost")]
    holders += [hold["s"] for hold in account.get("h", ())]
    held: dict[str, int] = {}
    for holder in holders:
        for counter, amount in holder.items():
            held[counter] = held.get(counter, 0) + int(amount)
    return held


async def _has_snapshots(database: Database) -> bool:
    hello = await database.command("hello")
    return "setName" in hello or hello.get("msg") == "isdbgrid"


@asynccontextmanager
async def _reading(database: Database, *, at_once: bool) -> AsyncIterator[AsyncClientSession | None]:
    """Read at one point in time, where the server can (a standalone one cannot)."""
    if not at_once:
        yield None
        return
    async with database.client.start_session(snapshot=True) as session:
        yield session
