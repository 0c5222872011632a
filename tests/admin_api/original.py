"""A database as the original AI Pasta backend leaves it: mongoose's collections, field names and indexes.

It has two chats that are there, one whose session the 30-day rule has deleted, and a model of the short cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import bcrypt
from bson import ObjectId
from pymongo import IndexModel
from pymongo.asynchronous.database import AsyncDatabase

BORN = datetime(2025, 9, 1, 8, 30, tzinfo=UTC)
PASSWORD = "Correct1horse!"
ASHA, ROOT, GOOGLER = ObjectId(), ObjectId(), ObjectId()
CHAT, QUIET = ObjectId(), ObjectId()
CHAT_NAME, QUIET_NAME, LOST_NAME = (f"chat_{1757000000000 + number}_k3j5h{number}2lq" for number in range(3))
SECOND = timedelta(seconds=1)

INDEXES: dict[str, list[tuple[dict[str, int], dict[str, Any]]]] = {
    "users": [({"email": 1}, {"unique": True}), ({"createdAt": 1}, {}), ({"lastLoginAt": 1}, {})],
    "chatsessions": [
        ({"userId": 1, "createdAt": -1}, {}),
        ({"sessionId": 1}, {}),
        ({"lastMessageAt": -1}, {}),
        ({"expiresAt": 1}, {"expireAfterSeconds": 0}),
    ],
    "chatmessages": [
        ({"sessionId": 1, "createdAt": 1}, {}),
        ({"userId": 1, "createdAt": -1}, {}),
        ({"messageId": 1}, {"unique": True}),
        ({"role": 1}, {}),
        ({"model.provider": 1}, {}),
        ({"status": 1}, {}),
    ],
    "aimodels": [
        ({"modelId": 1}, {"unique": True}),
        ({"provider": 1}, {}),
        ({"metadata.popularity.usage": -1}, {}),
        ({"cacheExpiry": 1}, {"expireAfterSeconds": 0}),
    ],
    "plans": [({"name": 1}, {"unique": True})],
}


@dataclass(frozen=True)
class Original:
    """What was written."""

    messages: int
    model: str


async def write_original(
    database: AsyncDatabase[dict[str, Any]], model: str, *, far: datetime, turns: int = 2
) -> Original:
    """Write the database in the place of whatever is there.

    `far` is when its chats and models expire, `turns` the exchanges of the first chat.
    """
    await database.client.drop_database(database.name)
    for collection, indexes in INDEXES.items():
        await database[collection].create_indexes(
            [IndexModel(list(keys.items()), **options) for keys, options in indexes]
        )
    await database["users"].insert_many([_asha(), _root(), _googler()])
    await database["chatsessions"].insert_many(
        [_session(CHAT, CHAT_NAME, model, turns, far), _session(QUIET, QUIET_NAME, None, 0, far)]
    )
    messages = [
        *_exchanges(CHAT_NAME, model, turns),
        *_exchanges(LOST_NAME, model, 1, first=1_000_000),
    ]
    await database["chatmessages"].insert_many(messages)
    await database["aimodels"].insert_one(_model(model, far))
    await database["plans"].insert_one({"name": "Pro", "priceINR": 499})
    return Original(len(messages), model)


def _user(user_id: ObjectId, name: str, email: str, **fields: Any) -> dict[str, Any]:
    return {
        "_id": user_id,
        "email": email,
        "passwordChangedAt": BORN,
        "name": name,
        "avatar": None,
        "authProvider": "local",
        "role": "user",
        "isActive": True,
        "preferences": {"theme": "dark", "defaultModels": [], "language": "en"},
        "usage": {"totalRequests": 4, "totalTokens": 0, "totalCost": 0},
        "tokens": {
            "balance": 9_996,
            "freeTokens": 9_996,
            "paidTokens": 0,
            "totalUsed": 4,
            "transactions": [{"id": "1", "type": "deduct", "amount": 1, "timestamp": BORN}],
        },
        "currentPlan": None,
        "planHistory": [],
        "credits": 9_996,
        "subscription": {"plan": "free", "limits": {"requestsPerDay": 50, "tokensPerMonth": 10_000}},
        "stats": {
            "messagesGenerated": 4,
            "tokensUsed": 3_004,
            "totalCost": {"usd": 0.02, "inr": 1.66},
            "lastActive": BORN,
            "loginCount": 3,
        },
        "createdAt": BORN,
        "updatedAt": BORN,
        "__v": 4,
        **fields,
    }


def _asha() -> dict[str, Any]:
    return _user(ASHA, "Asha", "asha@example.com", password=hashed(PASSWORD))


def _root() -> dict[str, Any]:
    limits = {"requestsPerDay": 120, "tokensPerMonth": 10_000}
    return _user(
        ROOT,
        "Admin User",
        "root@example.com",
        password=hashed(PASSWORD),
        role="admin",
        subscription={"plan": "pro", "limits": limits},
    )


def _googler() -> dict[str, Any]:
    tokens = {
        "balance": 1_000_000,
        "freeTokens": 0,
        "paidTokens": 1_000_000,
        "totalUsed": 0,
        "transactions": [],
    }
    user = _user(GOOGLER, "Gopal", "gopal@example.com", authProvider="google", tokens=tokens)
    del user["preferences"], user["stats"]  # written before these fields were thought of
    return user


def hashed(password: str) -> str:
    """Hash as bcryptjs does, though not for as long."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4, prefix=b"2a")).decode()


def _session(session_id: ObjectId, name: str, model: str | None, turns: int, far: datetime) -> dict[str, Any]:
    return {
        "_id": session_id,
        "sessionId": name,
        "userId": ASHA,
        "title": "What is a monad?" if turns else "New Chat",
        "isActive": True,
        "messageCount": 2 * turns,
        "totalTokens": 3_000 * turns,
        "totalCost": 0.005 * turns,
        "models": [{"_id": ObjectId(), "id": model, "name": "GPT", "provider": "OpenRouter", "usageCount": 1}]
        if model
        else [],
        "metadata": {"userAgent": "Mozilla/5.0", "ipAddress": "::1"},
        "lastMessageAt": BORN + 2 * turns * SECOND,
        "expiresAt": far,
        "createdAt": BORN,
        "updatedAt": BORN + 2 * turns * SECOND,
        "__v": 0,
    }


def _exchanges(session: str, model: str, turns: int, *, first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "_id": ObjectId(),
            "sessionId": session,
            "userId": ASHA,
            "messageId": f"msg_{first + number}",
            "role": role,
            "content": f"{role} {number} $in {session}",
            "model": {"id": model, "name": "GPT", "provider": "OpenRouter"} if role == "assistant" else None,
            "attachments": [],
            "usage": {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0},
            "cost": {"inputCost": 0, "outputCost": 0, "imageCost": 0, "totalCost": 0, "currency": "USD"},
            "responseTime": 0,
            "status": "completed",
            "createdAt": BORN + (first + number) * SECOND,
            "updatedAt": BORN + (first + number) * SECOND,
            "__v": 0,
        }
        for number, role in enumerate(("user", "assistant") * turns)
    ]


def _model(model: str, far: datetime) -> dict[str, Any]:
    return {
        "_id": ObjectId(),
        "modelId": model,
        "name": "GPT",
        "provider": "OpenRouter",
        "category": "text-only",
        "capabilities": {"text": True},
        "pricing": {"input": 0.0000025, "output": 0.00001, "image": 0, "audio": 0},
        "limits": {"maxTokens": 4_096, "contextLength": 4_096},
        "metadata": {"popularity": {"usage": 12}},
        "status": "active",
        "isAvailable": True,
        "isFree": False,
        "lastUpdated": BORN,
        "cacheExpiry": far,
        "__v": 0,
    }
