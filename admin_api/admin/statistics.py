"""The numbers of the admins' first page: tokens and costs are those of the usage events, and of nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pymongo
from beanie import PydanticObjectId
from bson import ObjectId

from admin_api.admin import activity
from admin_api.admin.activity import CHAT_MESSAGES, CHAT_SESSIONS
from admin_api.models.view import category_of
from admin_api.users.schemas import PERIODS
from proxy.database import Database
from proxy.documents import User
from proxy.gateway import Gateway
from proxy.metering import statistics
from proxy.metering.statistics import Selection, Used

_SECONDS = 20.0
_MOST = 10


async def collect(gateway: Gateway, period: str) -> dict[str, Any]:
    """Return the statistics of a period that ends now; what is called `total` counts from the beginning."""
    now = gateway.clock()
    since = now - timedelta(days=PERIODS[period])
    database = gateway.database
    with pymongo.timeout(_SECONDS):
        return {
            "users": await _users(database, since),
            "sessions": await _sessions(database, since),
            "messages": await _messages(database, since),
            "models": await _models(gateway, since),
            "recentActivity": await activity.recent(database),
        }


async def _users(database: Database, since: datetime) -> dict[str, Any]:
    users = User.get_pymongo_collection()
    top = await statistics.by_user(database, Selection(since=since), _MOST)
    known = await activity.names(
        database, [PydanticObjectId(user) for user, _ in top if ObjectId.is_valid(user)]
    )
    return {
        "total": await users.count_documents({}),
        "active": await users.count_documents({"stats.lastActive": {"$gte": since}}),
        "new": await users.count_documents({"createdAt": {"$gte": since}}),
        "byRole": await _counts(database, User.Settings.name, "$role"),
        # The events of a deleted account stay, without anybody's name.
        "topUsers": [
            {"_id": user, "name": None, "email": None, "role": None, **known.get(user, {}), **_use(used)}
            for user, used in top
        ],
    }


async def _sessions(database: Database, since: datetime) -> dict[str, Any]:
    sessions, chats = database[CHAT_SESSIONS], Selection(chat_only=True, since=since)
    used = await statistics.total(database, chats)
    length = {"$dateDiff": {"startDate": "$createdAt", "endDate": "$lastActivity", "unit": "millisecond"}}
    recent = {"createdAt": {"$gte": since}}
    averages = await sessions.aggregate(
        [{"$match": recent}, {"$group": {"_id": None, "milliseconds": {"$avg": length}}}]
    )
    average = await averages.to_list(1)
    return {
        "total": await sessions.count_documents({}),
        "recent": await sessions.count_documents(recent),
        "avgDuration": (average[0]["milliseconds"] if average else None) or 0,
        "totalTokens": used.tokens,
        "totalCost": _cost(used),
        "byModel": await _by_model(database, chats),
    }


async def _messages(database: Database, since: datetime) -> dict[str, Any]:
    messages, recent = database[CHAT_MESSAGES], {"createdAt": {"$gte": since}}
    day = {"$dateToString": {"date": "$createdAt", "format": "%Y-%m-%d"}}
    per_day = {row["_id"]: row["count"] for row in await _counts(database, CHAT_MESSAGES, day, recent)}
    tokens = {day: used.tokens for day, used in await statistics.by_day(database, _chats(since))}
    used = await statistics.total(database, _chats(since))
    return {
        "total": await messages.count_documents({}),
        "recent": sum(per_day.values()),
        "avgTokens": used.tokens / used.requests if used.requests else 0,
        "byRole": await _counts(database, CHAT_MESSAGES, "$role"),
        "dailyActivity": [
            {"date": day, "messages": per_day.get(day, 0), "tokens": tokens.get(day, 0)}
            for day in sorted({*per_day, *tokens})
        ],
    }


async def _models(gateway: Gateway, since: datetime) -> dict[str, Any]:
    entries = list(gateway.catalog.current.all())
    return {
        "total": len(entries),
        "byProvider": _counted(entry.provider for entry in entries),
        "byCategory": _counted(category_of(entry.info) for entry in entries),
        "mostUsed": await _by_model(gateway.database, Selection(since=since)),
    }


async def _by_model(database: Database, selection: Selection) -> list[dict[str, Any]]:
    rows = await statistics.by_model(database, selection)
    return [{"modelId": model, "provider": provider, **_use(used)} for model, provider, used in rows[:_MOST]]


async def _counts(
    database: Database, collection: str, key: Any, match: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = [
        {"$match": match or {}},
        {"$group": {"_id": key, "count": {"$sum": 1}}},
        {"$sort": {"count": -1, "_id": 1}},
    ]
    return await (await database[collection].aggregate(stages)).to_list()


def _counted(names: Iterable[str]) -> list[dict[str, Any]]:
    return [{"_id": name, "count": count} for name, count in Counter(names).most_common()]


def _chats(since: datetime) -> Selection:
    return Selection(chat_only=True, since=since)


def _use(used: Used) -> dict[str, Any]:
    return {"requests": used.requests, "tokensUsed": used.tokens, "totalCost": _cost(used)}


def _cost(used: Used) -> dict[str, float]:
    return {"usd": float(used.cost_usd), "inr": float(used.cost_inr)}
