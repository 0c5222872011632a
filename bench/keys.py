"""Callers for a benchmark: users with the widest limits, and a key with a budget for each."""

from __future__ import annotations

from datetime import UTC, datetime

from bson import ObjectId
from bson.decimal128 import Decimal128

from proxy import database, security

PLENTY = {"dailyRequests": 10**8, "monthlyRequests": 10**9, "monthlyTokens": 10**12}
BUDGET = Decimal128("1000000")


async def add_keys(uri: str, count: int) -> list[str]:
    """Put so many users, each with a key, into the database, and return the keys."""
    now = datetime.now(UTC)
    client = database.connect(uri)
    store = database.database_of(client, "aipasta")
    users, keys, secrets = [], [], []
    for number in range(count):
        made = security.new_api_key()
        secrets.append(made.secret)
        user = {
            "_id": ObjectId(),
            "name": f"Bench {number}",
            "email": f"bench{number}-{made.last_four}@example.com",
            "role": "premium",
            "isActive": True,
            "usageLimits": PLENTY,
            "createdAt": now,
            "updatedAt": now,
        }
        key = {
            "_id": ObjectId(),
            "userId": user["_id"],
            "name": "bench",
            "digest": made.digest,
            "lastFour": made.last_four,
            "permissions": ["chat", "models"],
            "monthlyBudget": BUDGET,
            "isActive": True,
            "createdAt": now,
        }
        users.append(user)
        keys.append(key)
    try:
        await store["users"].insert_many(users)
        await store["apikeys"].insert_many(keys)
    finally:
        await client.close()
    return secrets
