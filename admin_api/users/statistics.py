"""A user's statistics: tokens and cost from his usage events, conversations from what is stored of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from beanie import PydanticObjectId

from admin_api.chat.documents import ChatMessage, ChatSession
from admin_api.users.schemas import PERIODS
from proxy.core.limits import day_ends, month_ends
from proxy.documents import User
from proxy.gateway import Gateway
from proxy.metering import statistics
from proxy.metering.statistics import Selection, Used


async def describe_use(
    user: User, user_id: PydanticObjectId, period: str, gateway: Gateway
) -> dict[str, Any]:
    """Sum what a user has used in a period that ends now and begins with a UTC day: in all, by model and by day."""
    now = gateway.clock()
    since = (now - timedelta(days=PERIODS[period])).replace(hour=0, minute=0, second=0, microsecond=0)
    selection = Selection(user_id=str(user_id), since=since)
    total = await statistics.total(gateway.database, selection)
    chats = await statistics.total(gateway.database, replace(selection, chat_only=True))
    models = await statistics.by_model(gateway.database, selection)
    days = dict(await statistics.by_day(gateway.database, selection))
    messages = await _messages_by_day(user_id, since)
    sessions = await _active_sessions(user_id, since)
    return {
        "period": period,
        "overview": _overview(total, chats, sessions, sum(messages.values())),
        "modelUsage": [_of_model(gateway, *row) for row in models],
        "dailyUsage": [
            _of_day(day, days.get(day, Used()), messages.get(day, 0)) for day in sorted({*days, *messages})
        ],
        "limits": await _limits(user, gateway, now),
    }


def _overview(used: Used, chats: Used, sessions: int, messages: int) -> dict[str, Any]:
    return {
        "totalSessions": sessions,
        "totalMessages": messages,
        "totalRequests": used.requests,
        "totalTokens": used.tokens,
        "promptTokens": used.prompt_tokens,
        "completionTokens": used.completion_tokens,
        "totalCostUSD": float(used.cost_usd),
        "totalCostINR": float(used.cost_inr),
        "avgTokensPerSession": chats.tokens / sessions if sessions else 0,
        "avgMessagesPerSession": messages / sessions if sessions else 0,
    }


def _of_model(gateway: Gateway, model: str, provider: str, used: Used) -> dict[str, Any]:
    entry = gateway.catalog.current.entries.get(provider, {}).get(model)
    return {
        "modelId": model,
        "modelName": model if entry is None else entry.info.name,
        "provider": provider,
        "count": used.requests,
        "totalTokens": used.tokens,
        "totalCost": float(used.cost_usd),
        "totalCostINR": float(used.cost_inr),
        "avgTokensPerMessage": used.tokens / used.requests if used.requests else 0,
    }


def _of_day(day: str, used: Used, messages: int) -> dict[str, Any]:
    return {
        "date": day,
        "messages": messages,
        "requests": used.requests,
        "tokens": used.tokens,
        "cost": float(used.cost_usd),
        "costINR": float(used.cost_inr),
    }


async def _limits(user: User, gateway: Gateway, now: datetime) -> dict[str, Any]:
    """Say what the user may use, what he has used of it, what is left and when it renews."""
    limits = gateway.authenticator.limits_of(user)
    standing = await gateway.meter.standing(str(user.id), now)
    may = (limits.daily_requests, limits.monthly_requests, limits.monthly_tokens)
    used = (standing.daily_requests, standing.monthly_requests, standing.monthly_tokens)
    names = ("daily", "monthly", "tokens")
    left = (max(0, limit - taken) for limit, taken in zip(may, used, strict=True))
    renewals = (day_ends(now), month_ends(now), month_ends(now))
    return {
        **dict(zip(names, may, strict=True)),
        "used": dict(zip(names, used, strict=True)),
        "remaining": dict(zip(names, left, strict=True)),
        "renewsAt": dict(zip(names, renewals, strict=True)),
    }


async def _messages_by_day(user_id: PydanticObjectId, since: datetime) -> dict[str, int]:
    day = {"$dateToString": {"date": "$createdAt", "format": "%Y-%m-%d"}}
    cursor = await ChatMessage.get_pymongo_collection().aggregate(
        [
            {"$match": {"userId": user_id, "createdAt": {"$gte": since}}},
            {"$group": {"_id": day, "messages": {"$sum": 1}}},
        ]
    )
    return {str(row["_id"]): int(row["messages"]) async for row in cursor}


async def _active_sessions(user_id: PydanticObjectId, since: datetime) -> int:
    sessions = ChatSession.get_pymongo_collection()
    return await sessions.count_documents({"userId": user_id, "lastActivity": {"$gte": since}})
