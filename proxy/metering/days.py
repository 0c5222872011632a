"""What all users together have used on each UTC day: summed from their roll-ups when somebody asks, and kept.

The roll-ups of all users for a month are hundreds of thousands of documents, which no answer can wait for. A day that
is over changes only by corrections, so its sum is kept for an hour, or for more the longer it is over; today's is
made anew every time, unless making it takes long: then a hundred times as long as that took. A sum is always made
from the beginning, so it does not matter who makes it, how often, or at the same time as somebody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pymongo.asynchronous.collection import AsyncCollection

from proxy.database import Database
from proxy.metering.rollups import AMOUNTS, ROLLUPS

DAYS = "usagesums"
NAMES = ("chat", "model", "provider")
"""What a day's use is summed by."""

TOP = 50
"""So many of a day's users are kept, those with the most tokens."""

_QUICK_MILLISECONDS = 20
_PATIENCE = 100
_HOUR_MILLISECONDS = 3_600_000

Day = Mapping[str, Any]


async def sums(database: Database, since: str) -> list[Day]:
    """Return what was used on every day from `since` (`YYYY-MM-DD`) on, oldest first; days without use are left out.

    A day's `_id` is its date, `NAMES` and `AMOUNTS` are the columns of its sums, and `topUsers` with `topTokens` those
    of its first users: BSON takes three times as long to decode as rows.
    """
    # A look at the index for each day; what lost workers leave is booked on a day of 1970, so that years may lie between.
    used = await database[ROLLUPS].distinct("day", {"day": {"$gte": since}})

    async def make(day: str) -> dict[str, Any]:
        return await _sum(database, day)

    return await kept(database[DAYS], sorted(used), make)


async def kept(
    collection: AsyncCollection[dict[str, Any]],
    days: Sequence[str],
    make: Callable[[str], Awaitable[dict[str, Any]]],
) -> list[Day]:
    """Return the documents of these days; `make` makes those that are not kept, or for too long."""
    if not days:
        return []
    span = {"$gte": min(days), "$lte": max(days)}
    fresh = collection.find({"_id": span, "$expr": {"$lt": ["$$NOW", "$until"]}})
    known: dict[str, Day] = {day["_id"]: day async for day in fresh}
    return [known.get(day) or await _make(collection, day, make) for day in days]


async def forget(collection: AsyncCollection[dict[str, Any]], days: Sequence[str]) -> None:
    """Let days be made anew when somebody asks, since what they sum has changed."""
    await collection.delete_many({"_id": {"$in": list(days)}})


async def _make(
    collection: AsyncCollection[dict[str, Any]], day: str, make: Callable[[str], Awaitable[dict[str, Any]]]
) -> Day:
    loop = asyncio.get_running_loop()
    began = loop.time()
    made = await make(day)
    milliseconds = round((loop.time() - began) * 1000)
    patience = 0 if milliseconds < _QUICK_MILLISECONDS else milliseconds * _PATIENCE
    age = {"$dateDiff": {"startDate": {"$toDate": day}, "endDate": "$$NOW", "unit": "day"}}
    kept_for = {"$max": [patience, {"$multiply": [age, _HOUR_MILLISECONDS]}]}
    # As literals: a model's name may begin with a dollar.
    values = {name: {"$literal": value} for name, value in made.items()}
    await collection.update_one(
        {"_id": day}, [{"$set": {**values, "until": {"$add": ["$$NOW", kept_for]}}}], upsert=True
    )
    return {"_id": day, **made}


async def _sum(database: Database, day: str) -> dict[str, Any]:
    amounts = {name: {"$sum": f"${name}"} for name in AMOUNTS}
    names = {name: f"${name}" for name in NAMES}
    stages: list[Mapping[str, Any]] = [
        {"$match": {"day": day}},
        {
            "$facet": {
                "rows": [{"$group": {"_id": names, **amounts}}],
                "top": [
                    {"$group": {"_id": "$userId", "tokens": {"$sum": {"$add": ["$prompt", "$completion"]}}}},
                    {"$sort": {"tokens": -1, "_id": 1}},
                    {"$limit": TOP},
                ],
            }
        },
    ]
    cursor = await database[ROLLUPS].aggregate(stages)
    (found,) = await cursor.to_list()
    rows, top = found["rows"], found["top"]
    return {
        **{name: [row["_id"][name] for row in rows] for name in NAMES},
        **{name: [row[name] for row in rows] for name in AMOUNTS},
        "topUsers": [user["_id"] for user in top],
        "topTokens": [user["tokens"] for user in top],
    }
