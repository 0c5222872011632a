"""The numbers of the admins' first page: tokens and costs are those of the usage events, and of nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import pymongo
from beanie import PydanticObjectId
from bson import ObjectId

from admin_api.admin import activity
from admin_api.admin.activity import CHAT_SESSIONS
from admin_api.chat.message_days import messages_by_day
from admin_api.models.view import category_of
from admin_api.users.schemas import PERIODS
from proxy.database import Database
from proxy.documents import User
from proxy.gateway import Gateway
from proxy.metering import statistics
from proxy.metering.statistics import Everybody, Used

_SECONDS = 20.0
_MOST = 10


async def collect(gateway: Gateway, period: str) -> dict[str, Any]:
    """Return the statistics of a period that ends now; what is called `total` counts from the beginning."""
    now = gateway.clock()
    since = now - timedelta(days=PERIODS[period])
    database = gateway.database
    with pymongo.timeout(_SECONDS):
        used = await statistics.everybody(database, since)
        return {
            "users": await _users(database, since, used),
            "sessions": await _sessions(database, since, used),
            "messages": await _messages(since, used),
            "models": _models(gateway, used),
            "recentActivity": await activity.recent(database),
        }


async def _users(database: Database, since: datetime, used: Everybody) -> dict[str, Any]:
    users = User.get_pymongo_collection()
    top = await statistics.by_user(database, since, used, _MOST)
    known = await activity.names(
        database, [PydanticObjectId(user) for user, _ in top if ObjectId.is_valid(user)]
    )
    return {
        "total": await users.estimated_document_count(),
        "active": await users.count_documents({"stats.lastActive": {"$gte": since}}),
        "new": await users.count_documents({"createdAt": {"$gte": since}}),
        "byRole": await _by_role(database),
        # The events of a deleted account stay, without anybody's name.
        "topUsers": [
            {"_id": user, "name": None, "email": None, "role": None, **known.get(user, {}), **_use(own)}
            for user, own in top
        ],
    }


async def _sessions(database: Database, since: datetime, used: Everybody) -> dict[str, Any]:
    sessions, chats = database[CHAT_SESSIONS], used.total(chat_only=True)
    # In milliseconds; a third of the CPU that $dateDiff takes, which minds the calendar.
    length = {"$subtract": ["$lastActivity", "$createdAt"]}
    sums = {"_id": None, "sessions": {"$sum": 1}, "milliseconds": {"$avg": length}}
    grouped = await sessions.aggregate([{"$match": {"createdAt": {"$gte": since}}}, {"$group": sums}])
    recent = (await grouped.to_list(1) or [{"sessions": 0, "milliseconds": 0}])[0]
    return {
        "total": await sessions.estimated_document_count(),
        "recent": recent["sessions"],
        "avgDuration": recent["milliseconds"] or 0,
        "totalTokens": chats.tokens,
        "totalCost": _cost(chats),
        "byModel": _view_models(used.by_model(chat_only=True)),
    }


async def _messages(since: datetime, used: Everybody) -> dict[str, Any]:
    by_role: Counter[str] = Counter()
    per_day: Counter[str] = Counter()
    for day in await messages_by_day():
        by_role.update(day["roles"])
        if day["_id"] >= since.date().isoformat():
            per_day[day["_id"]] = sum(day["roles"].values())
    tokens = {day: chats.tokens for day, chats in used.by_day(chat_only=True)}
    chats = used.total(chat_only=True)
    return {
        "total": sum(by_role.values()),
        "recent": sum(per_day.values()),
        "avgTokens": chats.tokens / chats.requests if chats.requests else 0,
        "byRole": [
            {"_id": role, "count": by_role[role]}
            for role in sorted(by_role, key=lambda role: (-by_role[role], role))
        ],
        "dailyActivity": [
            {"date": day, "messages": per_day[day], "tokens": tokens.get(day, 0)}
            for day in sorted({*per_day, *tokens})
        ],
    }


def _models(gateway: Gateway, used: Everybody) -> dict[str, Any]:
    entries = list(gateway.catalog.current.all())
    return {
        "total": len(entries),
        "byProvider": _counted(entry.provider for entry in entries),
        "byCategory": _counted(category_of(entry.info) for entry in entries),
        "mostUsed": _view_models(used.by_model()),
    }


def _view_models(rows: Sequence[tuple[str, str, Used]]) -> list[dict[str, Any]]:
    return [{"modelId": model, "provider": provider, **_use(used)} for model, provider, used in rows[:_MOST]]


async def _by_role(database: Database) -> list[dict[str, Any]]:
    """Count the users of each role, one role after the other: `$group` takes four times as long over ten thousand."""
    users = database[User.Settings.name]
    counts = {role: await users.count_documents({"role": role}) for role in await users.distinct("role")}
    return [{"_id": role, "count": count} for role, count in Counter(counts).most_common()]


def _counted(names: Iterable[str]) -> list[dict[str, Any]]:
    return [{"_id": name, "count": count} for name, count in Counter(names).most_common()]


def _use(used: Used) -> dict[str, Any]:
    return {"requests": used.requests, "tokensUsed": used.tokens, "totalCost": _cost(used)}


def _cost(used: Used) -> dict[str, float]:
    return {"usd": float(used.cost_usd), "inr": float(used.cost_inr)}
