"""How a user and his keys look from outside."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from beanie import PydanticObjectId

from admin_api.users.service import list_api_keys
from proxy.documents import ApiKeyDocument, User
from proxy.gateway import Gateway
from proxy.metering.contract import Standing


async def view_user(user: User, gateway: Gateway) -> dict[str, Any]:
    """Render a user with what he has used and what is left; never with a password."""
    (view,) = await view_users([user], gateway)
    return view


async def view_users(users: Sequence[User], gateway: Gateway) -> list[dict[str, Any]]:
    """Render users likewise, with two queries however many they are."""
    ids = [PydanticObjectId(user.id) for user in users]
    standings = await gateway.meter.standings([str(user_id) for user_id in ids], gateway.clock())
    keys = await list_api_keys(ids)
    return [
        _view(user, gateway, standings[str(user_id)], keys.get(user_id, []))
        for user, user_id in zip(users, ids, strict=True)
    ]


def _view(user: User, gateway: Gateway, standing: Standing, keys: Sequence[ApiKeyDocument]) -> dict[str, Any]:
    limits = gateway.authenticator.limits_of(user)
    requests_left = max(
        0,
        min(
            limits.daily_requests - standing.daily_requests,
            limits.monthly_requests - standing.monthly_requests,
        ),
    )
    tokens_left = max(0, limits.monthly_tokens - standing.monthly_tokens)
    return {
        "_id": str(user.id),
        "id": str(user.id),
        "name": user.name,
        "email": user.email,
        "role": user.role,
        "isActive": user.isActive,
        "bio": user.bio,
        "preferences": user.preferences.model_dump(),
        "usageLimits": {
            "dailyRequests": limits.daily_requests,
            "monthlyRequests": limits.monthly_requests,
            "monthlyTokens": limits.monthly_tokens,
        },
        "stats": {
            "messagesGenerated": standing.requests,
            "tokensUsed": standing.tokens,
            "totalCost": {"usd": float(standing.cost_usd), "inr": float(standing.cost_inr)},
            "lastActive": user.stats.lastActive,
            "loginCount": user.stats.loginCount,
        },
        "apiKeys": [view_api_key(key) for key in keys],
        "credits": requests_left,
        "tokens": {"balance": tokens_left, "used": standing.monthly_tokens},
        "createdAt": user.createdAt,
        "updatedAt": user.updatedAt,
    }


def view_api_key(key: ApiKeyDocument) -> dict[str, Any]:
    """Render a key without what could be used in its place."""
    return {
        "id": str(key.id),
        "name": key.name,
        "prefix": "aipasta_",
        "lastFour": key.lastFour,
        "permissions": key.permissions,
        "allowedModels": key.allowedModels,
        "allowedIps": key.allowedIps,
        "dailyBudget": _dollars(key.dailyBudget),
        "weeklyBudget": _dollars(key.weeklyBudget),
        "monthlyBudget": _dollars(key.monthlyBudget),
        "totalBudget": _dollars(key.totalBudget),
        "requestsPerMinute": key.requestsPerMinute,
        "tokensPerMinute": key.tokensPerMinute,
        "concurrentRequests": key.concurrentRequests,
        "onDisconnect": key.onDisconnect,
        "expiresAt": key.expiresAt,
        "lastUsed": key.lastUsed,
        "isActive": key.isActive,
        "createdAt": key.createdAt,
    }


def _dollars(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)
